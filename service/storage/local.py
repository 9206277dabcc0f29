"""Bytes on a local disk: ``incoming/<id>`` while they arrive, then ``source`` in the job's folder.

The whole file is linked into its job's folder, and its name in ``incoming`` goes only when the record is committed: whatever point
a process dies at, that name leads a sweep to what it left. The descriptor of a source under reception holds its flock until the
upload ends, so that the sweep knows the living from the dead without a clock.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from anyio import CapacityLimiter

from service import faults
from service.durable import Disk, free_bytes, is_locked, locked
from service.jobs.folders import ids_in, job_folder, walk
from service.jobs.model import Artifact
from service.joint import Joint, Outcomes
from service.storage.local_upload import LocalUpload
from service.trash import empty, remove

_FREE_FOR: Final = 0.02  #: seconds for which the free space is remembered: a disk takes a few MiB in that time
_THREADS: Final = 32  #: for uploads alone: the more of them wait for the disk at once, the fewer commits it has to make


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
        remove(folder)
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
                remove(folder)

    def delete(self, job_id: str) -> None:
        with Joint(self.disk) as joint:
            (error,) = self.delete_all([job_id], joint)
        if error is not None:
            raise error

    def delete_all(self, job_ids: Sequence[str], joint: Joint) -> list[Exception | None]:
        """Remove the bytes of these jobs; return for each what ``delete`` would raise."""
        left = Outcomes(job_ids)
        left.each(lambda job_id: self._discard(job_id, joint))
        left.all(lambda: joint.end(barrier=True))
        left.each(self.tidy)  # last: until then this name leads to what is left of the folder
        return left.errors

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
        return empty(self.root / "trash")

    def _discard(self, job_id: str, joint: Joint) -> None:
        folder = self.folder(job_id)
        with suppress(FileNotFoundError):
            folder.rename(self.root / "trash" / job_id)
            joint.folder(folder.parent)


def _open_made(folder: Path, name: str) -> int:
    """Open a file made by a process that nobody trusts: no link is followed, no FIFO waited for."""
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    finally:
        os.close(parent)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path
