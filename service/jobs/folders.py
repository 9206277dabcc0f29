"""Where a job lives on disk: dated folders, so that no folder grows without end and the newest are found without a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import date
from functools import lru_cache
from pathlib import Path

from service.ids import created_at, is_id


@lru_cache(maxsize=1024)
def job_folder(root: Path, job_id: str) -> Path:
    """Return ``<root>/jobs/<yyyy>/<mm>/<dd>/<id>`` with the date of the id, in UTC."""
    return _day_folder(root, created_at(job_id).date()) / job_id


@lru_cache(maxsize=64)
def _day_folder(root: Path, day: date) -> Path:
    return root / "jobs" / day.strftime("%Y/%m/%d")


def remove_folder(folder: Path, names: AbstractSet[str]) -> None:
    """Remove a folder that has these files at most: what else there was of its job was elsewhere, or is gone."""
    with suppress(OSError):
        if set(os.listdir(folder)) <= names:  # noqa: PTH208 - names are all that is needed
            for name in names:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def walk(root: Path) -> Iterator[str]:
    """Yield the ids of all job folders, newest first."""
    return _descend(root / "jobs", 3)


def ids_in(folder: Path) -> Iterator[str]:
    """Yield the names in a folder that are ids, in no order."""
    return filter(is_id, os.listdir(folder))  # noqa: PTH208 - names are all that is needed, and there may be 100,000


def _descend(folder: Path, levels: int) -> Iterator[str]:
    try:
        names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208 - as above
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if levels:
            yield from _descend(folder / name, levels - 1)
        elif is_id(name):
            yield name


def mark_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when another file takes this name: each version of a record is a new file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - called by the thousand, and twice as quick
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
