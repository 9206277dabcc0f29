"""Bytes of a job as they can be downloaded: its source, or a file that a step made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from service.errors import NotFound
from service.jobs.model import Artifact, Job
from service.storage.base import Storage


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes that can be downloaded. ``path`` is a local file until ``close``, which whoever asked for it calls."""

    path: Path
    close: Callable[[], None]
    name: str
    media_type: str
    size: int
    sha256: str


def source_of(job: Job, storage: Storage) -> Blob:
    """Return the file as it arrived. Raises NotFound when it is lost."""
    file = job.file
    path, close = _opened(storage.source(job.id))
    kind = file.media_type or "application/octet-stream"
    return Blob(path=path, close=close, name=file.name, media_type=kind, size=file.size, sha256=file.sha256)


def artifact_of(job: Job, step: str, name: str, storage: Storage) -> Blob:
    """Return a file that a step made. Raises NotFound when the job has no such artifact (yet), and when it is lost."""
    found = _find(job, step, name)
    if found is None:
        raise NotFound(
            f"Job {job.id} has no artifact {step}/{name}"[:300] + ".",
            code="artifact-not-found",
            hint="The job's steps list their artifacts; a step that has not succeeded has none.",
        )
    path, close = _opened(storage.artifact(job.id, step, found))
    kind = found.media_type
    return Blob(path=path, close=close, name=name, media_type=kind, size=found.size, sha256=found.sha256)


def _find(job: Job, step: str, name: str) -> Artifact | None:
    return next((made for one in job.steps if one.name == step for made in one.artifacts if made.name == name), None)


def _opened(file: AbstractContextManager[Path]) -> tuple[Path, Callable[[], None]]:
    opened = ExitStack()
    try:
        return opened.enter_context(file), opened.close
    except FileNotFoundError:
        raise NotFound(
            "The bytes are no longer in the storage.", code="bytes-lost", hint="Upload the file again."
        ) from None
