"""What the processes of one machine count: each for itself in memory, and within a second all together in one SQLite file.

The file outlives a process that is replaced, so that its counters never go back. Losing it sets them to nought, no more.
Memory-mapped files, as Prometheus' own library shares counters, would end the process when the disk is full.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import structlog

from service import tallies
from service.figures import LOOP_LAG, Key, Metric, Sum, Tallies

log = structlog.get_logger(__name__)
_PULSE: Final = 0.5  #: seconds between two looks at the event loop's lag
_LATE: Final = 0.05  #: seconds that a loop may be late without being counted
_BLOCKED: Final = 1.0  #: seconds from which it is worth a line in the log
_BUSY: Final = 2.0  #: seconds to wait for another process that writes


class Counts:
    """Counters of a process, shared with those of all others that use the same file; without a file it counts alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._tallies = Tallies()
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def add(self, metric: Metric, *labels: str, value: float = 1.0) -> None:
        """Count one observation; takes microseconds, and never raises."""
        self._tallies.add(metric, *labels, value=value)

    def read(self) -> dict[Key, Sum]:
        """Return what all processes have counted: this one until now, the others until a second ago at most. Blocks."""
        if self._path is not None:
            try:
                with self._lock:
                    return tallies.read(self._written())
            except (sqlite3.Error, OSError) as error:
                self._drop(error)
        return self._tallies.read()

    def flush(self) -> None:
        """Write down what was counted since the last time. Blocks; a file that cannot be written costs nothing counted."""
        if self._path is not None and not self._tallies.is_empty():
            try:
                with self._lock:
                    self._written()
            except (sqlite3.Error, OSError) as error:
                self._drop(error)

    def close(self) -> None:
        """Write down the last counts and close the file."""
        self.flush()
        with self._lock:
            self._disconnect()

    def _written(self) -> sqlite3.Connection:
        db = self._connect()
        taken = self._tallies.take()
        try:
            with db:
                tallies.add(db, taken)
        except BaseException:
            self._tallies.merge(taken)
            raise
        return db

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            assert self._path is not None, "without a file nothing is connected"
            connection = sqlite3.connect(self._path, timeout=_BUSY, check_same_thread=False)
            try:
                connection.execute("pragma synchronous = off")
                connection.execute("pragma journal_mode = wal")
                connection.executescript(tallies.SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _drop(self, error: Exception) -> None:
        log.warning("the counters cannot be shared now", error=str(error))
        with self._lock:
            self._disconnect()
            if self._path is not None and not isinstance(error, sqlite3.OperationalError | OSError):  # it is damaged
                for suffix in ("", "-wal", "-shm"):
                    with suppress(OSError):
                        self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


async def keep(counts: Counts) -> None:
    """Write the counts down each second, and count how late the event loop is; runs until it is cancelled."""
    loop = asyncio.get_running_loop()
    for beat in range(2**62):
        began = loop.time()
        await asyncio.sleep(_PULSE)
        late = loop.time() - began - _PULSE
        if late > _LATE:
            counts.add(LOOP_LAG, value=late)
        if late > _BLOCKED:
            log.warning("the event loop was blocked", seconds=round(late, 3))
        if beat % 2:
            await asyncio.to_thread(counts.flush)
