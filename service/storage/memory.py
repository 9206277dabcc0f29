"""Bytes in memory, for tests: what the port promises, kept within one process and gone with it."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from service.errors import StorageFull
from service.jobs.model import Artifact
from service.storage.base import Stored

_ROOM: Final = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryContent:
    """Bytes that are in memory; nobody notes when they changed."""

    data: bytes
    path: None = None
    changed_at: float = 0.0

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.data)

    def open(self, start: int = 0) -> io.BufferedIOBase:
        """Read them from ``start`` on."""
        file = io.BytesIO(self.data)
        file.seek(start)
        return file

    def link(self, *, seconds: int, media_type: str, disposition: str) -> None:
        """Return None: nobody else can read this memory."""


class MemoryStorage:
    """A storage without a data directory: sources and artifacts are held in memory, up to ``room`` bytes of them.

    Only what the port gives as a path is on disk, in a temporary folder that goes with this object: the workspace of an
    attempt until its artifacts are published, and a copy of a source or artifact for exactly as long as somebody has it open.
    Nothing survives the process. An upload whose object was dropped without ``close`` or ``abort`` counts as one whose process
    died.
    """

    def __init__(self, *, room: int = _ROOM) -> None:
        self.room = room
        self._sources: dict[str, bytes] = {}
        self._artifacts: dict[tuple[str, int, str, str], bytes] = {}
        self._incoming: dict[str, weakref.ref[MemoryUpload]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="intake-memory-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def receive(self, job_id: str) -> MemoryUpload:
        return MemoryUpload(self, job_id)

    def free(self) -> int:
        arriving = (upload.size for upload in self._uploads())
        return self.room - sum(map(len, (*self._sources.values(), *self._artifacts.values()))) - sum(arriving)

    def probe(self) -> None:
        """Do nothing: there is no disk to fail."""

    @contextmanager
    def source(self, job_id: str) -> Iterator[Path]:
        with self._opened(self._sources.get(job_id), f"source of {job_id}") as path:
            yield path

    @contextmanager
    def artifact(self, job_id: str, step: str, artifact: Artifact) -> Iterator[Path]:
        found = self._artifacts.get((job_id, artifact.attempt, step, artifact.name))
        with self._opened(found, f"{step}/{artifact.name} of {job_id}") as path:
            yield path

    def source_content(self, job_id: str) -> MemoryContent:
        return _content(self._sources.get(job_id), f"source of {job_id}")

    def artifact_content(self, job_id: str, step: str, artifact: Artifact) -> MemoryContent:
        found = self._artifacts.get((job_id, artifact.attempt, step, artifact.name))
        return _content(found, f"{step}/{artifact.name} of {job_id}")

    def workspace(self, job_id: str, attempt: int) -> Path:
        folder = self._workspace(job_id, attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def publish(self, job_id: str, attempt: int, made: Iterable[tuple[str, Artifact]]) -> None:
        folder = self._workspace(job_id, attempt)
        read = {(job_id, attempt, step, artifact.name): _read(folder / step, artifact) for step, artifact in made}
        self._artifacts |= read
        shutil.rmtree(folder, ignore_errors=True)

    def prune(self, job_id: str, kept: Iterable[Artifact]) -> None:
        needed = {artifact.attempt for artifact in kept}
        self._artifacts = {key: data for key, data in self._artifacts.items() if key[0] != job_id or key[1] in needed}
        for folder in self._folder.glob(f"{job_id}-*"):
            if int(folder.name.rpartition("-")[2]) not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def delete(self, job_id: str) -> None:
        self._incoming.pop(job_id, None)
        self._sources.pop(job_id, None)
        self.prune(job_id, [])

    def is_receiving(self, job_id: str) -> bool:
        upload = self._incoming.get(job_id)
        return upload is not None and upload() is not None

    def arriving(self) -> int:
        return len(self._incoming)

    def leftovers(self) -> Iterator[str]:
        return (job_id for job_id in list(self._incoming) if not self.is_receiving(job_id))

    def is_closed(self, job_id: str) -> bool:
        return job_id in self._sources and job_id not in set(self.leftovers()) and not self.is_receiving(job_id)

    def tidy(self, job_id: str) -> None:
        self._incoming.pop(job_id, None)

    def walk(self) -> Iterator[str]:
        return iter({*self._sources, *(key[0] for key in self._artifacts)})

    def sweep(self, now: datetime) -> int:  # noqa: ARG002
        """Return 0: what was deleted is gone at once."""
        return 0

    def _workspace(self, job_id: str, attempt: int) -> Path:
        return self._folder / f"{job_id}-{attempt}"

    def _uploads(self) -> list[MemoryUpload]:
        found = [upload() for upload in list(self._incoming.values())]
        return [upload for upload in found if upload is not None and not upload.placed]

    @contextmanager
    def _opened(self, data: bytes | None, name: str) -> Iterator[Path]:
        if data is None:
            raise FileNotFoundError(name)
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                file.write(data)
            Path(path).chmod(0o400)
            yield Path(path)
        finally:
            Path(path).unlink()


class MemoryUpload:
    """A source on its way into memory."""

    def __init__(self, storage: MemoryStorage, job_id: str) -> None:
        self.size = 0
        self.placed = False  #: whether the storage has the bytes
        self._storage = storage
        self._job_id = job_id
        self._data = bytearray()
        self._over = False

    async def write(self, data: bytes) -> None:
        self._begin()
        if self._storage.free() < len(data):
            raise StorageFull("The storage is full.", hint="Try again later.", retry_after=60)
        self._data += data
        self.size += len(data)

    async def digest(self) -> Stored:
        self._begin()
        return Stored(size=self.size, sha256=hashlib.sha256(self._data).hexdigest())

    async def finish(self) -> None:
        self._storage._sources[self._job_id] = bytes(self._data)  # noqa: SLF001
        self.placed = True
        self._data.clear()

    async def close(self) -> None:
        self._over = True
        self._storage.tidy(self._job_id)

    async def abort(self) -> None:
        if not self._over:
            self._over = True
            self._storage.delete(self._job_id)

    def _begin(self) -> None:
        self._storage._incoming.setdefault(self._job_id, weakref.ref(self))  # noqa: SLF001 - two halves of one thing


def _content(data: bytes | None, name: str) -> MemoryContent:
    if data is None:
        raise FileNotFoundError(name)
    return MemoryContent(data=data)


def _read(folder: Path, artifact: Artifact) -> bytes:
    """Return the bytes of an artifact as it was made, by a process that nobody trusts. Raises OSError for any other file."""
    path = folder / artifact.name
    if folder.is_symlink() or not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size != artifact.size:
        raise OSError(f"{path} is not the file its step reported")
    return path.read_bytes()
