"""Removing folders that nobody trusts: an attempt may have nested them deeper than a path can say, or a stack go down."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.ids import new_id

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(folder: Path) -> int:
    """Remove ``folder`` with all it holds, as far as that can be; return the bytes freed. Fine if it is not there."""
    freed = empty(folder)
    with suppress(OSError):
        folder.rmdir()
    return freed


def empty(folder: Path) -> int:
    """Remove all that ``folder`` holds, as far as that can be; return the bytes freed.

    A folder within one of its folders is moved up beside that, and its turn comes: whatever their depth, no path gets long. Links
    are removed, never followed. What others remove at the same time is not counted.
    """
    freed = 0
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return 0
    try:
        waiting = os.listdir(top)  # noqa: PTH208 - a descriptor, not a path
        while waiting:
            with suppress(OSError):
                freed += _clear(top, waiting.pop(), waiting)
    finally:
        os.close(top)
    return freed


def _clear(top: int, name: str, waiting: list[str]) -> int:
    """Remove one name in ``top`` and the files in it, and add to ``waiting`` what was moved up."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=top)
    except NotADirectoryError:
        return _unlink(name, top)
    freed = 0
    try:
        with os.scandir(inner) as found:
            entries = list(found)
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    up = new_id()
                    os.rename(entry.name, up, src_dir_fd=inner, dst_dir_fd=top)
                    waiting.append(up)
                else:
                    freed += _unlink(entry.name, inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
    return freed


def _unlink(name: str, parent: int) -> int:
    size = os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
    os.unlink(name, dir_fd=parent)
    return size
