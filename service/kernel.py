"""Calls of the C library that Python's own modules do not have, with errors raised as they are everywhere else."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}  #: number of the system call, by machine
_NICE: Final = 10  #: steps of priority below the API: where cores are short, whoever waits for an answer goes first
_SLICE: Final = 100_000  #: microseconds at a stretch, the longest there is: who asks for less goes first


def call(function: str, *arguments: Any) -> int:
    """Return what ``function`` returns: prctl, capset, or ``syscall`` with a number. Raises OSError when that is negative.

    Integers are passed as words, which those that take any number of arguments read.
    """
    result = int(_found(function)(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@cache
def _found(function: str) -> Callable[..., int]:
    """Look a function up, once: each new handle of the library makes a class of its own, which takes longer than most calls."""
    found = ctypes.CDLL(None, use_errno=True)[function]
    found.restype = ctypes.c_long if function == "syscall" else ctypes.c_int
    return found


def version() -> tuple[int, int]:
    """Return the first two numbers of the kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def give_way() -> None:
    """Lower the priority of this process, and where the kernel weighs sessions against each other, that of a session of its own.

    With Linux's autogroups (sched(7)) the niceness of a process counts within its session alone, and each attempt has its own.
    Niceness decides how much of a processor each gets, not who goes first: Linux lets a running process finish its slice, and the
    disk's own threads, which every sync waits for several times, would sit out one each time. It is cut short for whoever asks for
    a shorter one.
    """
    os.nice(_NICE)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # there is no such thing, or others have done so within a tenth of a second
            Path("/proc/self/autogroup").write_text(str(_NICE))
    with suppress(OSError):
        set_slice(_SLICE)


def set_slice(microseconds: int) -> None:
    """Ask that this process, and what it starts from now on, run for so long at a stretch when others want the processor.

    A kernel before Linux 6.12 takes no notice. Does nothing where there is no such call or the process has another policy than the
    usual one. Raises OSError.
    """
    number = _SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    # policy, flags, niceness, priority, and three times in nanoseconds
    fields = (os.SCHED_OTHER, 0, niceness, 0, microseconds * 1000, 0, 0)
    attributes = struct.Struct("=IIQiIQQQ")
    call("syscall", number, 0, attributes.pack(attributes.size, *fields), 0)


def keep_freed(size: int) -> None:
    """Have the C library keep up to so many freed bytes for what comes next, with buffers of up to half of that among them.

    Otherwise glibc gives larger buffers back to the kernel again and again, and each of their pages comes anew, cleared, by a fault
    of its own. Other libraries are left as they are.
    """
    with suppress(AttributeError):
        call("mallopt", _M_MMAP_THRESHOLD, size // 2)
        call("mallopt", _M_TRIM_THRESHOLD, size)
