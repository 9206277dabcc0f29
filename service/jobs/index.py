"""A derived index of the records, for lists and retention: rebuildable, never the truth, and allowed to be missing.

Every row a reader gets from here is checked against the record it names. What keeps it complete: a job has its marker until its
last row is written, so that recovery writes rows a crash has swallowed; and after a reboot, which may have been a power cut, the
index is rebuilt while lists walk the folders.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from service import tallies
from service.durable import locked
from service.figures import Key, Sum, Tallies
from service.jobs import journal
from service.jobs.counted import Seen, due, learn
from service.jobs.model import ENDS, Job, JobStatus
from service.jobs.plan import Plan
from service.jobs.store import JobQuery, Moves, Position

_SCHEMA: Final = (
    """
create table if not exists jobs (id text primary key, version integer, status text, media_type text, pipeline text, sha256 text,
  expires_at integer, owner text, due_at real, counted integer not null default 0,
  told integer) without rowid;
create index if not exists jobs_due on jobs (due_at) where due_at is not null;
create index if not exists jobs_status on jobs (status, id);
create index if not exists jobs_media_type on jobs (media_type, id);
create index if not exists jobs_pipeline on jobs (pipeline, id);
create index if not exists jobs_sha256 on jobs (sha256, id);
create index if not exists jobs_owner on jobs (owner, id);
create index if not exists jobs_active on jobs (owner) where status in ('queued', 'running');
create index if not exists jobs_expires on jobs (expires_at) where expires_at is not null;
create table if not exists labels (key text, value text, id text, primary key (key, value, id)) without rowid;
create table if not exists gone (id text primary key, at integer, owner text) without rowid;
create table if not exists meta (name text primary key, value text) without rowid;
"""
    + journal.SCHEMA
    + tallies.SCHEMA
)
_VERSION: Final = 6
_BUSY: Final = 5.0  #: seconds to wait for another process that writes
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
_SEEN: Final = "select version, status, counted from jobs where id = ?"
_UPSERT: Final = """
insert into jobs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null)
on conflict (id) do update set version = excluded.version, status = excluded.status, media_type = excluded.media_type,
  expires_at = excluded.expires_at, due_at = excluded.due_at, counted = excluded.counted where excluded.version >= version
"""
_INSERT: Final = "insert into jobs values (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)"
_DELETE: Final = "delete from jobs where id = ?"
_LABEL: Final = "insert or ignore into labels values (?, ?, ?)"


class JobIndex:
    """One SQLite file. Every method may raise sqlite3.Error; callers fall back to the folders."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def put(self, jobs: Iterable[Job], *, since: int | None = None, quiet: bool = False) -> None:
        """Write the rows of these jobs; a row of a newer version stays. What is new about them is counted, once.

        So are the changes of their status since the version ``since`` written into the journal, unless it is to be ``quiet``.
        """
        with self._lock, self._open() as db:
            db.execute("begin immediate")  # what has been counted is read and written in one
            for job in jobs:
                version, *before = db.execute(_SEEN, (job.id,)).fetchone() or (0, None, 0)
                news = Tallies()
                seen = learn(job, Seen(*before), news) if job.version >= version else Seen(*before)
                tallies.add(db, news.read())
                told = 0 if quiet else journal.untold_after(db, job, since)
                db.execute(_UPSERT, (*_row(job), seen.attempts))
                db.executemany(_LABEL, _labels(job))
                if not quiet:
                    journal.write(db, job, told)

    def add(self, jobs: Sequence[Job]) -> None:
        """Write the rows of jobs that have just been made, as ``put`` does with all their changes, in fewer steps for new ones."""
        with self._lock, self._open() as db:
            db.execute("begin immediate")
            marks = ",".join("?" * len(jobs))
            found = db.execute(f"select id from jobs where id in ({marks})", [job.id for job in jobs])  # noqa: S608 - marks
            known = {row[0] for row in found}
            new = [job for job in jobs if job.version == 1 and job.id not in known]
            db.executemany(_INSERT, [(*_row(job), job.version) for job in new])
            db.executemany(_LABEL, [label for job in new for label in _labels(job)])
            journal.begin(db, new)
        if len(new) < len(jobs):  # brought from elsewhere, or recovery was quicker
            self.put([job for job in jobs if job.version > 1 or job.id in known], since=0)

    def moves(self, after: Position | None, limit: int) -> Moves:
        """Return what the journal has after a position."""
        with self._lock, self._open() as db:
            return journal.read(db, after, limit)

    def drop(self, job_id: str) -> None:
        """Remove the row of a job of which nothing else is known."""
        with self._lock, self._open() as db:
            db.execute(_DELETE, (job_id,))

    def remove(self, jobs: Sequence[Job], gone_at: datetime | None) -> None:
        """Remove the rows of jobs; with ``gone_at`` remember that they were there, and whose they were."""
        with self._lock, self._open() as db:
            db.executemany(_DELETE, [(job.id,) for job in jobs])
            rows = [label for job in jobs for label in _labels(job)]
            db.executemany("delete from labels where key = ? and value = ? and id = ?", rows)
            if gone_at:
                gone = [(job.id, _stamp(gone_at), job.owner) for job in jobs]
                db.executemany("insert or replace into gone values (?, ?, ?)", gone)

    def ids(self, query: JobQuery) -> Iterator[str]:
        """Yield the ids that the rows say match, newest first."""
        plan = Plan.of(query, lambda sql, values: self._all(sql, values)[0][0])
        before, size = query.before, query.limit + 1
        while True:
            found = self._all(*plan.page(before, size))
            yield from (row[0] for row in found)
            if len(found) < size:
                return
            before = found[-1][0]

    def expired(self, now: datetime, limit: int) -> list[str]:
        """Return ids whose jobs expired by ``now``, the longest expired first."""
        sql = "select id from jobs where expires_at <= ? order by expires_at limit ?"
        return [row[0] for row in self._all(sql, [_stamp(now), limit])]

    def is_gone(self, job_id: str) -> bool:
        """Tell whether a job is remembered as expired."""
        return bool(self._all("select 1 from gone where id = ?", [job_id]))

    def owner(self, job_id: str) -> str | None:
        """Return whose job it is or was, as far as there is a row."""
        found = self._all("select owner from jobs where id = ? union select owner from gone where id = ?", [job_id] * 2)
        return found[0][0] if found else None

    def active(self, owner: str) -> int:
        """Return how many jobs of this owner are not done."""
        sql = "select count(*) from jobs where owner = ? and status in ('queued', 'running')"
        count: int = self._all(sql, [owner])[0][0]
        return count

    def forget_gone(self, before: datetime) -> int:
        """Forget the jobs that expired before this moment; return how many."""
        with self._lock, self._open() as db:
            return db.execute("delete from gone where at < ?", (_stamp(before),)).rowcount

    def in_progress(self, now: datetime) -> tuple[dict[JobStatus, int], float | None]:
        """Return how many rows are of jobs in progress, by status, and since when the job that is due longest has been."""
        states = [status for status in JobStatus if status not in ENDS]
        counts = {state: self._all("select count(*) from jobs where status = ?", [state])[0][0] for state in states}
        oldest = self._all("select min(due_at) from jobs where due_at <= ?", [now.timestamp()])[0][0]
        return counts, oldest

    def sums(self) -> dict[Key, Sum]:
        """Return what has been counted of all jobs there ever were."""
        with self._lock:
            return tallies.read(self._open())

    def is_complete(self) -> bool:
        """Tell whether every job has its row, as far as anybody can know."""
        with self._lock:
            return journal.is_complete(self._open())

    def set_complete(self) -> None:
        """Note that every job of this moment has its row."""
        with self._lock, self._open() as db:
            db.execute("insert or replace into meta values ('complete', ?)", (journal.boot(),))

    def agrees(self, job: Job) -> bool:
        """Tell whether the rows of a job are what its record says, as far as its attempt has not got further."""
        row = self._all(
            "select version, status, media_type, pipeline, sha256, expires_at from jobs where id = ?", [job.id]
        )
        one = "select 1 from labels where key = ? and value = ? and id = ?"
        labels = all(self._all(one, [key, value, job.id]) for key, value in job.labels.items())
        expires_at = _stamp(job.expires_at) if job.expires_at else None
        rest = (job.status, job.file.media_type, job.pipeline, job.file.sha256, expires_at)
        return len(row) == 1 and (row[0][1:] == rest or not job.done) and labels

    def damage(self, jobs: int) -> str | None:
        """Say what is wrong with the file by itself, or with the number of its rows, where there are ``jobs``."""
        try:
            found = self._all("pragma integrity_check", [])
            rows = self._all("select count(*) from jobs", [])[0][0]
        except sqlite3.Error as error:
            return str(error)
        if found != [("ok",)]:
            return str(found[0][0])
        return None if rows == jobs else f"{rows} rows"

    def discard(self) -> None:
        """Delete the file, for example because it is damaged, unless somebody has; the next use begins an empty one."""
        with self._lock, locked(self._path.parent):
            self._close()
            if self._inode == _inode(self._path):
                self._unlink()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    def _all(self, sql: str, values: list[Any]) -> list[Any]:
        with self._lock, self._open() as db:
            return db.execute(sql, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection and self._inode == _inode(self._path):
            return self._connection
        self._close()  # first use, or another process has begun the file anew
        try:
            with locked(self._path.parent):  # nobody deletes it meanwhile, and one creates the tables
                self._connection = self._connect()
                self._inode = _inode(self._path)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        self._inode = _inode(self._path)
        connection = sqlite3.connect(self._path, timeout=_BUSY, check_same_thread=False)
        try:
            connection.execute("pragma synchronous = off")  # derived: a power cut costs a rebuild, not a job
            connection.execute("pragma journal_mode = wal")
            version = connection.execute("pragma user_version").fetchone()[0]
            if version == 0:
                connection.executescript(_SCHEMA)
                connection.execute(f"pragma user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        if version not in (0, _VERSION):
            connection.close()
            self._unlink()
            return self._connect()
        return connection

    def _unlink(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether the file is at fault, which only a new one mends, or the moment: it is busy, or the disk is full."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF in _DAMAGE


def _row(job: Job) -> tuple[Any, ...]:
    """Return the columns of a job's row, but for what has been counted of it and told."""
    file, expires_at = job.file, _stamp(job.expires_at) if job.expires_at else None
    row = (job.id, job.version, job.status, file.media_type, job.pipeline, file.sha256, expires_at, job.owner)
    return (*row, due(job))


def _labels(job: Job) -> list[tuple[str, str, str]]:
    return [(key, value, job.id) for key, value in job.labels.items()]


def _stamp(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - called for every use, and twice as quick
    except FileNotFoundError:
        return 0
