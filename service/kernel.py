"""Calls of the C library that Python's own modules do not have, with errors raised as they are everywhere else."""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any


def call(function: str, *arguments: Any) -> int:
    """Return what ``function`` returns: prctl, capset, or ``syscall`` with a number. Raises OSError when that is negative.

    Integers are passed as words, which those that take any number of arguments read.
    """
    found = ctypes.CDLL(None, use_errno=True)[function]
    found.restype = ctypes.c_long if function == "syscall" else ctypes.c_int
    result = int(found(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def version() -> tuple[int, int]:
    """Return the first two numbers of the kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
