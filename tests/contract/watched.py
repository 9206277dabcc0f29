"""A disk that tells what it syncs, and fails where it is told to."""

from __future__ import annotations

import errno
from pathlib import Path

from service.durable import Disk


class WatchedDisk(Disk):
    """Writes down each sync by its path in the data directory; one whose path ends in ``fail`` raises EIO instead."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.fail: str | None = None
        self.syncs: list[str] = []

    def sync_file(self, descriptor: int) -> None:
        self._note(Path(f"/proc/self/fd/{descriptor}").readlink())
        super().sync_file(descriptor)

    def sync_folder(self, folder: Path) -> None:
        self._note(folder)
        super().sync_folder(folder)

    def _note(self, path: Path) -> None:
        name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
        self.syncs.append(name)
        if self.fail is not None and name.endswith(self.fail):
            raise OSError(errno.EIO, "the disk fails")
