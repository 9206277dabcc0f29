"""Bytes on a local disk: ``incoming/<id>`` while they arrive, then ``source`` in the job's folder.

The whole file is linked into its job's folder, and its name in ``incoming`` goes only when the record is committed: whatever point
a process dies at, that name leads a sweep to what it left. The descriptor of a source under reception holds its flock until the
upload ends, so that the sweep knows the living from the dead without a clock.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, TypeVar

import aiofiles
import structlog
from anyio import CapacityLimiter, to_thread

from service import faults
from service.durable import Disk, free_bytes, is_locked, locked, write_all
from service.errors import StorageFull
from service.jobs.folders import ids_in, job_folder, walk
from service.jobs.model import Artifact
from service.joint import Joint, Outcomes
from service.storage.base import Stored

PIECE: Final = 2**20  #: bytes written and hashed at a time
SMALL: Final = (
    64 * 2**10
)  #: bytes that are held in memory and hashed in passing, which takes less than a hop to a thread
_FREE_FOR: Final = 0.02  #: seconds for which the free space is remembered: a disk takes a few MiB in that time
_THREADS: Final = 32  #: for uploads alone: the more of them wait for the disk at once, the fewer commits it has to make

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalContent:
    """Bytes that are a file of this machine."""

    path: Path
    size: int
    changed_at: float

    @classmethod
    def at(cls, path: Path) -> LocalContent:
        """Look at a file. Raises FileNotFoundError when there is none."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        return cls(path=path, size=status.st_size, changed_at=status.st_mtime)

    def open(self, start: int = 0) -> BufferedIOBase:
        """Open the file."""
        file = self.path.open("rb")
        file.seek(start)
        return file

    def link(self, *, seconds: int, media_type: str, disposition: str) -> None:
        """Return None: nobody but this service gives these bytes out."""


class LocalStorage:
    """The storage of one machine. ``reserve`` bytes of the disk are never given to uploads."""

    def __init__(self, root: Path, *, disk: Disk | None = None, reserve: int = 0) -> None:
        self.root = root
        self.disk = disk or Disk()
        self._reserve = reserve
        self.threads = CapacityLimiter(_THREADS)
        self._free = (-_FREE_FOR, 0)  # when it was asked for, and what it was
        for name in ("incoming", "trash", "jobs"):
            self.disk.make_folders(root / name)

    def receive(self, job_id: str) -> LocalUpload:
        return LocalUpload(self, job_id)

    def place_all(self, uploads: Sequence[LocalUpload], joint: Joint) -> list[Exception | None]:
        """Bring these uploads into their jobs' places; return for each what went wrong, as ``finish`` would raise it.

        They last after the joint's next barrier.
        """
        left = Outcomes(uploads)
        with locked(self.root / "incoming", shared=True):
            left.each(LocalUpload.open)
        left.each(LocalUpload.fill)
        left.each(lambda upload: joint.file(upload.fileno()))
        left.each(lambda upload: self.disk.make_folders(upload.target.parent, joint))
        left.all(joint.end)
        left.each(lambda upload: os.link(upload.path, upload.target))
        left.each(lambda upload: joint.folder(upload.target.parent))
        left.all(joint.end)
        left.each(lambda _: faults.reach("accept.stored"))
        return left.errors

    def free(self) -> int:
        now = time.monotonic()
        if now - self._free[0] > _FREE_FOR:
            self._free = (now, free_bytes(self.root))
        return self._free[1] - self._reserve

    def probe(self) -> None:
        probe = self.root / "incoming" / f"probe-{os.getpid()}"
        probe.write_bytes(b"ready")
        probe.unlink(missing_ok=True)  # another thread of this process may have been quicker

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job."""
        return job_folder(self.root, job_id)

    @contextmanager
    def source(self, job_id: str) -> Iterator[Path]:
        yield _existing(self.folder(job_id) / "source")

    @contextmanager
    def artifact(self, job_id: str, step: str, artifact: Artifact) -> Iterator[Path]:
        yield _existing(self.folder(job_id) / f"attempt-{artifact.attempt}" / step / artifact.name)

    def source_content(self, job_id: str) -> LocalContent:
        return LocalContent.at(self.folder(job_id) / "source")

    def artifact_content(self, job_id: str, step: str, artifact: Artifact) -> LocalContent:
        return LocalContent.at(self.folder(job_id) / f"attempt-{artifact.attempt}" / step / artifact.name)

    def workspace(self, job_id: str, attempt: int) -> Path:
        folder = self.folder(job_id) / f"attempt-{attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def publish(self, job_id: str, attempt: int, made: Iterable[tuple[str, Artifact]]) -> None:
        folder = self.folder(job_id) / f"attempt-{attempt}"
        steps = set()
        for step, artifact in made:
            descriptor = _open_made(folder / step, artifact.name)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size != artifact.size:
                    raise OSError(f"{step}/{artifact.name} is not the file its step reported")
                self.disk.sync_file(descriptor)
            finally:
                os.close(descriptor)
            steps.add(folder / step)
        for changed in (*sorted(steps), *([folder, folder.parent] if steps else [])):
            self.disk.sync_folder(changed)

    def prune(self, job_id: str, kept: Iterable[Artifact]) -> None:
        needed = {f"attempt-{artifact.attempt}" for artifact in kept}
        for folder in self.folder(job_id).glob("attempt-*"):
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def delete(self, job_id: str) -> None:
        with suppress(FileNotFoundError):
            self.folder(job_id).rename(self.root / "trash" / job_id)
            self.disk.sync_folder(self.folder(job_id).parent)
        self.tidy(job_id)  # last: until then this name leads to what is left of the folder

    def is_receiving(self, job_id: str) -> bool:
        path = self.root / "incoming" / job_id
        if not path.exists():
            return False
        with locked(self.root / "incoming"):  # nobody is between creating a file and locking it
            return is_locked(path)

    def arriving(self) -> int:
        return sum(1 for _ in ids_in(self.root / "incoming"))

    def leftovers(self) -> Iterator[str]:
        return (name for name in ids_in(self.root / "incoming") if not self.is_receiving(name))

    def is_closed(self, job_id: str) -> bool:
        return (self.folder(job_id) / "source").exists() and not (self.root / "incoming" / job_id).exists()

    def tidy(self, job_id: str) -> None:
        (self.root / "incoming" / job_id).unlink(missing_ok=True)

    def walk(self) -> Iterator[str]:
        return walk(self.root)

    def sweep(self, now: datetime) -> int:  # noqa: ARG002
        freed = 0
        for folder in (self.root / "trash").iterdir():
            freed += _size_of(folder)
            shutil.rmtree(folder, ignore_errors=True)
        return freed


class LocalUpload:
    """A source on its way to disk: one piece is written and hashed while the next one is collected.

    A small one stays in memory until it is finished: with many others, in one thread, it then costs a part of the hops and locks.
    """

    def __init__(self, storage: LocalStorage, job_id: str) -> None:
        self.size = 0
        self.path = storage.root / "incoming" / job_id
        self.target = storage.folder(job_id) / "source"
        self._storage = storage
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._descriptor: int | None = None
        self._file: Any = None  # the same, once there is more than a piece
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= PIECE:
            await self._settle()
            piece, self._buffer = self._buffer, bytearray()
            self._flushing = asyncio.create_task(self._flush(piece))

    async def digest(self) -> Stored:
        await self._settle()
        if self._file is not None:
            piece, self._buffer = self._buffer, bytearray()
            await self._flush(piece)
            await self._file.flush()
        elif self.size > SMALL:
            await self._in_thread(self._take_whole)
        else:
            self._require_room(self._buffer)
            self._hash.update(self._buffer)
        return Stored(size=self.size, sha256=self._hash.hexdigest())

    async def sync(self) -> None:
        """Have the bytes on disk that are in ``incoming`` already, so that others need not wait for them."""
        if self._descriptor is not None:
            await self._in_thread(self._storage.disk.sync_file, self._descriptor)

    async def finish(self) -> None:
        (error,) = await self._in_thread(self._place)
        if error is not None:
            raise error

    async def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self.path.unlink(missing_ok=True)
            try:
                if self._file is not None:
                    await self._file.close()
            finally:
                os.close(descriptor)

    async def abort(self) -> None:
        with suppress(Exception):  # what the last piece ran into has been told already, or nobody is left to tell
            await self._settle()
        if self._descriptor is not None:
            await self._in_thread(self._storage.delete, self.path.name)
            with suppress(OSError):  # the rest of a full disk's buffer
                await self.close()

    def leave(self) -> None:
        """Do what ``close`` does, in a thread, as far as nothing else is at work on the file."""
        if self._file is None and self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("an upload could not be closed", error=str(error))
            finally:
                os.close(descriptor)

    def fileno(self) -> int:
        """Return the descriptor of what is in ``incoming``."""
        assert self._descriptor is not None, "what is whole has been opened"
        return self._descriptor

    def open(self) -> None:
        """Create the file in ``incoming`` and hold its flock. The caller holds that of the folder, shared."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o440)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def fill(self) -> None:
        """Write what is still in memory."""
        if self._buffer:
            write_all(self.fileno(), self._buffer)
            self._buffer = bytearray()
        faults.reach("accept.received")

    def _place(self) -> list[Exception | None]:
        with Joint(self._storage.disk) as joint:
            return self._storage.place_all([self], joint)

    async def _settle(self) -> None:
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    async def _flush(self, piece: bytearray) -> None:
        if self._file is None:
            self._file = await aiofiles.open(await self._in_thread(self._create), "wb", closefd=False)
        self._require_room(piece)
        await asyncio.gather(self._file.write(piece), self._in_thread(self._hash.update, piece))

    def _take_whole(self) -> None:
        self._require_room(self._buffer)
        self._hash.update(self._buffer)
        self._create()
        self.fill()

    def _require_room(self, piece: bytearray) -> None:
        if self._storage.free() < len(piece):
            raise StorageFull(
                "The disk is down to its reserve.", hint="Try again later; the operator can free space.", retry_after=60
            )

    def _create(self) -> int:
        with locked(self._storage.root / "incoming", shared=True):
            self.open()
        return self.fileno()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._storage.threads)


def _open_made(folder: Path, name: str) -> int:
    """Open a file made by a process that nobody trusts: no link is followed, no FIFO waited for."""
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    finally:
        os.close(parent)


def _size_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another sweep was quicker
                total += (Path(parent) / name).lstat().st_size
    return total


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path
