"""Tokens, what they have used, and what signed links need, in the database of the records: the same on every machine.

Each look is a query, so what one machine makes or revokes counts on the others at once; while the server is away nobody is let in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from service.access.links import BYTES, Link, name_of
from service.access.model import Token, is_token_id
from service.access.quota import Quota, Used, require
from service.access.store import no_such_token
from service.errors import OutcomeUnknown
from service.jobs.postgres.database import Cursor, Database
from service.jobs.store import StoreUnreachable

log = structlog.get_logger(__name__)
_KEEP: Final = "insert into tokens values (%s, %s) on conflict (id) do update set token = excluded.token"


class PostgresTokenStore:
    """The tokens of a deployment."""

    waits = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._some = False  # a token never goes, so that this stays

    def add(self, token: Token) -> None:
        """Keep a new token."""
        self._database.run(lambda cursor: cursor.execute(_KEEP, [token.id, token.model_dump_json()]))

    def get(self, token_id: str) -> Token | None:
        """Return a token, if there is one."""
        if not is_token_id(token_id):
            return None
        found = self._database.rows("select token from tokens where id = %s", [token_id])
        return _read(token_id, found[0][0]) if found else None

    def all(self) -> list[Token]:
        """Return all tokens, oldest first."""
        found = (_read(*row) for row in self._database.rows("select id, token from tokens"))
        return sorted(filter(None, found), key=lambda token: (token.created_at, token.id))

    def change(self, token_id: str, change: Callable[[Token], Token]) -> Token:
        """Replace a token."""

        def work(cursor: Cursor) -> Token:
            row = cursor.execute("select token from tokens where id = %s for update", [token_id]).fetchone()
            token = _read(token_id, row[0]) if row else None
            if token is None:
                raise no_such_token(token_id)
            after = change(token)
            cursor.execute(_KEEP, [after.id, after.model_dump_json()])
            return after

        return self._database.run(work)

    def any(self) -> bool:
        """Tell whether there is a token; once there is one, nobody is asked any more."""
        self._some = self._some or bool(self._database.rows("select from tokens limit 1"))
        return self._some


def _read(token_id: str, text: str) -> Token | None:
    try:
        token = Token.model_validate_json(text)
    except ValueError:
        log.error("the record of a token cannot be read; the token counts as unknown", token=token_id)
        return None
    return token if token.id == token_id else None


class PostgresUsage:
    """What tokens have used. Changes are not worth a flush of the log: a crash of the server may take the last moments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, token_id: str) -> Used:
        """Return what was used."""
        found = self._database.rows("select day, jobs, bytes from used where token = %s", [token_id])
        return Used(*found[0]) if found else Used()

    def add(self, token_id: str, *, jobs: int, size: int, now: datetime, quota: Quota | None = None) -> None:
        """Add to what was used, or raise TooMany."""

        def work(cursor: Cursor) -> None:
            cursor.execute("set local synchronous_commit to off")
            cursor.execute("insert into used (token) values (%s) on conflict do nothing", [token_id])
            sql = "select day, jobs, bytes from used where token = %s for update"
            (row,) = cursor.execute(sql, [token_id]).fetchall()
            after = Used(*row).plus(jobs, size, now)
            if quota:
                require(quota, after, now)
            values = [after.day, after.jobs, after.bytes, token_id]
            cursor.execute("update used set day = %s, jobs = %s, bytes = %s where token = %s", values)

        try:
            self._database.run(work)
        except OutcomeUnknown as error:  # of the charge, not of the job
            raise StoreUnreachable(error.detail) from error


class PostgresLinks:
    """The key that signs links, and the links that were used, until they end."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def key(self) -> bytes:
        """Return the key; made when it is first needed."""
        if found := self._database.rows("select key from link_key"):
            return bytes.fromhex(found[0][0])
        fresh = secrets.token_hex(BYTES)
        self._database.run(
            lambda cursor: cursor.execute("insert into link_key (key) values (%s) on conflict do nothing", [fresh])
        )
        return self.key()

    def is_spent(self, link: Link) -> bool:
        """Tell whether it was used."""
        return bool(self._database.rows("select from spent_links where link = %s", [name_of(link)]))

    def spend(self, link: Link) -> None:
        """Remember that it was used, and forget those that have ended."""
        until = datetime.fromtimestamp(link.exp, UTC) + timedelta(minutes=1)

        def work(cursor: Cursor) -> None:
            cursor.execute("delete from spent_links where until < clock_timestamp()")
            cursor.execute("insert into spent_links values (%s, %s) on conflict do nothing", [name_of(link), until])

        self._database.run(work)
