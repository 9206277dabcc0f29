"""Rows of jobs: what is kept beside a record so that it is found, how lists are asked for, and the sums of figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from service.figures import Key, Sum, Tallies
from service.ids import first_id
from service.jobs.counted import Seen, learn
from service.jobs.model import Job, JobStatus
from service.jobs.notices import has_dead, is_open
from service.jobs.postgres import journal
from service.jobs.postgres.database import Cursor, Database
from service.jobs.record import Overlay, decode, encode
from service.jobs.store import JobQuery, Page

_SAVE: Final = """
insert into jobs (id, record, version, status, media_type, pipeline, sha256, owner, expires_at, due_at, pending, unsent, dead,
  counted)
values (%(id)s, %(record)s, %(version)s, %(status)s, %(media_type)s, %(pipeline)s, %(sha256)s, %(owner)s, %(expires_at)s,
  %(due_at)s, %(pending)s, %(unsent)s, %(dead)s, %(counted)s)
on conflict (id) do update set record = excluded.record, version = excluded.version, status = excluded.status,
  media_type = excluded.media_type, pipeline = excluded.pipeline, sha256 = excluded.sha256, owner = excluded.owner,
  expires_at = excluded.expires_at, due_at = excluded.due_at, pending = excluded.pending, counted = excluded.counted,
  unsent = excluded.unsent, dead = excluded.dead, aside = false, deleted = false, gone_at = null
"""
_LABEL: Final = "insert into labels (key, value, job) values (%s, %s, %s)"
_TALLY: Final = "insert into tallies (metric, labels, bucket, count, total) values (%s, %s, %s, %s, %s)"
_SUMS: Final = "select metric, labels, bucket, sum(count)::bigint, sum(total) from tallies group by 1, 2, 3"
_FOLD: Final = """
with taken as (delete from tallies returning *)
insert into tallies select metric, labels, bucket, sum(count), sum(total) from taken group by 1, 2, 3
"""
_LIST: Final = """
select jobs.id::text, jobs.record, progress.overlay from jobs left join progress on progress.job = jobs.id
where {where} order by jobs.id desc limit {limit}
"""
_NIL: Final = "00000000-0000-0000-0000-000000000000"


def shown(job_id: str, record: bytes, overlay: bytes | None) -> Job:
    """Return the job of a record with the progress of its running attempt. Raises RecordCorrupt."""
    job = decode(record, job_id)
    if overlay is not None and job.status is JobStatus.RUNNING:
        with suppress(ValueError):
            return Overlay.decode(overlay).over(job)
    return job


def save(cursor: Cursor, job: Job, *, before: Job | None = None, seen: Seen | None = None) -> None:
    """Write the record and all that goes with it; ``before`` is the job as it was, ``seen`` what of it has been counted."""
    news = Tallies()
    counted = learn(job, seen or Seen(), news)
    queued = job.status is JobStatus.QUEUED
    values = {
        "id": job.id,
        "record": encode(job),
        "version": job.version,
        "status": str(job.status),
        "media_type": job.file.media_type,
        "pipeline": job.pipeline,
        "sha256": job.file.sha256,
        "owner": job.owner,
        "expires_at": job.expires_at,
        "due_at": (job.retry_at or job.created_at) if queued else None,
        "pending": not job.done,
        "unsent": is_open(job),
        "dead": has_dead(job),
        "counted": counted.attempts,
    }
    cursor.execute(_SAVE, values)
    if before is not None and before.labels != job.labels:
        cursor.execute("delete from labels where job = %s", [job.id])
    if job.labels and (before is None or before.labels != job.labels):
        cursor.executemany(_LABEL, [(key, value, job.id) for key, value in job.labels.items()])
    if before is not None and before.status is JobStatus.RUNNING and job.status is not JobStatus.RUNNING:
        cursor.execute("delete from progress where job = %s", [job.id])
    journal.write(cursor, job, since=before.version if before is not None else 0)
    if sums := news.read():
        rows = [(key.metric, json.dumps(key.labels), key.bucket, *more) for key, more in sums.items()]
        cursor.executemany(_TALLY, rows)


def page(database: Database, query: JobQuery) -> Page:
    """Return a page of jobs as ``JobStore.page`` does, in one statement unless records are corrupt."""
    asked = (query.owner, query.media_type, query.pipeline, query.sha256, *query.labels, *query.labels.values())
    if any(text and "\0" in text for text in asked):  # no row has it, and PostgreSQL does not take it
        return Page(jobs=(), next=None)
    found: dict[str, tuple[bytes, bytes | None]] = {}

    def ids() -> Iterator[str]:
        before, size = query.before, query.limit + 1
        while True:
            where, values = _conditions(query, before)
            sql = _LIST.format(where=" and ".join(where), limit=size)
            rows = database.rows(sql, values)
            found.update({row[0]: (row[1], row[2]) for row in rows})
            yield from (row[0] for row in rows)
            if len(rows) < size:
                return
            before = rows[-1][0]

    return Page.collect(query, ids(), lambda job_id: shown(job_id, *found.pop(job_id)))


def _conditions(query: JobQuery, before: str | None) -> tuple[list[str], list[Any]]:
    where, values = ["jobs.record is not null"], list[Any]()

    def require(condition: str, *more: Any) -> None:
        where.append(condition)
        values.extend(more)

    columns = {"owner": query.owner, "media_type": query.media_type, "pipeline": query.pipeline, "sha256": query.sha256}
    for name, value in columns.items():
        if value is not None:
            require(f"jobs.{name} = %s", value)
    if query.statuses:
        require("jobs.status = any(%s)", sorted(map(str, query.statuses)))
    for key, value in sorted(query.labels.items()):
        exists = "exists (select from labels where labels.job = jobs.id and labels.key = %s and labels.value = %s)"
        require(exists, key, value)
    if query.created_after is not None:
        require("jobs.id >= %s", _bound(first_id(query.created_after)))
    for text in (first_id(query.created_before) if query.created_before else None, before):
        if text is not None:
            require("jobs.id < %s", _bound(text))
    return where, values


def _bound(text: str) -> str:
    """Return the least id that does not sort before ``text``, an id or the beginning of one."""
    return text + _NIL[len(text) :]


def sums(database: Database) -> Mapping[Key, Sum]:
    """Return what has been counted of all jobs there ever were."""
    rows = database.rows(_SUMS)
    return {Key(metric, tuple(json.loads(labels)), bucket): Sum(n, total) for metric, labels, bucket, n, total in rows}


def fold(cursor: Cursor) -> None:
    """Make one row of all rows of a sum."""
    cursor.execute(_FOLD)
