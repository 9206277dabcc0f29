"""What an examination finds, and what it does about it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from service.durable import Disk
from service.errors import IntakeError

_REPAIR: Final = "`intake fsck --repair` "


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    hint: str | None = None


class Examination:
    """Counts what is wrong, and with ``repair`` mends what comes with a way to."""

    def __init__(self, *, repair: bool) -> None:
        self._repair = repair
        self._wrong = 0

    def _guarded(self, part: Iterator[Finding], path: Path) -> Iterator[Finding]:
        try:
            yield from part
        except (OSError, IntakeError, sqlite3.Error) as error:
            self._wrong += 1
            yield Finding(level="fail", subject=str(path), detail=f"It cannot be examined: {error}")

    def _wrong_is(
        self, subject: str, detail: str, hint: str, mend: Callable[[], object] | None = None, done: str = ""
    ) -> Iterator[Finding]:
        """Tell what is wrong; with ``mend`` it can be repaired, and ``hint`` completes what a repair would do."""
        if mend is not None and self._repair:
            mend()
            yield Finding(level="warn", subject=subject, detail=detail, hint=done)
            return
        self._wrong += 1
        yield Finding(level="fail", subject=subject, detail=detail, hint=_REPAIR + hint if mend else hint)


class FileExamination(Examination):
    """One of files below a folder. What belongs to nothing goes to ``lost+found/`` there, and is named."""

    def __init__(self, root: Path, disk: Disk, *, repair: bool) -> None:
        super().__init__(repair=repair)
        self._root, self._disk = root, disk

    def _empty(self, path: Path, subject: str) -> Iterator[Finding]:
        """Require that a file which is only a sign or a lock has no content; it need not be there."""
        if path.is_symlink() or (path.exists() and not path.is_file()):
            yield from self._stray(path)
        elif path.exists() and path.stat().st_size:
            mend = partial(path.write_bytes, b"")
            yield from self._wrong_is(subject, f"{path.name} is not empty.", "empties it.", mend, "It is empty again.")

    def _stray(self, path: Path) -> Iterator[Finding]:
        name = path.relative_to(self._root).as_posix()

        def mend() -> None:
            self._disk.make_folders(self._root / "lost+found")
            target = self._root / "lost+found" / f"{time.time_ns()}-{name.replace('/', '_')}"[-200:]
            path.rename(target)
            self._disk.sync_folder(path.parent)

        detail = "Nothing refers to it."
        yield from self._wrong_is(name, detail, "moves it to lost+found/.", mend, "It is in lost+found/ now.")
