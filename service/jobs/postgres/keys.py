"""Idempotency-Keys as rows: which job a key belongs to, and a hold for as long as its first request is received."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from service.clock import Clock
from service.errors import KeyInFlight
from service.jobs.postgres.database import Cursor, Database
from service.jobs.postgres.holds import Holds

_KNOWN: Final = """
select jobs.id::text from keys join jobs on jobs.id = keys.job where keys.scope = %s and jobs.record is not null
"""
_BIND: Final = """
insert into keys (scope, job, bound_at) values (%s, %s, %s)
on conflict (scope) do update set job = excluded.job, bound_at = excluded.bound_at
"""
_SWEEP: Final = """
delete from keys where bound_at < %s and not exists (select from jobs where jobs.id = keys.job and jobs.pending)
  and not exists (select from holds where holds.name = 'key:' || keys.scope and holds.until > clock_timestamp())
"""


class PostgresKeys:
    """All keys of a database. A key is bound before its job is committed; bound to none, it is free again."""

    def __init__(self, database: Database, holds: Holds, *, clock: Clock) -> None:
        self._database = database
        self._holds = holds
        self._clock = clock

    @contextmanager
    def hold(self, scope: str) -> Iterator[PostgresKey]:
        """Hold the key ``scope``. Raises KeyInFlight while another request holds it."""
        name = f"key:{scope}"

        def take(cursor: Cursor) -> tuple[str | None, str | None]:
            token = self._holds.take(cursor, name)
            known = cursor.execute(_KNOWN, [scope]).fetchone() if token else None
            return token, known[0] if known else None

        token, known = self._database.run(take)
        if token is None:
            raise KeyInFlight(
                "An upload with this Idempotency-Key is being received.",
                hint="Send the same request again in a moment.",
                retry_after=1,
            )
        self._holds.keep(name, token)
        try:
            yield PostgresKey(self._database, scope, known=known, clock=self._clock)
        finally:
            self._holds.release(name, token)

    def sweep(self, before: datetime) -> int:
        """Remove the keys that were bound before this moment and whose job is done; return how many."""
        return self._database.run(lambda cursor: cursor.execute(_SWEEP, [before]).rowcount)


class PostgresKey:
    """A held key."""

    def __init__(self, database: Database, scope: str, *, known: str | None, clock: Clock) -> None:
        self.known = known
        self._database, self._scope, self._clock = database, scope, clock

    def bind(self, job_id: str) -> None:
        """Write the id of the job; durable."""
        self._database.run(lambda cursor: cursor.execute(_BIND, [self._scope, job_id, self._clock()]))
