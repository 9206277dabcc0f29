"""The last changes of all jobs' statuses, in the order in which they became visible: a part of the derived index.

Every change is written once, by the transaction that writes the row of its job: the row remembers up to which version of the record
its changes have been written, so a crash between record and row loses none, as recovery writes the row. Numbers are good within one
boot of the machine and one life of the file: a power cut may take the last ones back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from service.jobs.model import Job
from service.jobs.store import Moves, Position

SCHEMA: Final = """
create table if not exists moves (number integer primary key, id text, version integer);
insert or ignore into meta values ('journal', lower(hex(randomblob(8))));
"""
_KEPT: Final = 10_000


def untold_after(db: sqlite3.Connection, job: Job, since: int | None) -> int:
    """Return up to which version the job's changes are written, before its row is; ``since`` is that of the record before."""
    row = db.execute("select told from jobs where id = ?", (job.id,)).fetchone()
    if row is not None and row[0] is not None:
        told: int = row[0]
        return told
    if row is None and is_complete(db):
        return 0  # it is new, and whoever comes first writes
    return job.history[-1].version - 1 if since is None else since


def write(db: sqlite3.Connection, job: Job, after: int) -> None:
    """Write the job's changes of later versions than ``after``, and into its row that they are; what is very old goes."""
    moves = [(job.id, move.version) for move in job.history if move.version > after]
    db.executemany("insert into moves (id, version) values (?, ?)", moves)
    db.execute("update jobs set told = ? where id = ?", (max(after, job.history[-1].version), job.id))
    if moves:
        _trim(db)


def begin(db: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Write that these jobs were accepted, whose rows say that it is written."""
    db.executemany("insert into moves (id, version) values (?, ?)", [(job.id, job.version) for job in jobs])
    _trim(db)


def _trim(db: sqlite3.Connection) -> None:
    db.execute("delete from moves where number <= (select max(number) from moves) - ?", (_KEPT,))


def read(db: sqlite3.Connection, after: Position | None, limit: int) -> Moves:
    """Return what was written after a position; without one, where the end is."""
    name = db.execute("select value from meta where name = 'journal'").fetchone()[0]
    journal = blake2b(f"{name} {boot()}".encode(), digest_size=4).hexdigest()
    first, last = db.execute("select coalesce(min(number), 1), coalesce(max(number), 0) from moves").fetchone()
    if after is None or after.journal != journal or not first - 1 <= after.number <= last:
        return Moves(position=Position(journal, last), lost=after is not None)
    rows = db.execute(
        "select number, id, version from moves where number > ? order by number limit ?", (after.number, limit)
    )
    moves = tuple((Position(journal, number), job_id, version) for number, job_id, version in rows)
    return Moves(position=moves[-1][0] if moves else after, moves=moves)


def is_complete(db: sqlite3.Connection) -> bool:
    """Tell whether every job has its row, as far as anybody can know: not after a reboot, which may have been a power cut."""
    return db.execute("select value from meta where name = 'complete'").fetchall() == [(boot(),)]


@cache
def boot() -> str:
    """Return what differs after the machine was started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
