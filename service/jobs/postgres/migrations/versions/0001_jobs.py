"""Jobs with what they are found by, their labels, their progress, keys, holds and sums."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_TABLES = """
create table jobs (
  id uuid primary key,
  record bytea,                            -- the job as one line of JSON; null when it is deleted or lost
  version integer not null default 0,
  status text, media_type text, pipeline text, sha256 text, owner text,  -- as the record says
  expires_at timestamptz,
  due_at timestamptz,                      -- from when a queued job may be run
  pending boolean not null default true,   -- not done, or deleted and its bytes may be there
  aside boolean not null default false,    -- its record cannot be read
  deleted boolean not null default false,  -- its bytes may be there
  unsent boolean not null default false,   -- something waits to be delivered
  dead boolean not null default false,     -- something was given up
  gone_at timestamptz,                     -- when it expired: the row is a tombstone
  counted integer not null default 0       -- the last attempt that is in the tallies
) with (fillfactor = 80);
create index jobs_status on jobs (status, id);
create index jobs_media_type on jobs (media_type, id);
create index jobs_pipeline on jobs (pipeline, id);
create index jobs_owner on jobs (owner, id) where owner is not null;
create index jobs_sha256 on jobs using hash (sha256);
create index jobs_pending on jobs (id) where pending;
create index jobs_active on jobs (owner) where status in ('queued', 'running');
create index jobs_due on jobs (due_at) where due_at is not null;
create index jobs_expires on jobs (expires_at) where expires_at is not null;
create index jobs_unsent on jobs (id) where unsent;
create index jobs_dead on jobs (id) where dead;
create index jobs_aside on jobs (id) where aside;
create index jobs_gone on jobs (gone_at) where gone_at is not null;

create table labels (key text, value text, job uuid references jobs on delete cascade, primary key (key, value, job));
create index labels_job on labels (job);
create statistics labels_together (dependencies, mcv) on key, value from labels;

-- Progress and holds are written often and need not outlast a crash of the server.
create unlogged table progress (job uuid primary key, version integer not null, overlay bytea not null) with (fillfactor = 50);
create table holds (name text primary key, token uuid not null, until timestamptz not null) with (fillfactor = 50);

create table keys (scope text primary key, job uuid not null, bound_at timestamptz not null);
create index keys_bound on keys (bound_at);

-- Sums are added as rows, so that writers do not wait for each other, and folded now and then.
create table tallies (metric text not null, labels text not null, bucket integer not null, count bigint not null,
  total double precision not null);

-- Changes of statuses; their numbers are given when they are first asked for, in the order in which all see them.
create table moves (seq bigserial primary key, number bigint unique, job uuid not null, version integer not null);
create index moves_new on moves (seq) where number is null;

create table bindings (name text primary key, value text not null);  -- what these records belong to
"""


_JOURNAL = "insert into bindings values ('journal', left(md5(gen_random_uuid()::text), 8))"


def upgrade() -> None:
    """Make the tables."""
    op.execute(_TABLES)
    op.execute(_JOURNAL)
