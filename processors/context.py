"""What a step sees of its file: the context, and the limits of the attempt it is part of."""

from __future__ import annotations

import logging
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from types import MappingProxyType
from typing import TypeAlias

from pydantic import JsonValue

if typing.TYPE_CHECKING:
    import socket
    from pathlib import Path

Facts: TypeAlias = Mapping[str, JsonValue]
"""What a step learned: JSON with text keys, at most `MAX_FACTS_BYTES` once encoded."""

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"

MAX_ARTIFACTS = 1000
"""Most artifacts of one step. More small files belong into one archive."""

MAX_MEDIA_TYPE = 255
"""Most characters of an artifact's media type, parameters included."""

TYPE_PATTERN = re.compile(r"\*/\*|[a-z0-9][a-z0-9.+_-]*/(\*|[a-z0-9][a-z0-9.+_-]*)")
"""A media type, or a range of them."""

_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one attempt may take on. A file beyond a limit is refused by a `Reject` that names the setting."""

    max_pixels: int = 50_000_000
    """Most pixels of one frame (`INTAKE_MAX_PIXELS`)."""
    max_total_pixels: int = 200_000_000
    """Most pixels summed over all frames (`INTAKE_MAX_TOTAL_PIXELS`)."""
    max_frames: int = 500
    """Most frames or pages of one image (`INTAKE_MAX_FRAMES`)."""
    max_side: int = 20_000
    """Longest side of an image in pixels (`INTAKE_MAX_SIDE`)."""
    max_output: int = 1024**3
    """Most bytes of all artifacts of a job together (`INTAKE_MAX_OUTPUT`); kept by the runner."""
    max_scan: int = 25 * 1024**2
    """Longest file that the malware scanner takes whole, in bytes (`INTAKE_MAX_SCAN`)."""


@dataclass(frozen=True)
class Output:
    """An artifact a step has asked a path for; it may not be written yet."""

    path: Path
    media_type: str


class StepContext:
    """One step's view of its file. Made by a runner; a processor only reads it and calls its methods."""

    input: Path
    """The file to read. Never write to it: other steps read it too."""
    media_type: str
    """The input's type: as detected so far, else as declared, else `application/octet-stream`."""
    declared_type: str | None
    """The type the client claimed for the source; None without a claim, or when the input is an artifact."""
    filename: str
    """The name the client gave the source, for people to read: a claim, and never a path."""
    limits: Limits
    """What this attempt may take on."""
    log: Logger
    """For the operator. Text from the file goes in as an argument, never into the format string."""

    def __init__(
        self,
        *,
        input: Path,  # noqa: A002 - the contract's word, and the attribute's
        folder: Path | None,
        media_type: str = "application/octet-stream",
        declared_type: str | None = None,
        filename: str = "",
        limits: Limits | None = None,
        facts: Mapping[str, Facts] = MappingProxyType({}),
        progress: Callable[[float, float | None, str | None], None] | None = None,
        log: Logger | None = None,
        connect: Callable[[str], socket.socket] | None = None,
        descriptor: int | None = None,
    ) -> None:
        self.input = input
        self.media_type = media_type
        self.declared_type = declared_type
        self.filename = filename
        self.limits = limits or Limits()
        self.log = log or logging.getLogger("processors")
        self._folder = folder
        self._facts = facts
        self._progress = progress
        self._connect = connect
        self._descriptor = descriptor
        self._outputs: dict[str, Output] = {}

    def open(self) -> FileIO:
        """Open the input for reading, from its start and unbuffered; the caller closes it, before it opens it again.

        It is the only way for a processor that is `opaque`: its process may have been handed the open file, and nothing
        that it could open by its path.
        """
        if self._descriptor is None:
            return FileIO(self.input)
        file = FileIO(os.dup(self._descriptor))
        file.seek(0)
        return file

    def output(self, name: str, *, media_type: str) -> Path:
        """Return the path to write the artifact `name` to; asking again for a name returns the same path.

        All artifacts of a step are published together when the step succeeds, none when it fails. Raises ValueError for
        a name that is not 1 to 128 characters of `A-Z a-z 0-9 . _ -`, or that starts with a dot, for a bad type, for
        more artifacts than `MAX_ARTIFACTS`, and for any from a processor that is `opaque`.
        """
        if self._folder is None:
            raise ValueError(f"A processor that is opaque makes no artifacts, so not {name!r} either.")
        if not _ARTIFACT_NAME.fullmatch(name):
            raise ValueError(
                f"An artifact's name is 1 to 128 of A-Z a-z 0-9 . _ - and does not start with a dot, not {name!r}."
            )
        plain = media_type.partition(";")[0].strip().lower()
        if "*" in media_type or not TYPE_PATTERN.fullmatch(plain) or len(media_type) > MAX_MEDIA_TYPE:
            raise ValueError(f"The artifact {name!r} needs a media type such as 'image/webp', not {media_type!r}.")
        if len(self._outputs) >= MAX_ARTIFACTS and name not in self._outputs:
            raise ValueError(f"A step makes at most {MAX_ARTIFACTS} artifacts. Put many files into an archive.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._outputs[name] = Output(self._folder / name, media_type)
        return self._outputs[name].path

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The artifacts asked for so far, by name. For runners."""
        return MappingProxyType(self._outputs)

    def progress(self, done: float, total: float | None = None, unit: str | None = None) -> None:
        """Say how far the step is: `done` of `total` in `unit` ("bytes", "pages"). Call it as often as you like."""
        if self._progress is not None:
            self._progress(done, total, unit)

    def connect(self, helper: str) -> socket.socket:
        """Return a new connection to a helper that the processor names in `needs`; the caller closes it.

        It is the only way to one: a step's process cannot make a socket. Raises ConnectionError when the helper does
        not answer or is not configured here.
        """
        if self._connect is None:
            raise ConnectionRefusedError(f"{helper} cannot be reached from here")
        return self._connect(helper)

    def facts_of(self, step: str) -> Facts:
        """Return the facts of the earlier step named `step`. Raises KeyError if it has not run, or was skipped."""
        try:
            return self._facts[step]
        except KeyError:
            known = ", ".join(self._facts) or "none"
            raise KeyError(
                f"No facts of step {step!r}: it has not run or was skipped. Steps with facts: {known}."
            ) from None
