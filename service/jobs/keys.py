"""Idempotency-Keys as files: the content is the id of the key's job, the flock says that its first request is still running."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from service.durable import Disk, locked, open_lock, write_all
from service.errors import KeyInFlight
from service.ids import is_id


def key_path(root: Path, scope: str) -> Path:
    """Return where the key ``scope`` of a data directory is."""
    return root / "keys" / scope[:2] / scope


class FileKeys:
    """All keys of a data directory. A key is bound before its job is committed, so that neither is there without the other."""

    def __init__(
        self, root: Path, *, disk: Disk, find: Callable[[str], str | None], is_pending: Callable[[str], bool]
    ) -> None:
        self._root = root
        self._disk = disk
        self._find = find
        self._is_pending = is_pending
        disk.make_folders(root / "keys")

    @contextmanager
    def hold(self, scope: str) -> Iterator[FileKey]:
        """Hold the key ``scope``, a hexadecimal digest. Raises KeyInFlight while another request holds it."""
        path = key_path(self._root, scope)
        self._disk.make_folders(path.parent)
        descriptor = _lock(path)
        try:
            job_id = _read(descriptor)
            # A bound key without a job is free again: its upload was never committed, or the job was deleted.
            yield FileKey(descriptor, path, self._disk, known=self._find(job_id) if job_id else None)
        finally:
            os.close(descriptor)

    def sweep(self, before: datetime) -> int:
        """Remove the keys that were bound before this moment and whose job is done; return how many."""
        swept = 0
        for path in (self._root / "keys").glob("??/*"):
            with suppress(OSError):
                if path.stat().st_mtime >= before.timestamp():
                    continue
                with locked(path, wait=False, create=False) as descriptor:
                    job_id = _read(descriptor)
                    if job_id is None or not self._is_pending(job_id):
                        path.unlink()
                        swept += 1
        return swept


class FileKey:
    """A held key."""

    def __init__(self, descriptor: int, path: Path, disk: Disk, *, known: str | None) -> None:
        self.known = known
        self._descriptor, self._path, self._disk = descriptor, path, disk

    def bind(self, job_id: str) -> None:
        """Write the id of the job; durable."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, job_id.encode("ascii"))
        self._disk.sync_file(self._descriptor)
        self._disk.sync_folder(self._path.parent)


def _lock(path: Path) -> int:
    while True:
        try:
            descriptor = open_lock(path, wait=False)
        except BlockingIOError:
            raise KeyInFlight(
                "An upload with this Idempotency-Key is being received.",
                hint="Send the same request again in a moment.",
                retry_after=1,
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # a sweep has just unlinked it


def _read(descriptor: int) -> str | None:
    text = os.pread(descriptor, 64, 0).decode("ascii", "replace")
    return text if is_id(text) else None
