"""The audit log: who did what, from where, one JSON object a line, appended and never changed.

Several processes write to one file, each line whole. A file that has grown is put aside under the time of that; the oldest go.
Writing never raises: a log that cannot be written is told in the ordinary log, and stops nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote_plus

import structlog

from service.clock import Clock, utc_now
from service.durable import locked

if TYPE_CHECKING:
    from service.settings import Settings

log = structlog.get_logger(__name__)
_MODE: Final = 0o640
_LONGEST: Final = 4096  #: characters of a value
_HIDDEN: Final = "***"
#: Parameters whose value is never written: what opens something, here and where clients are used to put it.
_SECRET_NAMES: Final = re.compile(
    r"sig|signature|key|auth|authorization|pass|password|pwd|secret|code|jwt|session|"
    r".*[-_]?(token|secret|password|signature|credential|api[-_]?key|access[-_]?key)",
    re.IGNORECASE,
)
_SECRET_VALUES: Final = re.compile(r"fik_[0-9a-z]{10}_\w+|whsec_[\w+/=-]+|eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Audit:
    """The log in one folder. ``size`` is that of a file, in bytes, 0 for no log at all; ``keep`` is how many old ones stay."""

    def __init__(self, folder: Path, *, size: int, keep: int, clock: Clock = utc_now) -> None:
        self._folder, self._size, self._keep, self._clock = folder, size, keep, clock

    @classmethod
    def of(cls, settings: Settings, *, clock: Clock = utc_now) -> Self:
        """Return the log of a data directory, as the settings want it."""
        folder = settings.data_dir.resolve() / "audit"
        return cls(folder, size=settings.audit_size, keep=settings.audit_keep, clock=clock)

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return self._folder / "audit.jsonl"

    def write(self, action: str, **members: Any) -> None:
        """Append a line: the moment, the action, and those members that are not None. Never raises."""
        self.write_all([{"action": action, **members}])

    def write_all(self, lines: Sequence[Mapping[str, Any]]) -> list[None]:
        """Append a line for each of these: the moment, its ``action``, and those members that are not None.

        Never raises; what it returns says for each, as a ``Batch`` asks it, that nothing went wrong.
        """
        if self._size:
            self._write_all(lines)
        return [None] * len(lines)

    def _write_all(self, lines: Sequence[Mapping[str, Any]]) -> None:
        try:
            at = self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")
            written = [_line(at, members) for members in lines]
            whole = b"".join(written)
            self._folder.mkdir(mode=0o750, exist_ok=True)
            with locked(self._folder / "lock"):
                for part in [whole] if len(whole) <= self._size else written:
                    self._append(part)
        except Exception as error:  # noqa: BLE001 - whatever it is, the requests it is about have been answered
            actions = ", ".join(sorted({members["action"] for members in lines}))
            log.error("the audit log cannot be written", action=actions, error=str(error))

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            before = os.fstat(descriptor).st_size
            if before and before + len(data) > self._size:
                self._put_aside()
                os.close(descriptor)
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
                before = 0
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError("what was to be written was not written whole")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)  # half a line would spoil the next one
                raise
        finally:
            os.close(descriptor)

    def _put_aside(self) -> None:
        name = f"audit-{self._clock():%Y%m%dT%H%M%S.%fZ}"
        same = [int(path.stem.rpartition("-")[2]) for path in self._folder.glob(f"{name}-*.jsonl")]
        self.path.rename(self._folder / f"{name}-{max(same, default=0) + 1:06d}.jsonl")
        old = sorted(self._folder.glob("audit-*.jsonl"))
        for path in old[: max(0, len(old) - self._keep)]:
            path.unlink(missing_ok=True)


def without_secrets(query: str) -> str:
    """Return a query string as it was sent, but for the values of parameters that open something, and for tokens anywhere."""
    parts = []
    for part in query.split("&"):
        name, sign, _ = part.partition("=")
        if _SECRET_NAMES.fullmatch(unquote_plus(name).strip()) and sign:
            parts.append(f"{name}={_HIDDEN}")
        elif _SECRET_VALUES.search(unquote_plus(part)):
            parts.append(_HIDDEN)
        else:
            parts.append(part)
    return "&".join(parts)


def _line(at: str, members: Mapping[str, Any]) -> bytes:
    given = {name: _cut(value) for name, value in members.items() if value is not None}
    return json.dumps({"at": at, **given}).encode() + b"\n"


def _cut(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _cut(one) for name, one in value.items()}
    return value[:_LONGEST] + "…" if isinstance(value, str) and len(value) > _LONGEST else value
