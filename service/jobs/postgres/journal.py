"""The last changes of all jobs' statuses, numbered in the order in which they became visible.

A change is written with its record, without a number: a sequence would number before the commit, and a reader could pass one
that is committed later. Whoever reads gives the numbers, one at a time, to what is committed by then.
"""

from __future__ import annotations

from typing import Final

from service.jobs.model import Job
from service.jobs.postgres.database import Cursor, Database
from service.jobs.store import Moves, Position

_KEPT: Final = 10_000
_WRITE: Final = "insert into moves (job, version) values (%s, %s)"
_STATE: Final = """
select (select value from bindings where name = 'journal'), exists (select from moves where number is null),
  (select coalesce(min(number), 1) from moves), (select coalesce(max(number), 0) from moves)
"""
_LOCK: Final = "select from bindings where name = 'journal' for update"
_NUMBER: Final = """
with fresh as (select seq, row_number() over (order by seq) as place from moves where number is null),
  base as (select coalesce(max(number), 0) as number from moves)
update moves set number = base.number + fresh.place from fresh, base where moves.seq = fresh.seq
"""
_DROP: Final = "delete from moves where number <= (select max(number) from moves) - %s"
_READ: Final = "select number, job::text, version from moves where number > %s order by number limit %s"


def write(cursor: Cursor, job: Job, *, since: int) -> None:
    """Write the job's changes of later versions, within the transaction that writes its record."""
    if moves := [(job.id, move.version) for move in job.history if move.version > since]:
        cursor.executemany(_WRITE, moves)


def number(cursor: Cursor) -> None:
    """Give their numbers to the changes that have none; what is very old goes."""
    cursor.execute(_LOCK)
    cursor.execute(_NUMBER)
    cursor.execute(_DROP, [_KEPT])


def read(database: Database, after: Position | None, limit: int) -> Moves:
    """Return what came after a position; without one, where the end is."""
    ((name, fresh, first, last),) = database.rows(_STATE)
    if fresh:
        database.run(number)
        ((name, _, first, last),) = database.rows(_STATE)
    if after is None or after.journal != name or not first - 1 <= after.number <= last:
        return Moves(position=Position(name, last), lost=after is not None)
    rows = database.rows(_READ, [after.number, limit])
    moves = tuple((Position(name, number), job_id, version) for number, job_id, version in rows)
    return Moves(position=moves[-1][0] if moves else after, moves=moves)
