"""Landlock: from here on this process opens only the files it was given (Linux 5.13), and makes no TCP connections (6.7).

Unprivileged, and inherited by whatever the process starts. See landlock(7). What it does not cover: files that are open already,
``stat``, the mode, owner and times of files, UDP and Unix sockets with a path. What is in ``seccomp`` closes most of that.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from service.kernel import call

_CREATE_RULESET: Final = 444  # the same number on every architecture
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES: Final = _EXECUTE | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # all rights that a single file can have
_ALL_BY_ABI: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_WRITE: Final = ~(_EXECUTE | 1 << 6 | 1 << 9 | 1 << 11)  # neither programs nor devices (as root) nor sockets are made
_NO_TCP: Final = 1 << 0 | 1 << 1  # bind, connect
_SCOPES: Final = 1 << 0 | 1 << 1  # abstract sockets and signals stay within the sandbox

#: The first version that covers all writing: before it, a file could be cut by its name.
WHOLE: Final = 3


def abi() -> int:
    """Return the version of Landlock that this kernel has; 0 for none."""
    if sys.platform != "linux":
        return 0
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Give up every file but these and what is below them; needs no_new_privs. Return False where there is no Landlock.

    Paths that do not exist are passed over. Raises OSError when the kernel refuses a rule.
    """
    version = abi()
    if version == 0:
        return False
    handled = _ALL_BY_ABI[max(known for known in _ALL_BY_ABI if known <= version)]
    attributes = [handled, *([_NO_TCP] if version >= 4 else []), *([_SCOPES] if version >= 6 else [])]
    data = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = call("syscall", _CREATE_RULESET, data, len(data), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled & _WRITE)
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
