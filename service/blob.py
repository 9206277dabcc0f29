"""Bytes of a job as they can be downloaded: its source, or a file that a step made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import NotFound
from service.jobs.model import Artifact, Job
from service.storage.base import Content, Storage


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes that can be downloaded, and what the record says of them."""

    content: Content
    name: str
    media_type: str
    size: int
    sha256: str


def source_of(job: Job, storage: Storage) -> Blob:
    """Return the file as it arrived. Raises NotFound when it is lost."""
    file = job.file
    content = _found(lambda: storage.source_content(job.id))
    kind = file.media_type or "application/octet-stream"
    return Blob(content=content, name=file.name, media_type=kind, size=file.size, sha256=file.sha256)


def artifact_of(job: Job, step: str, name: str, storage: Storage) -> Blob:
    """Return a file that a step made. Raises NotFound when the job has no such artifact (yet), and when it is lost."""
    found = _find(job, step, name)
    if found is None:
        raise NotFound(
            f"Job {job.id} has no artifact {step}/{name}"[:300] + ".",
            code="artifact-not-found",
            hint="The job's steps list their artifacts; a step that has not succeeded has none.",
        )
    content = _found(lambda: storage.artifact_content(job.id, step, found))
    return Blob(content=content, name=name, media_type=found.media_type, size=found.size, sha256=found.sha256)


def is_whole(find: Callable[[], Content], size: int, sha256: str, *, deep: bool) -> bool:
    """Tell whether stored bytes are there and have this size; with ``deep`` read them all and compare their SHA-256.

    Raises OSError when they cannot be read.
    """
    try:
        content = find()
        if content.path is not None and content.path.is_symlink():
            return False
        if content.size != size or not deep:
            return content.size == size
        with content.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _find(job: Job, step: str, name: str) -> Artifact | None:
    return next((made for one in job.steps if one.name == step for made in one.artifacts if made.name == name), None)


def _found(find: Callable[[], Content]) -> Content:
    try:
        return find()
    except FileNotFoundError:
        raise NotFound(
            "The bytes are no longer in the storage.", code="bytes-lost", hint="Upload the file again."
        ) from None
