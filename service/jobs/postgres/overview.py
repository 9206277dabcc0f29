"""What is asked of all jobs together: figures, lists of ids, and what goes when its time has come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from service.figures import Figures
from service.jobs.model import JobStatus
from service.jobs.postgres import journal, rows
from service.jobs.postgres.database import Cursor, Database

_BATCH: Final = 1000
_AFTER_ALL: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_ACTIVE: Final = "select count(*) from jobs where owner = %s and status in ('queued', 'running')"
_EXPIRED: Final = "select id::text from jobs where expires_at <= %s order by expires_at limit %s"
_WALK: Final = "select id::text from jobs where record is not null and id < %s order by id desc limit %s"
_IN_PROGRESS: Final = """
select status, count(*) from jobs where status in ('queued', 'running') and pending group by status
"""
_OLDEST: Final = "select extract(epoch from min(due_at))::float8 from jobs where due_at <= %s and pending"
_DROP: Final = "delete from jobs where gone_at < %s and not pending"
_UNMARK: Final = "update jobs set gone_at = null, owner = null where gone_at < %s"  #: their bytes may still be there
_STALE: Final = "delete from holds where until < clock_timestamp() - interval '1 hour'"


class Overview:
    """All jobs of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, owner: str) -> int:
        """Return how many jobs of this owner are not done."""
        return int(self._database.rows(_ACTIVE, [owner])[0][0])

    def expired(self, now: datetime, limit: int) -> list[str]:
        """Return ids whose jobs expired by ``now``, the longest expired first."""
        return [job_id for (job_id,) in self._database.rows(_EXPIRED, [now, limit])]

    def undelivered(self) -> list[str]:
        """Return the ids of jobs of which something waits to be sent."""
        return [job_id for (job_id,) in self._database.rows("select id::text from jobs where unsent order by id")]

    def dead_letters(self) -> list[str]:
        """Return the ids of jobs of which something was given up."""
        return [job_id for (job_id,) in self._database.rows("select id::text from jobs where dead order by id")]

    def walk(self) -> Iterator[str]:
        """Yield the ids of all jobs that have records, newest first."""
        before = _AFTER_ALL
        while found := self._database.rows(_WALK, [before, _BATCH]):
            yield from (job_id for (job_id,) in found)
            before = found[-1][0]

    def quarantined(self) -> Iterator[str]:
        """Yield the ids of jobs that are set aside."""
        for (job_id,) in self._database.rows("select id::text from jobs where aside order by id"):
            yield job_id

    def figures(self, now: datetime) -> Figures:
        """Return what ``JobStore.figures`` does."""
        counts = {JobStatus.QUEUED: 0, JobStatus.RUNNING: 0}
        counts |= {JobStatus(status): number for status, number in self._database.rows(_IN_PROGRESS)}
        oldest = self._database.rows(_OLDEST, [now])[0][0]
        aside = self._database.rows("select count(*) from jobs where aside")[0][0]
        unsent = self._database.rows("select count(*) from jobs where unsent")[0][0]
        dead = self._database.rows("select count(*) from jobs where dead")[0][0]
        return Figures(
            in_progress=counts,
            oldest_due=oldest,
            quarantined=aside,
            undelivered=unsent,
            dead_letters=dead,
            sums=rows.sums(self._database),
        )

    def sweep(self, long_ago: datetime) -> int:
        """Drop the tombstones from before this moment, and what has piled up; return how many tombstones."""

        def work(cursor: Cursor) -> int:
            rows.fold(cursor)
            journal.number(cursor)
            cursor.execute(_STALE)
            return cursor.execute(_DROP, [long_ago]).rowcount + cursor.execute(_UNMARK, [long_ago]).rowcount

        return self._database.run(work)
