"""One source on its way to a local disk, into ``incoming/<id>`` and from there into its job's folder."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from aiofiles.threadpool import wrap
from anyio import to_thread

from service import faults
from service.durable import locked, write_all
from service.errors import StorageFull
from service.joint import Joint
from service.storage.base import Stored

if TYPE_CHECKING:
    from service.storage.local import LocalStorage

PIECE: Final = 2**20  #: bytes written and hashed at a time
#: Bytes that are held in memory and hashed in passing, which takes less than a hop to a thread; what comes in less is joined.
SMALL: Final = 64 * 2**10
#: Seconds after which what is more than that is written too: many slow uploads shall not hold a piece each.
_SLOW: Final = 0.25

T = TypeVar("T")
log = structlog.get_logger(__name__)


class _HashedFile(io.FileIO):
    """A file whose bytes are hashed as they are written, while the processor still has them in its cache."""

    def __init__(self, descriptor: int, running: hashlib._Hash) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._running = running

    def write(self, data: bytes | bytearray) -> int:  # type: ignore[override]
        """Write all of ``data``. Raises OSError."""
        write_all(self.fileno(), data)
        self._running.update(data)
        return len(data)


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
        self._held: list[bytes | bytearray] = []  # what has arrived and is not on its way to the disk, as it arrived
        self._taken_at = time.monotonic()  # when there was nothing of it, the last time
        self._descriptor: int | None = None
        self._file: Any = None  # the same, once some of it is written before its end
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        if len(data) >= SMALL:
            self._held.append(data)
        elif self._held and len(self._held[-1]) < SMALL:
            self._held[-1] += data
        else:
            self._held.append(bytearray(data))
        self.size += len(data)
        held = _size_of(self._held)
        if held >= PIECE or (held > SMALL and time.monotonic() - self._taken_at > _SLOW):
            await self._settle()
            self._flushing = asyncio.create_task(self._flush(self._take()))

    async def digest(self) -> Stored:
        await self._settle()
        if self._file is not None:
            await self._flush(self._take())
        elif self.size > SMALL:
            await self._in_thread(self._take_whole)
        else:
            self._look_through()
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
        self.leave()

    async def abort(self) -> None:
        with suppress(Exception):  # what the last piece ran into has been told already, or nobody is left to tell
            await self._settle()
        if self._descriptor is not None:
            await self._in_thread(self._storage.delete, self.path.name)
            self.leave()

    def leave(self) -> None:
        """Do what ``close`` does, for whoever is in a thread."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
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
        for data in self._take():
            write_all(self.fileno(), data)
        faults.reach("accept.received")

    def _place(self) -> list[Exception | None]:
        with Joint(self._storage.disk) as joint:
            return self._storage.place_all([self], joint)

    async def _settle(self) -> None:
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            await flushing

    def _take(self) -> list[bytes | bytearray]:
        taken, self._held, self._taken_at = self._held, [], time.monotonic()
        return taken

    async def _flush(self, held: list[bytes | bytearray]) -> None:
        if self._file is None:
            self._file = wrap(_HashedFile(await self._in_thread(self._create), self._hash))
        self._require_room(held)
        await self._file.writelines(held)

    def _take_whole(self) -> None:
        self._look_through()
        self._create()
        self.fill()

    def _look_through(self) -> None:
        self._require_room(self._held)
        for data in self._held:
            self._hash.update(data)

    def _require_room(self, held: list[bytes | bytearray]) -> None:
        if self._storage.free() < _size_of(held):
            raise StorageFull(
                "The disk is down to its reserve.", hint="Try again later; the operator can free space.", retry_after=60
            )

    def _create(self) -> int:
        with locked(self._storage.root / "incoming", shared=True):
            self.open()
        return self.fileno()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._storage.threads)


def _size_of(held: list[bytes | bytearray]) -> int:
    return sum(map(len, held))
