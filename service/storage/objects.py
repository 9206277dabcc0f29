"""Bytes on a server of objects, for any number of machines: ``jobs/yyyy/mm/dd/<id>/source`` and ``…/attempt-1/<step>/<artifact>``.

``incoming/<id>`` is put before the first byte of an upload is sent and removed when the upload is closed: whatever point a process
dies at, it leads a sweep to what is left. It is put again each third of the lease while the upload lives, and its age at the
server tells the living from the dead. Each side leaves a margin: an upload that has been silent for a lease, by the server's
clock, gives up and never claims to be alive again; others take it for dead after twice that. So whoever was told that his record
is committed, and that his marker was young when it was removed, knows that nobody has swept his bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import structlog
from anyio import CapacityLimiter

from service.ids import is_id, new_id
from service.jobs.model import Artifact
from service.storage.arrival import ObjectUpload
from service.storage.base import StorageUnreachable
from service.storage.keys import INCOMING, artifact_key, folder_key, marker_key, source_key
from service.storage.s3 import Bucket, Found
from service.storage.scratch import Scratch

log = structlog.get_logger(__name__)
PART: Final = 5 * 2**20  #: least size of a part, as S3 has it; an upload holds three in memory at the most
PARTS: Final = 10_000  #: most of one object
_WHOLE: Final = 5 * 2**30  #: largest object that is sent in one piece
_THREADS: Final = 32  #: for uploads alone
_LEAST_LEASE: Final = 10.0  #: seconds; a server's clock is told in whole ones
_ABANDONED: Final = 24 * 3600.0  #: seconds after which parts of an artifact belong to nobody
_FULL_FOR: Final = 30.0  #: seconds for which a server that was full counts as full
_ENDLESS: Final = 2**60  #: what may be written to a server that names no limit


@dataclass(frozen=True, kw_only=True)
class ObjectContent:
    """Bytes that are an object on a server."""

    bucket: Bucket
    key: str
    size: int
    changed_at: float
    path: None = None

    def open(self, start: int = 0) -> BufferedIOBase:
        """Ask for the object from ``start`` on."""
        return self.bucket.read(self.key, start)

    def link(self, *, seconds: int, media_type: str, disposition: str) -> str:
        """Return a signed URL."""
        return self.bucket.link(self.key, seconds=seconds, media_type=media_type, disposition=disposition)


class ObjectStorage:
    """The storage of a deployment. ``largest`` is that of the uploads it must be able to take, in bytes."""

    def __init__(self, bucket: Bucket, scratch: Path, *, lease: float = 30.0, largest: int = 0) -> None:
        self.bucket = bucket
        self.lease = max(lease, _LEAST_LEASE)  #: seconds
        self.part = max(PART, -(-largest // PARTS))  #: bytes of each part but the last, the same for all
        self.threads = CapacityLimiter(_THREADS)
        self._scratch = Scratch(scratch)
        self._full_until = 0.0

    def receive(self, job_id: str) -> ObjectUpload:
        return ObjectUpload(self, job_id)

    def free(self) -> int:
        return 0 if time.monotonic() < self._full_until else _ENDLESS

    def note_full(self) -> None:
        """Take note that the server had no room."""
        self._full_until = time.monotonic() + _FULL_FOR

    def probe(self) -> None:
        key = f"probe/{new_id()}"
        self.bucket.put(key, b"ready")
        self.bucket.remove(key)

    @contextmanager
    def source(self, job_id: str) -> Iterator[Path]:
        with self._copied(source_key(job_id)) as path:
            yield path

    @contextmanager
    def artifact(self, job_id: str, step: str, artifact: Artifact) -> Iterator[Path]:
        with self._copied(artifact_key(job_id, step, artifact)) as path:
            yield path

    def source_content(self, job_id: str) -> ObjectContent:
        return self._content(source_key(job_id))

    def artifact_content(self, job_id: str, step: str, artifact: Artifact) -> ObjectContent:
        return self._content(artifact_key(job_id, step, artifact))

    def workspace(self, job_id: str, attempt: int) -> Path:
        return self._scratch.workspace(job_id, attempt)

    def publish(self, job_id: str, attempt: int, made: Iterable[tuple[str, Artifact]]) -> None:
        folder = self._scratch.find(job_id, attempt)
        for step, artifact in made:
            with _opened(folder / step, artifact) as file:
                self._put(artifact_key(job_id, step, artifact), file, artifact.size)

    def prune(self, job_id: str, kept: Iterable[Artifact]) -> None:
        needed = {f"attempt-{artifact.attempt}" for artifact in kept}
        try:
            for found in list(self.bucket.objects(f"{folder_key(job_id)}attempt-")):
                if found.key.removeprefix(folder_key(job_id)).partition("/")[0] not in needed:
                    self.bucket.remove(found.key)
        except StorageUnreachable as error:  # they go with their job at the latest
            log.warning("results that nothing needs could not be removed", job_id=job_id, error=str(error))
        self._scratch.forget(job_id)

    def delete(self, job_id: str) -> None:
        for found, upload in list(self.bucket.unfinished(folder_key(job_id))):
            self.bucket.drop(found.key, upload)
        for found in list(self.bucket.objects(folder_key(job_id))):
            self.bucket.remove(found.key)
        self._scratch.forget(job_id)
        self.tidy(job_id)  # last: until then it leads to what is left

    def is_receiving(self, job_id: str) -> bool:
        marker = self.bucket.find(marker_key(job_id))
        return marker is not None and not self._is_dead(marker)

    def arriving(self) -> int:
        return sum(1 for _ in self._markers())

    def leftovers(self) -> Iterator[str]:
        return (_id_of(marker) for marker in self._markers() if self._is_dead(marker))

    def is_closed(self, job_id: str) -> bool:
        there = self.bucket.find(source_key(job_id)) is not None
        return there and self.bucket.find(marker_key(job_id)) is None

    def tidy(self, job_id: str) -> None:
        self.bucket.remove(marker_key(job_id))

    def walk(self) -> Iterator[str]:
        last = ""
        for found in self.bucket.objects("jobs/"):
            *_, job_id = found.key.split("/")[:5]
            if job_id != last and is_id(job_id):
                last = job_id
                yield job_id

    def sweep(self, now: datetime) -> int:  # noqa: ARG002 - the server's clock counts
        for found, upload in list(self.bucket.unfinished("jobs/")):
            is_source = found.key.endswith("/source")  # its marker leads to it
            if found.now - found.changed_at > _ABANDONED and not is_source:
                self.bucket.drop(found.key, upload)
        return self._scratch.sweep()

    def _markers(self) -> Iterator[Found]:
        return (found for found in self.bucket.objects(INCOMING) if is_id(_id_of(found)))

    def _is_dead(self, marker: Found) -> bool:
        return marker.now - marker.changed_at > 2 * self.lease

    def _content(self, key: str) -> ObjectContent:
        found = self.bucket.find(key)
        if found is None:
            raise FileNotFoundError(key)
        return ObjectContent(bucket=self.bucket, key=key, size=found.size, changed_at=found.changed_at)

    @contextmanager
    def _copied(self, key: str) -> Iterator[Path]:
        with self.bucket.read(key) as body, self._scratch.copy(body) as path:
            yield path

    def _put(self, key: str, file: BufferedIOBase, size: int) -> None:
        if size <= _WHOLE:
            self.bucket.put(key, file)
            return
        upload, tags, part = self.bucket.begin(key), list[str](), max(self.part, -(-size // PARTS))
        try:
            while piece := file.read(part):
                tags.append(self.bucket.send(key, upload, len(tags) + 1, piece))
            self.bucket.complete(key, upload, tags)
        except BaseException:
            self.bucket.drop(key, upload)
            raise


def _id_of(marker: Found) -> str:
    return marker.key.removeprefix(INCOMING)


@contextmanager
def _opened(folder: Path, artifact: Artifact) -> Iterator[BufferedIOBase]:
    """Open a file made by a process that nobody trusts: no link is followed, no FIFO waited for, and the size is as reported."""
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = os.open(artifact.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    finally:
        os.close(parent)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != artifact.size:
            raise OSError(errno.EIO, f"{folder.name}/{artifact.name} is not the file its step reported")
        yield file
