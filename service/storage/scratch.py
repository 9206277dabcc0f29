"""Local files that attempts work on while the bytes themselves are elsewhere: a folder for each process, gone with it.

The folder's flock is held for as long as its process lives, so that others remove what the dead left, without a clock.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from service.durable import is_locked, locked, open_lock
from service.ids import new_id
from service.trash import remove

_PIECE: Final = 2**20
_LOCK: Final = "lock"


class Scratch:
    """The scratch folder of one process, made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder: Path | None = None
        self._making = threading.Lock()

    @contextmanager
    def copy(self, source: BufferedIOBase) -> Iterator[Path]:
        """Give a read-only file with what can be read from ``source``, for as long as it is needed."""
        path = self._own() / f"file-{new_id()}"
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(source, file, _PIECE)
            path.chmod(0o440)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def workspace(self, job_id: str, attempt: int) -> Path:
        """Return an empty folder."""
        folder = self._own() / f"{job_id}-{attempt}"
        remove(folder)
        folder.mkdir()
        return folder

    def find(self, job_id: str, attempt: int) -> Path:
        """Return the folder that ``workspace`` made."""
        return self._own() / f"{job_id}-{attempt}"

    def forget(self, job_id: str) -> None:
        """Remove all workspaces of a job."""
        if self._folder is not None:
            for folder in self._folder.glob(f"{job_id}-*"):
                remove(folder)

    def sweep(self) -> int:
        """Remove the folders of processes that are gone; return the bytes freed."""
        freed = 0
        if not self.root.is_dir():
            return 0
        with locked(self.root):  # nobody is between making a folder and locking it
            for folder in self.root.iterdir():
                if folder != self._folder and not is_locked(folder / _LOCK):
                    freed += remove(folder)
        return freed

    def _own(self) -> Path:
        with self._making:
            if self._folder is None:
                self.root.mkdir(parents=True, exist_ok=True)
                with locked(self.root, shared=True):
                    folder = self.root / new_id()
                    folder.mkdir(0o700)
                    lock = open_lock(folder / _LOCK, wait=False)
                weakref.finalize(self, _leave, folder, lock)
                self._folder = folder
            return self._folder


def _leave(folder: Path, lock: int) -> None:
    remove(folder)
    os.close(lock)
