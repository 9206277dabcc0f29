"""The shim of ``shim.c`` from Python: built once, armed and read through a file shared with the processes under it."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.needs import need

API, SUPERVISOR, ATTEMPT = 1, 2, 4  #: the roles of processes, as bits
_FAIL, _SHORT, _TORN, _KILL, _TORN_KILL = 1, 2, 3, 4, 5
_HEAD: Final = struct.Struct("8I256s")
_TRACED, _WIDTH = 400, 96
_EVER: Final = 2**32 - 1


@dataclass(frozen=True)
class Fault:
    """What an operation does instead of its work."""

    name: str
    mode: int
    error: int = 0
    lasting: bool = False  #: all later operations too, until it is disarmed

    @property
    def kills(self) -> bool:
        return self.mode in (_KILL, _TORN_KILL)

    def __str__(self) -> str:
        return self.name


_ERRORS: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
FAULTS: Final = (
    *(Fault(name, _FAIL, getattr(errno, name)) for name in (*_ERRORS, "EINTR")),
    *(Fault(f"{name}-from-here", _FAIL, getattr(errno, name), lasting=True) for name in _ERRORS),
    Fault("short", _SHORT),
    Fault("torn", _TORN, errno.EIO),
    Fault("kill", _KILL),
    Fault("torn-kill", _TORN_KILL),
)


class Shim:
    """The library, and the file by which it is told what to do below ``prefix``."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        self.library = folder / "shim.so"
        source = Path(__file__).with_name("shim.c")
        command = [need("gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", self.library, source]
        subprocess.run([*command, "-ldl"], check=True)
        self._path = folder / "control"
        self._path.write_bytes(bytes(_HEAD.size + _TRACED * _WIDTH))
        with self._path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._prefix = os.fsencode(prefix)
        self.disarm()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be under the shim."""
        return {"LD_PRELOAD": str(self.library), "SHIM_CONTROL": str(self._path)}

    def count_only(self, roles: int) -> None:
        """Count the operations of these roles from now on, and let all of them work."""
        self._write(roles, 0, 0, 0, 0)

    def arm(self, roles: int, number: int, fault: Fault) -> None:
        """Let operation ``number``, counted from now on, do ``fault``."""
        self._write(roles, number, _EVER if fault.lasting else number, fault.mode, fault.error)

    def disarm(self) -> None:
        self._write(0, 0, 0, 0, 0)

    @property
    def count(self) -> int:
        return int(_HEAD.unpack_from(self._map)[5])

    @property
    def fired(self) -> int:
        """How many operations the fault has hit since it was armed."""
        return int(_HEAD.unpack_from(self._map)[6])

    @property
    def trace(self) -> list[str]:
        """What the operations were, up to 400, each with its path below the prefix."""
        starts = range(_HEAD.size, _HEAD.size + min(self.count, _TRACED) * _WIDTH, _WIDTH)
        return [self._map[at : at + _WIDTH].partition(b"\0")[0].decode(errors="replace") for at in starts]

    def _write(self, roles: int, first: int, last: int, mode: int, error: int) -> None:
        self._map[:4] = bytes(4)  # nobody acts on the half of it
        self._map[4 : _HEAD.size] = _HEAD.pack(0, first, last, mode, error, 0, 0, 0, self._prefix)[4:]
        self._map[:4] = struct.pack("I", roles)
