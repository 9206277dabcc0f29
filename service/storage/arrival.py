"""A source on its way to a server of objects: one part is sent and hashed while the next one is collected."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from anyio import to_thread

from service import faults
from service.errors import OutcomeUnknown, StorageFull
from service.storage.base import StorageUnreachable, Stored
from service.storage.keys import marker_key, source_key

if TYPE_CHECKING:
    from service.storage.objects import ObjectStorage

log = structlog.get_logger(__name__)
T = TypeVar("T")


class ObjectUpload:
    """An upload to a bucket. A file of less than a part is sent whole when it is finished, a larger one in parts meanwhile."""

    def __init__(self, storage: ObjectStorage, job_id: str) -> None:
        self.size = 0
        self._storage = storage
        self._job_id = job_id
        self._key, self._marker = source_key(job_id), marker_key(job_id)
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._upload: str | None = None  # id of what is sent in parts
        self._tags: list[str] = []
        self._sending: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._alive_at: float | None = None  # server's time when the marker was put last
        self._marked_at = 0.0  # the same moment by this machine's clock
        self._lapsed = False

    async def write(self, data: bytes) -> None:
        await self._begin()
        self._buffer += data
        self.size += len(data)
        while len(self._buffer) >= self._storage.part:
            await self._settle()
            with memoryview(self._buffer) as view:
                piece = bytes(view[: self._storage.part])
            del self._buffer[: self._storage.part]
            self._sending = asyncio.create_task(self._in_thread(self._send, piece))

    async def digest(self) -> Stored:
        await self._begin()
        await self._settle()
        await self._in_thread(self._take_rest)
        faults.reach("accept.received")
        return Stored(size=self.size, sha256=self._hash.hexdigest())

    async def finish(self) -> None:
        await self._in_thread(self._place)
        faults.reach("accept.stored")

    async def close(self) -> None:
        if self._alive_at is not None:
            await self._stop_renewing()
            alive_at, self._alive_at = self._alive_at, None
            await self._in_thread(self._take_leave, alive_at)

    async def abort(self) -> None:
        with suppress(Exception):  # what the last part ran into has been told already, or nobody is left to tell
            await self._settle()
        if self._alive_at is not None:
            await self._stop_renewing()
            self._alive_at = None
            self._buffer.clear()
            try:
                await self._in_thread(self._storage.delete, self._job_id)
            except OSError as error:  # its marker leads a sweep to what is left
                log.warning("an upload that was given up is left to be swept", job_id=self._job_id, error=str(error))

    async def _begin(self) -> None:
        if self._renewing is None:
            self._alive_at = 0.0  # from here on there may be a marker
            await self._in_thread(self._mark)
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._storage.lease / 3)
            with suppress(OSError):  # it is tried again, as long as there is time
                await self._in_thread(self._mark)

    async def _stop_renewing(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])  # a marker must not be put after its end

    def _mark(self) -> None:
        began = time.monotonic()
        now = self._storage.bucket.put(self._marker, b"")
        self._marked_at = began
        self._note(now)
        self._alive_at = now

    def _note(self, now: float) -> None:
        """Take note of the server's time. Once the lease has lapsed, nothing brings it back: others may be sweeping."""
        if self._alive_at and now - self._alive_at >= self._storage.lease:
            self._lapsed = True

    def _send(self, piece: bytes) -> None:
        bucket = self._storage.bucket
        if self._upload is None:
            self._upload = bucket.begin(self._key)
        self._hash.update(piece)
        self._tags.append(bucket.send(self._key, self._upload, len(self._tags) + 1, piece))

    def _take_rest(self) -> None:
        piece = bytes(self._buffer)
        if self._upload is None:
            self._hash.update(piece)
        elif piece:
            self._buffer.clear()
            self._send(piece)

    def _place(self) -> None:
        bucket = self._storage.bucket
        if self._upload is None:
            self._note(bucket.put(self._key, bytes(self._buffer)))
            self._buffer.clear()
        else:
            try:
                self._note(bucket.complete(self._key, self._upload, self._tags))
            except OSError:  # perhaps it was completed and only the answer was lost
                found = bucket.find(self._key)
                if found is None or found.size != self.size:
                    raise
                self._note(found.now)
        if self._lapsed:
            raise StorageUnreachable("the upload gave no sign of life for too long; others may take it for dead")

    def _take_leave(self, alive_at: float) -> None:
        self._alive_at = alive_at
        try:
            self._note(self._storage.bucket.remove(self._marker))
        except StorageUnreachable:  # what is left is tidied; this machine's clock has to do
            self._lapsed |= time.monotonic() - self._marked_at >= self._storage.lease
            raise
        finally:
            self._alive_at = None
            if self._lapsed:
                raise OutcomeUnknown(
                    "The storage was away while the job was committed; its file was either kept or not.",
                    hint="Look at the job again, or send the request again with the same Idempotency-Key.",
                    retry_after=5,
                )

    async def _settle(self) -> None:
        if self._sending is not None:
            sending, self._sending = self._sending, None
            await sending

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await to_thread.run_sync(function, *arguments, limiter=self._storage.threads)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._storage.note_full()
            raise StorageFull(
                "The storage is full.", hint="Try again later; the operator can free space.", retry_after=60
            ) from error
