"""A process's line to the database: it hears and tells news of jobs (LISTEN, NOTIFY), and keeps the process's holds alive.

One thread with one connection of its own. News are told after their commit and apart from it: a NOTIFY within would have the
server make commits wait for each other, and news are a hint that may be lost.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Final

import psycopg
import structlog
from psycopg.sql import SQL, Identifier

from service.jobs.postgres.database import Connection, Database

log = structlog.get_logger(__name__)
_AGAIN: Final = 0.5  #: seconds between two tries to connect
_QUEUED: Final = 10_000  #: news that wait to be told; more are dropped
_LAST: Final = 2.0  #: seconds that ``close`` gives the last news
_NEWS: Final = "select pg_notify(%s, id) from unnest(%s::text[]) as id"
_RENEW: Final = (
    "update holds set until = clock_timestamp() + make_interval(secs => %s) where token = any(%s) returning token"
)

Tell = Callable[[str], None]


class Line:
    """Starts its thread when it is used first. ``ttl`` is how long a hold lasts without being renewed, in seconds."""

    def __init__(self, database: Database, *, ttl: float) -> None:
        self._database = database
        self._ttl = ttl
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._heeding: list[tuple[bool, Tell]] = []
        self._news: dict[tuple[str, bool], None] = {}
        self._kept: dict[str, str] = {}
        self._renewed: dict[str, float] = {}  # by token, when it was surely valid last

    def heed(self, tell: Tell, *, due: bool) -> None:
        """Call ``tell``, from the line's thread, with the id of each job that changed; with ``due``, that can be run now."""
        with self._lock:
            self._heeding.append((due, tell))
        self._wake()

    def ring(self, job_id: str, *, due: bool) -> None:
        """Tell all processes that a job has changed, and with ``due`` that it can be run; may be lost."""
        with self._lock:
            if len(self._news) < _QUEUED:
                self._news[(job_id, False)] = None
                if due:
                    self._news[(job_id, True)] = None
        self._wake()

    def keep(self, token: str, name: str) -> None:
        """Renew the hold with this token until ``drop``."""
        with self._lock:
            self._kept[token] = name
            self._renewed[token] = time.monotonic()
        self._wake()

    def is_kept(self, token: str) -> bool:
        """Tell whether the hold has been renewed in time."""
        with self._lock:
            return token in self._kept and time.monotonic() < self._renewed[token] + self._ttl

    def keeps(self, name: str) -> bool:
        """Tell whether it renews a hold with this name."""
        with self._lock:
            return name in self._kept.values()

    def drop(self, token: str) -> None:
        """Renew it no more."""
        with self._lock:
            self._kept.pop(token, None)
            self._renewed.pop(token, None)

    def close(self) -> None:
        """Tell the last news and hang up."""
        self._closed = True
        if self._thread is not None:
            self._wake()
            self._thread.join(_LAST + 6)  # it may be about to connect
        self._near.close()
        self._far.close()

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._serve, name="records-line", daemon=True)
                self._thread.start()
        with suppress(OSError):
            self._near.send(b"\0")

    def _serve(self) -> None:
        lost = False
        while True:
            try:
                with closing(self._database.connect()) as connection:
                    if lost:
                        log.info("news of jobs are heard again")
                    lost = False
                    self._listen(connection)
                    self._work(connection)
                    return
            except psycopg.Error as error:
                if not lost:
                    log.warning("the line for news of jobs is lost; it is made again", error=str(error).strip())
                lost = True
            if self._closed:
                return
            time.sleep(_AGAIN)

    def _listen(self, connection: Connection) -> None:
        ((schema,),) = connection.execute("select current_schema()").fetchall()
        self._channels = {_channel(schema, due): due for due in (False, True)}
        connection.execute("set synchronous_commit to off")  # nothing that is written here needs to outlast a crash
        for channel in self._channels:
            connection.execute(SQL("listen {}").format(Identifier(channel)))

    def _work(self, connection: Connection) -> None:
        renew_at, beat = 0.0, self._ttl / 3
        while True:
            closed = self._closed  # before the last news are taken
            self._send(connection)
            if closed:
                return
            if time.monotonic() >= renew_at:
                self._renew(connection)
                renew_at = time.monotonic() + beat
            self._hear(connection)
            select.select([connection.fileno(), self._far.fileno()], [], [], max(0.0, renew_at - time.monotonic()))
            with suppress(BlockingIOError):
                self._far.recv(4096)

    def _send(self, connection: Connection) -> None:
        with self._lock:
            news, self._news = self._news, {}
        for channel, is_due in self._channels.items():
            if ids := [job_id for job_id, due in news if due is is_due]:
                connection.execute(_NEWS, [channel, ids])

    def _renew(self, connection: Connection) -> None:
        """Renew all holds; without any, the statement still tells whether the connection lives."""
        began = time.monotonic()
        with self._lock:
            kept = dict(self._kept)
        rows = connection.execute(_RENEW, [self._ttl, list(kept)]).fetchall()
        renewed = _texts(rows)
        with self._lock:
            self._renewed |= dict.fromkeys(renewed & self._kept.keys(), began)
        for token in kept.keys() - renewed:
            with self._lock:
                lost = self._kept.pop(token, None)
                self._renewed.pop(token, None)
            if lost is not None:
                log.error("a hold was lost: it was not renewed in time", hold=lost)

    def _hear(self, connection: Connection) -> None:
        for news in connection.notifies(timeout=0):
            due = self._channels.get(news.channel)
            with self._lock:
                heeding = [tell for wanted, tell in self._heeding if wanted is due]
            for tell in heeding:
                try:
                    tell(news.payload)
                except Exception:
                    log.exception("news of a job were not taken", job_id=news.payload)


def _channel(schema: str, due: bool) -> str:
    """Return the channel of one service's news: channels belong to the database, services to a schema of it."""
    return f"intake_{'due' if due else 'changed'}_{schema}"[:63]


def _texts(rows: Iterable[tuple[object, ...]]) -> set[str]:
    return {str(token) for (token,) in rows}
