"""Connections to PostgreSQL: a pool, transactions whose outcome is told for certain or told to be unknown, and safe settings.

A connection that turns out to be dead before its commit is replaced once, so that a restarted server costs no request.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString, TypeVar

import psycopg
import structlog
from psycopg import errors as states
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

from service.errors import ConfigError, OutcomeUnknown
from service.jobs.store import StoreUnreachable

log = structlog.get_logger(__name__)
T = TypeVar("T")
Cursor = psycopg.Cursor[tuple[Any, ...]]
Connection = psycopg.Connection[tuple[Any, ...]]
Values = Sequence[Any] | Mapping[str, Any]

#: What a connection has unless its URL says otherwise (libpq, section 34.1.2): a dead server is noticed within 15 s.
_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    "fallback_application_name": "file-intake",
}
_SIZE: Final = 10  #: connections for the records, of one process, beside that of its line
_PATIENCE: Final = 3.0  #: seconds to wait for a connection while the server answers
_IMPATIENCE: Final = 0.25  #: seconds to wait for one after it has not
_START: Final = 10.0  #: seconds that a start waits for the server
_OLDEST: Final = 130_000  #: PostgreSQL 13
#: Of a session: what ends a transaction whose process is stuck or gone, so that it blocks nobody for long.
_SESSION: Final = """
select set_config('idle_in_transaction_session_timeout', '20s', false), set_config('lock_timeout', '10s', false),
  set_config('statement_timeout', '30s', false), set_config('timezone', 'UTC', false),
  set_config('synchronous_commit', case when %s then 'off' when current_setting('synchronous_commit') = 'off' then 'on'
    else current_setting('synchronous_commit') end, false)
"""
_SERVER: Final = """
select current_setting('server_version_num')::int, current_setting('fsync') = 'on',
  (select reset_val from pg_settings where name = 'synchronous_commit'), current_setting('synchronous_commit'),
  current_setting('transaction_read_only') = 'on', current_schema()
"""


class Database:
    """The connections of one process. Safe to use from many threads; not across a fork.

    With ``durable`` every commit waits until the server has it on disk, also where the server's own default is not to.
    """

    def __init__(self, url: str, *, durable: bool = True, size: int = _SIZE) -> None:
        try:
            self.conninfo: Final = make_conninfo("", **(_DEFAULTS | conninfo_to_dict(url)))
        except psycopg.ProgrammingError:
            raise ConfigError("INTAKE_RECORDS: it is not the URL of a PostgreSQL database") from None
        self._durable = durable
        self._answers = True
        self._pool = ConnectionPool(
            self.conninfo,
            connection_class=psycopg.Connection[tuple[Any, ...]],
            min_size=1,
            max_size=size,
            max_idle=60,
            reconnect_timeout=1.5,
            timeout=_PATIENCE,
            configure=self._prepare,
            open=False,
            name="records",
        )

    @property
    def place(self) -> str:
        """Where the database is, without user and password."""
        return place_of(self.conninfo)

    def open(self) -> None:
        """Connect, and see to it that the server is one the records are safe with. Raises ConfigError."""
        self._pool.open()
        try:
            self._pool.wait(_START)
            ((version, synced, asked, got, read_only, schema),) = self.rows(_SERVER)
        except (psycopg.OperationalError, StoreUnreachable):
            self._pool.close()
            raise ConfigError(f"INTAKE_RECORDS: {self._complaint()}") from None
        problem = None
        if version < _OLDEST:
            problem = "the server is older than PostgreSQL 13"
        elif schema is None:
            problem = "the schema of its search_path does not exist"
        elif read_only:
            problem = "the server is read-only: a standby? Add target_session_attrs=read-write to the URL"
        elif self._durable and not synced:
            problem = (
                "the server has fsync=off and would lose accepted files in a power cut; INTAKE_DURABILITY=none takes it"
            )
        if problem:
            self._pool.close()
            raise ConfigError(f"INTAKE_RECORDS ({self.place}): {problem}")
        if asked == "off" and got != "off":
            log.info("the server's synchronous_commit is off; the records' sessions set it to on")

    def connect(self) -> Connection:
        """Return a connection of its own, which whoever asked for it closes. Raises psycopg.Error."""
        connection = psycopg.connect(self.conninfo, autocommit=True)
        self._prepare(connection)
        return connection

    def rows(self, sql: LiteralString, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which changes nothing. Raises StoreUnreachable."""
        return self._twice(lambda connection: connection.execute(sql, values).fetchall())

    def run(self, work: Callable[[Cursor], T]) -> T:
        """Run ``work`` in a transaction and commit it; it may be called twice, the first time without effect.

        Raises what ``work`` raises, StoreUnreachable when nothing was committed, OutcomeUnknown when it may have been, and
        OSError (ENOSPC) when the server's disk is full.
        """
        return self._twice(lambda connection: _transact(connection, work))

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._pool.close()

    def _twice(self, use: Callable[[Connection], T]) -> T:
        try:
            return self._once(use)
        except _DiedError:
            self._pool.check()  # the others of the pool are dead most likely
        try:
            return self._once(use)
        except _DiedError as error:
            raise self._unreachable(error) from error

    def _once(self, use: Callable[[Connection], T]) -> T:
        with self._borrowed() as connection:
            try:
                return use(connection)
            except states.DiskFull as error:
                raise OSError(errno.ENOSPC, "the disk of the records' server is full") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, states.ReadOnlySqlTransaction) as error:
                if isinstance(error, states.ReadOnlySqlTransaction):  # it has become a standby
                    connection.close()
                if connection.closed:
                    raise _DiedError(*error.args) from error
                raise self._unreachable(error) from error

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        try:
            connection = self._pool.getconn(_PATIENCE if self._answers else _IMPATIENCE)
        except psycopg.OperationalError as error:
            if self._answers:
                log.error("the records' server does not answer", server=self.place)
            self._answers = False
            raise self._unreachable(error) from error
        if not self._answers:
            log.info("the records' server answers again", server=self.place)
        self._answers = True
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    def _prepare(self, connection: Connection) -> None:
        connection.autocommit = True
        connection.execute(_SESSION, [not self._durable])

    def _unreachable(self, error: Exception) -> StoreUnreachable:
        return StoreUnreachable(f"the records' server at {self.place} does not answer: {_first_line(error)}")

    def _complaint(self) -> str:
        """Say why there is no connection, in the server's words; they name user and database, never the password."""
        try:
            psycopg.connect(self.conninfo).close()
        except psycopg.Error as error:
            return f"PostgreSQL at {self.place} cannot be used: {_first_line(error)}"
        return f"PostgreSQL at {self.place} did not answer in time"


class _DiedError(Exception):
    """The connection was lost before anything was committed."""


def _transact(connection: Connection, work: Callable[[Cursor], T]) -> T:
    committing = False
    try:
        with connection.transaction(), connection.cursor() as cursor:
            value = work(cursor)
            committing = True
        return value
    except psycopg.OperationalError as error:
        if committing and connection.closed:
            raise OutcomeUnknown(
                "The connection to the records was lost while a change was committed; it was either made or not made.",
                hint="Look at the job again, or send the request again with the same Idempotency-Key.",
                retry_after=5,
            ) from error
        raise


def place_of(conninfo: str) -> str:
    """Return host, port and database of a connection string or URL: what may be shown of it."""
    parts = conninfo_to_dict(conninfo)
    host, port = parts.get("host") or "localhost", parts.get("port") or 5432
    return f"{host}:{port}/{parts.get('dbname') or ''}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
