"""What an examination finds, and what it does about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

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
