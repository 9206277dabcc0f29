"""Job records in PostgreSQL, for one machine or many: the same promises as files give, with the server's clock and locks.

A row is the record, byte for byte as a file would have it, and what it is found by; both are written in one transaction, whose
commit is the commit point. Leases are holds that the server's clock takes back. Whoever waits for news is told by NOTIFY.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import structlog

from service import faults
from service.clock import Clock, utc_now
from service.errors import Conflict, IntakeError, NotFound, OutcomeUnknown, RecordCorrupt
from service.figures import Figures
from service.ids import is_id
from service.jobs.counted import Seen
from service.jobs.model import Job, JobStatus
from service.jobs.postgres import journal, rows, schema
from service.jobs.postgres import statements as sql
from service.jobs.postgres.database import Cursor
from service.jobs.postgres.holds import Holds, PostgresLead, PostgresLease, evict, lease_name
from service.jobs.postgres.keys import PostgresKeys
from service.jobs.postgres.line import Line
from service.jobs.postgres.overview import Overview
from service.jobs.record import Overlay
from service.jobs.refusals import expired_job, no_such_job, require_id
from service.jobs.store import Change, JobQuery, KeyHold, Lead, Lease, Moves, Page, Position, StoreUnreachable

log = structlog.get_logger(__name__)


class PostgresJobStore:
    """The job store of a deployment, shared by any number of processes on any number of machines.

    Constructing it connects. Raises ConfigError when the server cannot be reached within 10 s, is not safe to keep records,
    or its schema is not the one of this version. ``lease`` is how long a runner may be silent before its job is free.
    """

    def __init__(
        self,
        url: str,
        *,
        durable: bool = True,
        lease: timedelta = timedelta(seconds=30),
        clock: Clock = utc_now,
        key_ttl: timedelta = timedelta(hours=24),
        gone_for: timedelta = timedelta(days=7),
    ) -> None:
        self._clock = clock
        self._key_ttl = key_ttl
        self._gone_for = gone_for
        self._database = schema.opened(url, durable=durable)
        self._line = Line(self._database, ttl=lease.total_seconds())
        self._holds = Holds(self._database, self._line, ttl=lease.total_seconds())
        self._keys = PostgresKeys(self._database, self._holds, clock=clock)
        self._overview = Overview(self._database)
        self._owners: dict[str, str] = {}  # of pending jobs, as they were last read

    def belong_to(self, place: str) -> str:
        """Note where the bytes of these jobs are, unless that is noted; return what is."""
        self._database.run(lambda cursor: cursor.execute(sql.BELONG, [place]))
        return str(self._database.rows(sql.BELONGS)[0][0])

    def identity(self) -> str:
        """Return what tells these records from any others; a copy of the database has the same."""
        return f"postgresql:{self._database.rows(sql.IDENTITY)[0][0]}"

    def create(self, job: Job) -> None:
        def work(cursor: Cursor) -> None:
            taken = cursor.execute("select record is not null from jobs where id = %s for update", [job.id]).fetchone()
            if taken is not None and taken[0]:
                raise Conflict(f"There is a job {job.id} already.")
            rows.save(cursor, job)

        faults.reach("accept.marked")
        self._database.run(work)
        faults.reach("accept.committed")
        self._tell(job)

    def get(self, job_id: str) -> Job:
        found = self._database.rows(sql.GET, [require_id(job_id)])
        return self._read(job_id, found[0] if found else None)

    def marks(self, job_ids: Iterable[str]) -> dict[str, Hashable]:
        marks: dict[str, Hashable] = dict.fromkeys(job_ids)
        for job_id, *mark in self._database.rows(sql.MARKS, [[one for one in marks if is_id(one)]]):
            marks[job_id] = tuple(mark)
        return marks

    def moves(self, after: Position | None, limit: int) -> Moves:
        return journal.read(self._database, after, limit)

    def heed(self, tell: Callable[[str], None], *, due: bool = False) -> bool:
        self._line.heed(tell, due=due)
        return True

    def last_owner(self, job_id: str) -> str | None:
        found = self._database.rows("select owner from jobs where id = %s", [require_id(job_id)])
        return found[0][0] if found else None

    def confirm(self, job_id: str) -> Job:
        """Return the job: what one session sees of another's is on the server's disk."""
        return self.get(job_id)

    def update(self, job_id: str, change: Change) -> Job:
        def work(cursor: Cursor) -> tuple[Job, bool]:
            return self._changed(cursor, job_id, change, self._locked(cursor, job_id))

        job, changed = self._database.run(work)
        if changed:
            if job.done:
                faults.reach("attempt.recorded")
            self._tell(job)
        return job

    def claim(self, job_id: str, change: Change) -> tuple[Job, Lease | None]:
        def work(cursor: Cursor) -> tuple[Job, str | None] | None:
            row = cursor.execute(f"{sql.GET} for update of jobs skip locked", [require_id(job_id)]).fetchone()
            if row is None:  # there is none, or somebody is about to change it: most likely to claim it
                return None
            job = self._read(job_id, row)
            token = self._holds.take(cursor, lease_name(job_id))
            if token is None:
                return job, None
            if job.status is JobStatus.RUNNING and (killed := evict(job_id)):
                log.warning("processes of a lost attempt were killed", job_id=job_id, count=killed)
            job, _ = self._changed(cursor, job_id, change, row)
            if job.status is JobStatus.RUNNING:
                return job, token
            cursor.execute("delete from holds where token = %s", [token])
            return job, None

        claimed = self._database.run(work)
        if claimed is None:
            return self.get(job_id), None
        job, token = claimed
        if token is None:
            return job, None
        lease = PostgresLease(job, token, self._holds)
        self._line.ring(job_id, due=False)
        return job, lease

    def evict(self, job_id: str) -> int:
        """Kill them, unless another process has the lease: as it renews that it lives, and so does its attempt."""
        return 0 if self._holds.is_anothers(lease_name(job_id)) else evict(job_id)

    def note(self, lease: Lease, job: Job) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute("set local synchronous_commit to off")
            row = self._locked(cursor, job.id)
            recorded = self._read(job.id, row, shown=False)
            overlay = Overlay.of(self._read(job.id, row), lease.job.attempt, job)
            cursor.execute(sql.NOTE, [job.id, overlay.version, overlay.encode()])
            if overlay.file.media_type != recorded.file.media_type:  # lists by type find it
                cursor.execute(sql.RETYPE, [overlay.file.media_type, job.id, overlay.file.media_type])

        try:
            self._database.run(work)
        except OutcomeUnknown as error:
            raise StoreUnreachable(error.detail) from error  # progress may be lost, so nobody needs to know
        self._line.ring(job.id, due=False)

    def page(self, query: JobQuery) -> Page:
        return rows.page(self._database, query)

    def pending(self) -> list[str]:
        found = self._database.rows("select id::text, owner from jobs where pending order by id")
        self._owners = {job_id: owner for job_id, owner in found if owner}
        return [job_id for job_id, _ in found]

    def active(self, owner: str) -> int:
        return self._overview.active(owner)

    def undelivered(self) -> list[str]:
        return self._overview.undelivered()

    def dead_letters(self) -> list[str]:
        return self._overview.dead_letters()

    def owner_hint(self, job_id: str) -> str:
        if job_id not in self._owners:
            try:
                return self.last_owner(job_id) or ""
            except (OSError, IntakeError):
                return ""
        return self._owners[job_id]

    def settle(self, job_id: str) -> bool:
        def work(cursor: Cursor) -> bool:
            try:
                job = self._read(job_id, row := self._locked(cursor, job_id))
            except NotFound:
                return False
            except RecordCorrupt:
                log.exception("record is corrupt; the job is set aside", job_id=job_id)
                cursor.execute(sql.ASIDE, [job_id])
                return True
            if row[-1] == job.done:
                cursor.execute("update jobs set pending = %s where id = %s", [not job.done, job_id])
            return True

        return is_id(job_id) and self._database.run(work)

    def set_aside(self, job_id: str) -> None:
        self._database.run(lambda cursor: cursor.execute(sql.ASIDE, [require_id(job_id)]))

    def restore(self, job_id: str) -> bool:
        def work(cursor: Cursor) -> bool:
            try:
                job = self._read(job_id, row := self._locked(cursor, job_id))
            except (NotFound, RecordCorrupt):
                return False
            astray = bool(row[2]) or row[-1] == job.done
            if astray:
                cursor.execute(sql.RESTORE, [not job.done, job_id])
            return astray

        return self._database.run(work)

    def is_deleted(self, job_id: str) -> bool:
        return bool(self._database.rows("select from jobs where id = %s and deleted", [require_id(job_id)]))

    def delete(self, job_id: str, check: Callable[[Job], None], *, tombstone: bool = False) -> None:
        def work(cursor: Cursor) -> None:
            gone_at = self._clock() if tombstone else None
            try:
                check(self._read(job_id, self._locked(cursor, job_id)))
            except RecordCorrupt:
                gone_at = None
            cursor.execute(sql.DELETE, {"id": job_id, "gone_at": gone_at})
            cursor.execute("delete from labels where job = %s", [job_id])
            cursor.execute("delete from progress where job = %s", [job_id])

        self._database.run(work)
        self._line.ring(job_id, due=False)

    def forget(self, job_id: str) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute(sql.FORGET, [require_id(job_id)])
            cursor.execute(sql.FORGET_ALL, [job_id])

        self._database.run(work)

    def hold_key(self, scope: str) -> AbstractContextManager[KeyHold]:
        return self._keys.hold(scope)

    def lead(self) -> Lead | None:
        return PostgresLead.take(self._database, self._holds)

    def is_led(self) -> bool:
        return PostgresLead.is_taken(self._database)

    def expired(self, now: datetime, limit: int) -> list[str]:
        return self._overview.expired(now, limit)

    def sweep(self, now: datetime) -> int:
        return self._keys.sweep(now - self._key_ttl) + self._overview.sweep(now - self._gone_for)

    def figures(self, now: datetime) -> Figures:
        return self._overview.figures(now)

    def quarantined(self) -> Iterator[str]:
        return self._overview.quarantined()

    def walk(self) -> Iterator[str]:
        return self._overview.walk()

    def where(self, job_id: str) -> str:
        return f"{self._database.place}, table jobs, id {job_id}"

    def close(self) -> None:
        self._line.close()
        self._database.close()

    def _locked(self, cursor: Cursor, job_id: str) -> tuple[Any, ...]:
        row = cursor.execute(f"{sql.GET} for update of jobs", [require_id(job_id)]).fetchone()
        if row is None:
            raise no_such_job(job_id)
        return row

    def _read(self, job_id: str, row: tuple[Any, ...] | None, *, shown: bool = True) -> Job:
        if row is None:
            raise no_such_job(job_id)
        record, overlay, aside, gone, *_ = row
        if record is None:
            if aside:
                raise RecordCorrupt("The record is gone.", hint="Run `intake fsck`; the job's file is kept.")
            raise expired_job(job_id) if gone else no_such_job(job_id)
        return rows.shown(job_id, record, overlay if shown else None)

    def _changed(self, cursor: Cursor, job_id: str, change: Change, row: tuple[Any, ...]) -> tuple[Job, bool]:
        """Apply a change to a locked row; tell whether it was one."""
        job = self._read(job_id, row)
        after = change(job)
        if after is job:
            return job, False
        rows.save(cursor, after, before=job, seen=Seen(row[4], row[5]))
        return after, True

    def _tell(self, job: Job) -> None:
        due = job.status is JobStatus.QUEUED and (job.retry_at is None or job.retry_at <= self._clock())
        self._line.ring(job.id, due=due)
