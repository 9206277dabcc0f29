"""What Alembic runs: the migrations that are missing, in the transaction of whoever asked for them."""

from __future__ import annotations

from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, version_table=context.config.attributes["table"])
    with context.begin_transaction():
        context.run_migrations()
