"""Tokens, what they have used, the key of links and those that were used, and endpoints: what machines must share beside jobs."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_TABLES = """
create table tokens (id text primary key, token text not null);        -- as a line of JSON, without the secret
create table used (token text primary key, day text not null default '', jobs bigint not null default 0,
  bytes bigint not null default 0);
create table link_key (one boolean primary key default true check (one), key text not null);
create table spent_links (link text primary key, until timestamptz not null);
create table endpoints (id text primary key, endpoint text not null);  -- as a line of JSON, with the secrets that sign
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(_TABLES)
