"""The shim of ``clock.c`` from Python: the wall clock of a whole service, put forward and back at one moment.

Debian's libfaketime moves the monotonic clock too, or asks each process to look at a file now and then, at moments of its own.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.needs import need


class ShiftedClock:
    """The library, and the file by which processes are told how far ahead they are."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        command = [need("gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", self.library, source]
        subprocess.run([*command, "-ldl"], check=True)
        self._path = folder / "clock"
        self._path.write_bytes(bytes(8))
        with self._path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.ahead = timedelta(0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to have this clock."""
        return {"LD_PRELOAD": str(self.library), "CLOCK_CONTROL": str(self._path)}

    def jump(self, by: timedelta) -> None:
        """Put the clock forward, or back, from one moment to the next."""
        self.ahead += by
        self._map[:] = struct.pack("l", int(self.ahead.total_seconds()))

    def now(self) -> datetime:
        """Return what the service takes the time for."""
        return datetime.now(UTC) + self.ahead
