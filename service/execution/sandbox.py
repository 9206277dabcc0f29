"""What an attempt's process may use. Called in the child, before it touches the file; nothing here can be undone by it.

In this order: memory, CPU time, file size and open files by rlimits; no new privileges and none of root's; no files but its own,
by Landlock; no processes, sockets or power over others, by seccomp. Systems other than Linux have the rlimits.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import processors
import service
from service.execution import landlock, seccomp
from service.kernel import call

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITIES_V3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1

#: What a Python process needs to load libraries: its own installation and the system's, never the data directory.
_INSTALLED: Final = ("stdlib", "platstdlib", "purelib", "platlib")
_SYSTEM: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """Limits of one process. Sizes in bytes, 0 for none; CPU time in seconds; ``sandbox`` as in INTAKE_SANDBOX."""

    memory: int
    output: int
    files: int
    cpu: int
    sandbox: Literal["auto", "strict", "off"] = "auto"


def layers(sandbox: str) -> list[str]:
    """Return the names of the layers that this system can put around an attempt under this INTAKE_SANDBOX."""
    found = ["rlimits"]
    if sandbox != "off" and sys.platform == "linux":
        found.append("no_new_privs")
        if landlock.abi():
            found.append("landlock")
        if seccomp.is_available():
            found.append("seccomp")
    return found


def missing() -> list[str]:
    """Return what INTAKE_SANDBOX=strict wants and this system has not, in words."""
    lacks = []
    if landlock.abi() < landlock.WHOLE:
        lacks.append("Landlock of Linux 6.2 or newer")
    if not seccomp.is_available():
        lacks.append("seccomp on x86-64 or arm64")
    return lacks


def prepare() -> None:
    """Find out once what ``confine`` has to find out, for the processes that are forked from this one."""
    _installation()
    if "seccomp" in layers("auto"):
        seccomp.prepare()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, whose pid is ``parent``, dies. Only between single-threaded processes."""
    if sys.platform == "linux":
        call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


def adopt_orphans() -> None:
    """Have the kernel make every orphaned descendant of this process its child, where it would become that of init."""
    if sys.platform == "linux":
        call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def confine(limits: ProcessLimits, *, readable: Iterable[Path], writable: Iterable[Path]) -> list[str]:
    """Apply all limits to this process and return the names of the layers in force.

    Beside the interpreter and the system's libraries, only ``readable`` and the folders ``writable`` can be opened afterwards.
    """
    level = ["rlimits"]
    _limit(resource.RLIMIT_CORE, 0, 0)
    _limit(resource.RLIMIT_NOFILE, limits.files, limits.files)
    _limit(resource.RLIMIT_CPU, limits.cpu, limits.cpu + 5)
    if limits.output:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead
        _limit(resource.RLIMIT_FSIZE, limits.output, limits.output)
    if limits.memory:
        _limit(resource.RLIMIT_AS, limits.memory, limits.memory)
    if sys.platform == "linux" and limits.sandbox != "off":
        call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _give_up_capabilities()
        level.append("no_new_privs")
        if landlock.restrict(readable=(*_installation(), *readable), writable=(*writable, Path(os.devnull))):
            level.append("landlock")
        if seccomp.install():
            level.append("seccomp")
    if limits.sandbox == "strict" and not {"landlock", "seccomp"} <= set(level):
        raise OSError("a layer that INTAKE_SANDBOX=strict wants could not be applied")
    return level


@cache
def _installation() -> tuple[Path, ...]:
    """Return the files of the interpreter and the system, none of which is within another."""
    packages = [Path(module.__file__).parent for module in (processors, service) if module.__file__]
    paths = [*packages, *(Path(sysconfig.get_path(name)) for name in _INSTALLED), *map(Path, _SYSTEM)]
    found = {path.resolve() for path in paths if path.exists()}
    return tuple(path for path in sorted(found) if found.isdisjoint(path.parents))


def _limit(what: int, soft: int, hard: int) -> None:
    ceiling = resource.getrlimit(what)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def _give_up_capabilities() -> None:
    """Keep nothing of root's power but to read and write files, which Landlock bounds: see capabilities(7)."""
    kept = 1 << _CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    data = struct.pack("6I", kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    call("capset", header, data)
