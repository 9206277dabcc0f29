"""The schema of the records and its migrations, which Alembic applies; one transaction each time, one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg

from service.errors import ConfigError
from service.jobs.postgres.database import Connection, Database, place_of

#: The migration that this version of the service works with; the last one in ``migrations/versions``.
HEAD: Final = "0002"
TABLE: Final = "intake_migrations"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x696E74616B65  #: "intake": an advisory lock, so that two migrations follow each other


def opened(url: str, *, durable: bool = True, size: int | None = None) -> Database:
    """Connect to a database that has the schema of this version. Raises ConfigError for any other, and what ``Database`` does."""
    database = Database(url, durable=durable) if size is None else Database(url, durable=durable, size=size)
    database.open()
    with database.connect() as connection:
        problem = complaint(current(connection))
    if problem:
        database.close()
        raise ConfigError(f"INTAKE_RECORDS ({database.place}): {problem}")
    return database


def current(connection: Connection) -> str | None:
    """Return the migration the database is at; None for one that was never migrated."""
    ((exists,),) = connection.execute("select to_regclass(%s) is not null", [TABLE]).fetchall()
    if not exists:
        return None
    rows = connection.execute("select version_num from intake_migrations").fetchall()
    return str(rows[0][0]) if rows else None


def complaint(found: str | None) -> str | None:
    """Say what is to be done about a database at the migration ``found``; None where it is the right one."""
    if found == HEAD:
        return None
    if found is not None and found > HEAD:
        newer = f"its schema ({found}) is newer than this version of the service ({HEAD})"
        return f"{newer}; run the version that migrated it, or a newer one"
    has = f"is at {found}" if found else "has no tables yet"
    return f"the database {has} and the service needs {HEAD}; run `intake migrate`"


def migrate(url: str, *, check: bool = False) -> tuple[str | None, str]:
    """Bring the database up to ``HEAD`` and return where it was, and that; with ``check`` change nothing.

    Raises ConfigError where it cannot be reached, or is newer than this version of the service.
    """
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            connection.execute("select pg_advisory_lock(%s)", [_LOCK])
            before = current(connection)
            if before is not None and before > HEAD:
                raise ConfigError(f"INTAKE_RECORDS ({place_of(url)}): {complaint(before)}")
            if not check and before != HEAD:
                _upgrade(connection)
            return before, HEAD
    except psycopg.Error as error:
        raise ConfigError(f"INTAKE_RECORDS ({place_of(url)}): {str(error).strip()}") from error


def _upgrade(connection: Connection) -> None:
    """Run the migrations in the transaction of ``connection``."""
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.pool.StaticPool
    )
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes |= {"engine": engine, "table": TABLE}
    command.upgrade(config, HEAD)
