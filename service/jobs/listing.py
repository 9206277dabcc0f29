"""Which jobs there are: as the index says while it is whole, as the folders say until then. It sees to its index by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from service.durable import locked
from service.errors import NotFound, RecordCorrupt
from service.figures import Key, Sum
from service.ids import first_id
from service.jobs.counted import count_in_progress
from service.jobs.folders import walk
from service.jobs.index import JobIndex, is_damage
from service.jobs.model import Job, JobStatus
from service.jobs.store import JobQuery, Moves, Position

log = structlog.get_logger(__name__)
_BATCH: Final = 500  #: rows written at a time by a rebuild


class Listing:
    """Lists over one data directory. Whatever is wrong with the index, no method raises because of it.

    A missing, damaged or doubtful index is rebuilt from the records by ``start``, which whoever keeps house calls now and then;
    meanwhile lists are as complete, and slow.
    """

    def __init__(self, root: Path, get: Callable[[str], Job]) -> None:
        self._root = root
        self._get = get
        self._index = JobIndex(root / "engine" / "index.db")
        self._rebuilding: threading.Thread | None = None
        self._closed = threading.Event()

    def put(self, job: Job, *, since: int | None = None) -> bool:
        """Write the row of a job, and what has changed since that version; False when nobody will know unless it is done again."""
        try:
            self._index.put([job], since=since)
        except sqlite3.Error as error:
            return self._doubt(error)
        return True

    def add(self, jobs: Sequence[Job]) -> bool:
        """Write the rows of jobs that have just been accepted, all at once; False as from ``put``."""
        try:
            self._index.add(jobs)
        except sqlite3.Error as error:
            return self._doubt(error)
        return True

    def moves(self, after: Position | None, limit: int) -> Moves:
        """Return the changes of statuses after a position; none while nobody knows."""
        try:
            return self._index.moves(after, limit)
        except sqlite3.Error as error:
            self._doubt(error)
            return Moves(position=after or Position("none", 0), lost=after is None)

    def drop(self, job_id: str) -> None:
        """Remove the row of a job of which nothing else is known."""
        with suppress(sqlite3.Error):
            self._index.drop(job_id)

    def remove(self, jobs: Sequence[Job], gone_at: datetime | None) -> None:
        """Remove the rows of jobs; with ``gone_at`` remember that they were there, and whose they were."""
        with suppress(sqlite3.Error):
            self._index.remove(jobs, gone_at)

    def ids(self, query: JobQuery) -> Iterator[str]:
        """Yield the ids of all jobs that may match, newest first. Some do not, or have no record any more."""
        before = query.before
        if self.is_indexed():
            try:
                for job_id in self._index.ids(query):
                    before = job_id
                    yield job_id
                return
            except sqlite3.Error as error:
                self._doubt(error)
        oldest = first_id(query.created_after) if query.created_after else ""
        for job_id in walk(self._root):
            if job_id < oldest:
                return
            if before is None or job_id < before:
                yield job_id

    def expired(self, now: datetime, limit: int) -> list[str]:
        """Return ids whose jobs expired by ``now``, the longest expired first, as far as they have rows."""
        with suppress(sqlite3.Error):
            return self._index.expired(now, limit)
        return []

    def is_gone(self, job_id: str) -> bool:
        """Tell whether a job is remembered as expired."""
        with suppress(sqlite3.Error):
            return self._index.is_gone(job_id)
        return False

    def owner(self, job_id: str) -> str | None:
        """Return whose job it is or was, as far as that is remembered."""
        with suppress(sqlite3.Error):
            return self._index.owner(job_id)
        return None

    def active(self, owner: str) -> int:
        """Return how many rows of this owner are of jobs that are not done."""
        with suppress(sqlite3.Error):
            return self._index.active(owner)
        return 0

    def forget_gone(self, before: datetime) -> int:
        """Forget the jobs that expired before this moment; return how many."""
        with suppress(sqlite3.Error):
            return self._index.forget_gone(before)
        return 0

    def figures(self, pending: list[str], now: datetime) -> tuple[dict[JobStatus, int], float | None, dict[Key, Sum]]:
        """Return how many jobs are in progress, since when the oldest has been due, and what has been counted.

        While the index is not complete, the first two are told by the records of ``pending``.
        """
        sums: dict[Key, Sum] = {}
        if self.is_indexed():
            try:
                return *self._index.in_progress(now), self._index.sums()
            except sqlite3.Error as error:
                self._doubt(error)
        with suppress(sqlite3.Error):
            sums = self._index.sums()
        return *count_in_progress(self._get, pending, now), sums

    def is_indexed(self) -> bool:
        """Tell whether lists come from the index."""
        try:
            return self._index.is_complete()
        except sqlite3.Error as error:
            self._doubt(error)
            return False

    def start(self) -> threading.Thread | None:
        """Rebuild the index in a thread of its own if it is not complete; return that thread."""
        if self._rebuilding is not None and self._rebuilding.is_alive():
            return self._rebuilding
        if self.is_indexed():
            return None
        self._rebuilding = threading.Thread(target=self.rebuild, name="reindex", daemon=True)
        self._rebuilding.start()
        return self._rebuilding

    def rebuild(self) -> int:
        """Write the rows of all jobs and return their number; -1 if that did not work, or another process is doing it."""
        count = 0
        try:
            with locked(self._root / "engine" / "index.lock", wait=False):
                for jobs in self._batches():
                    if self._closed.is_set():
                        return -1
                    self._index.put(jobs, quiet=True)
                    count += len(jobs)
                self._index.set_complete()
        except BlockingIOError:
            return -1
        except (sqlite3.Error, OSError):
            log.exception("the index cannot be rebuilt; lists walk the folders")
            return -1
        return count

    def close(self) -> None:
        """End a rebuild and close the index."""
        self._closed.set()
        if self._rebuilding is not None:
            self._rebuilding.join()
        self._index.close()

    def _batches(self) -> Iterator[list[Job]]:
        jobs: list[Job] = []
        for job_id in walk(self._root):
            with suppress(NotFound, RecordCorrupt, OSError):
                jobs.append(self._get(job_id))
            if len(jobs) == _BATCH:
                yield jobs
                jobs = []
        yield jobs

    def _doubt(self, error: sqlite3.Error) -> bool:
        """Begin the index anew if it is damaged, and tell whether it was: an incomplete one is rebuilt from the records."""
        log.warning("the index cannot be used", error=str(error))
        damaged = is_damage(error)
        with suppress(OSError):
            if damaged:
                self._index.discard()
            else:
                self._index.close()  # the next use connects anew
        return damaged
