"""The statements about one job."""

from __future__ import annotations

from typing import Final

GET: Final = """
select jobs.record, progress.overlay, jobs.aside, jobs.gone_at is not null, jobs.status, jobs.counted, jobs.pending
from jobs left join progress on progress.job = jobs.id where jobs.id = %s
"""
MARKS: Final = """
select jobs.id::text, jobs.xmin::text, progress.version from jobs left join progress on progress.job = jobs.id
where jobs.id = any(%s::uuid[])
"""
NOTE: Final = """
insert into progress (job, version, overlay) values (%s, %s, %s)
on conflict (job) do update set version = excluded.version, overlay = excluded.overlay
"""
ASIDE: Final = """
insert into jobs (id, pending, aside) values (%s, false, true) on conflict (id) do update set pending = false, aside = true
"""
DELETE: Final = """
update jobs set record = null, version = version + 1, status = null, media_type = null, pipeline = null, sha256 = null,
  owner = case when %(gone_at)s::timestamptz is null then null else owner end, expires_at = null, due_at = null, pending = true,
  unsent = false, dead = false, aside = false, deleted = true, gone_at = %(gone_at)s where id = %(id)s
"""
FORGET: Final = "update jobs set pending = false, deleted = false where id = %s and record is null and not aside"
BELONG: Final = "insert into bindings (name, value) values ('bytes', %s) on conflict (name) do nothing"
BELONGS: Final = "select value from bindings where name = 'bytes'"
IDENTITY: Final = "select value from bindings where name = 'journal'"
RETYPE: Final = "update jobs set media_type = %s where id = %s and media_type is distinct from %s"
RESTORE: Final = "update jobs set pending = %s, aside = false where id = %s"
FORGET_ALL: Final = (
    "delete from jobs where id = %s and record is null and gone_at is null and not aside and not pending"
)
