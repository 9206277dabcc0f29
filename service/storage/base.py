"""The port to the bytes: sources as they arrive, artifacts as attempts make them. What every storage promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Protocol

from service.jobs.model import Artifact


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A source that is whole and durable."""

    size: int  #: bytes
    sha256: str  #: hexadecimal


class StorageUnreachable(OSError):
    """The server that keeps the bytes does not answer, or refuses to. Nothing was done that anybody sees; later it may be."""


class Content(Protocol):
    """Stored bytes that can be read where they are. What is read is whole and never changes."""

    @property
    def size(self) -> int:
        """How many bytes they are."""

    @property
    def changed_at(self) -> float:
        """When they changed last, in seconds of Unix time."""

    @property
    def path(self) -> Path | None:
        """The local file that they are, if they are one."""

    def open(self, start: int = 0) -> BufferedIOBase:
        """Read from ``start`` on; whoever opened it closes it.

        Opening and reading block, and raise FileNotFoundError when the bytes are lost, StorageUnreachable, or OSError.
        """

    def link(self, *, seconds: int, media_type: str, disposition: str) -> str | None:
        """Return a URL that gives whoever has it these bytes for a while, with this type and Content-Disposition; None for none."""


class Upload(Protocol):
    """A source while it arrives: ``write``, ``digest``, ``finish``, then ``close``; or ``abort`` at any point before ``close``."""

    size: int  #: bytes written so far

    async def write(self, data: bytes) -> None:
        """Take the next bytes. Memory does not grow with the file. Raises StorageFull below the reserve, OSError otherwise."""

    async def digest(self) -> Stored:
        """Take the last bytes in and return size and digest of all; nothing is durable yet."""

    async def finish(self) -> None:
        """Make the source durable in its job's place. After ``digest`` only."""

    async def close(self) -> None:
        """End the upload, once the record of the job is committed or may be.

        Raises OutcomeUnknown when others may have taken this upload for dead before the commit: then the bytes may be gone.
        """

    async def abort(self) -> None:
        """End the upload and leave nothing behind."""


class Storage(Protocol):
    """Bytes of jobs. All methods but those of ``Upload`` block."""

    def receive(self, job_id: str) -> Upload:
        """Begin the source of a job that has no record yet."""

    def free(self) -> int:
        """Return the bytes that may still be written before the reserve is touched; negative below it."""

    def probe(self) -> None:
        """Write a few bytes and remove them. Raises OSError when nothing can be stored."""

    def source(self, job_id: str) -> AbstractContextManager[Path]:
        """Give a local, read-only file with the source, for an attempt to work on. Raises FileNotFoundError when it is lost."""

    def source_content(self, job_id: str) -> Content:
        """Return the source to be read where it is. Raises FileNotFoundError when it is lost."""

    def artifact_content(self, job_id: str, step: str, artifact: Artifact) -> Content:
        """Return an artifact to be read where it is. Raises FileNotFoundError when it is lost."""

    def artifact(self, job_id: str, step: str, artifact: Artifact) -> AbstractContextManager[Path]:
        """Give a local, read-only file with an artifact. Raises FileNotFoundError when it is lost."""

    def workspace(self, job_id: str, attempt: int) -> Path:
        """Return an empty local folder for the artifacts of an attempt; ``prune`` lets it go."""

    def publish(self, job_id: str, attempt: int, made: Iterable[tuple[str, Artifact]]) -> None:
        """Make these artifacts (with their steps) of a finished attempt durable. Raises OSError if one is not as described."""

    def prune(self, job_id: str, kept: Iterable[Artifact]) -> None:
        """Remove what attempts left that no kept artifact needs."""

    def delete(self, job_id: str) -> None:
        """Remove all bytes of a job without a record; none are needed to be there."""

    def is_receiving(self, job_id: str) -> bool:
        """Tell whether an upload for this job is alive at this moment, in any process, as far as it has left anything here yet."""

    def arriving(self) -> int:
        """Return how many uploads arrive at this moment, in all processes; of crashed ones until they are swept, too.

        Small ones are not counted, which a storage may hold in memory until they are finished.
        """

    def leftovers(self) -> Iterator[str]:
        """Yield the ids of uploads whose process died before it closed them: with or without a record, the store knows."""

    def is_closed(self, job_id: str) -> bool:
        """Tell whether there is a source whose upload was closed, which is done only when its record is committed."""

    def tidy(self, job_id: str) -> None:
        """Finish the ``close`` of a left-over upload whose job has a record."""

    def walk(self) -> Iterator[str]:
        """Yield the ids of all jobs that have bytes here, or whatever else has the place of one, in no order."""

    def sweep(self, now: datetime) -> int:
        """Remove what was deleted and is still on disk; return the bytes freed."""
