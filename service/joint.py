"""Several durable changes made together, so that they share the commits of the disk: stage by stage, each stage for all of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from service.durable import Disk
from service.kernel import call, version

if TYPE_CHECKING:
    from service.jobs.model import Job

T = TypeVar("T")
_MANY: Final = 4  #: changes from which on it is quicker to sync all of the file system, by measurement
_LITTLE: Final = 32 * 2**20  #: bytes
_DIRTY: Final = re.compile(rb"^Dirty: +([0-9]+) kB", re.MULTILINE)
_KNOWN: Final = frozenset({"ext4", "xfs", "btrfs", "f2fs"})
#: Elsewhere there is no ``syncfs``, and before it keeps errors to itself.
_TELLS_ERRORS: Final = sys.platform == "linux" and version() >= (5, 8)


class Joint:
    """The syncs of several changes that are made together, stage by stage. It is left when they are over, as a context.

    Of a few, each file is synced by itself at once, and each folder at the end of its stage. Of many, all that is dirty in the file
    system is written at once instead, which costs the journal one commit where each of them would cost its own: then nothing lasts,
    and no error is told, before the end of a stage that is a ``barrier``.
    """

    def __init__(self, disk: Disk, whole: Path | None = None) -> None:
        self._disk = disk
        #: a folder of the file system that is synced as a whole; opened before anything is written, so that no error is missed
        self._whole = os.open(whole, os.O_RDONLY | os.O_DIRECTORY) if whole else None
        self._folders: dict[Path, None] = {}  # in their order
        self._after: list[Callable[[], None]] = []

    @classmethod
    def of(cls, disk: Disk, root: Path, number: int) -> Self:
        """Return what syncs ``number`` changes below ``root``."""
        return cls(disk, root if disk.sync and number >= _MANY and is_one_disk(root) and is_quiet() else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._whole is not None:
            os.close(self._whole)

    def file(self, descriptor: int) -> None:
        """Have the bytes written through ``descriptor`` on disk."""
        if self._whole is None:
            self._disk.sync_file(descriptor)

    def folder(self, folder: Path) -> None:
        """Have the names within ``folder`` on disk."""
        self._folders[folder] = None

    def then(self, action: Callable[[], None]) -> None:
        """Do something when the names of the stage are on disk."""
        self._after.append(action)

    def end(self, *, barrier: bool = False) -> None:
        """End a stage; after a ``barrier`` all that was given until now is on disk. Raises OSError when it is not."""
        if self._whole is None:
            for folder in self._folders:
                self._disk.sync_folder(folder)
        elif barrier:
            call("syncfs", self._whole)
        else:
            return
        for action in self._after:
            action()
        self._folders.clear()
        self._after.clear()


class JointStorage(Protocol):
    """A storage of files, which brings the bytes of many jobs to their places, or removes them, together."""

    disk: Disk
    root: Path

    def place_all(self, uploads: Sequence[Any], joint: Joint) -> list[Exception | None]:
        """Finish these uploads; they last after the joint's next barrier. Return for each what went wrong."""

    def delete_all(self, job_ids: Sequence[str], joint: Joint) -> list[Exception | None]:
        """Remove the bytes of these jobs for good. Return for each what ``delete`` would raise."""


class JointStore(Protocol):
    """A store of files, which commits or removes many records together, on the file system of a ``JointStorage``."""

    def create_all(self, jobs: Sequence[Job], joint: Joint) -> list[Exception | None]:
        """Commit these jobs, and what the joint was given before. Return for each what ``create`` would raise."""

    def delete_all(
        self, job_ids: Sequence[str], check: Callable[[Job], None], joint: Joint, *, tombstone: bool = False
    ) -> list[Exception | None]:
        """Remove these records, sorted by their ids, for good. Return for each what ``delete`` would raise."""

    def forget(self, job_id: str) -> None:
        """Drop an id whose bytes are gone."""


class Outcomes(Generic[T]):
    """What becomes of each of several items on their way through the stages: one that has failed takes no part in later ones."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items = items
        self.errors: list[Exception | None] = [None] * len(items)

    def __iter__(self) -> Iterator[T]:
        """Yield the items that have not failed."""
        for item, error in zip(self._items, self.errors, strict=True):
            if error is None:
                yield item

    def each(self, work: Callable[[T], object]) -> None:
        """Do this for each item; one that raises has failed."""
        for number, item in enumerate(self._items):
            if self.errors[number] is None:
                try:
                    work(item)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whom it belongs
                    self.errors[number] = error

    def all(self, work: Callable[[], object]) -> None:
        """Do this for all of them at once; if it raises, all have failed."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Let all fail that have not."""
        self.errors = [each or error for each in self.errors]

    def take(self, errors: Sequence[Exception | None]) -> None:
        """Take what others have found out about the items that had not failed, in their order."""
        told = iter(errors)
        self.errors = [each or next(told) for each in self.errors]


@lru_cache(maxsize=16)
def is_one_disk(root: Path) -> bool:
    """Tell whether all that an accepted upload leaves below ``root`` is on one file system whose ``syncfs`` is known to sync it.

    Where files come from elsewhere (FUSE, networks) it may write them there and not have them synced.
    """
    if not _TELLS_ERRORS:
        return False
    devices = {(root / name).stat().st_dev for name in ("", "incoming", "jobs", "pending")}
    if len(devices) > 1:
        return False
    device = devices.pop()
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0] in _KNOWN
    return False


def is_quiet() -> bool:
    """Tell whether all that is dirty on this machine is little enough to be written for the sake of something else."""
    try:
        dirty = _DIRTY.search(Path("/proc/meminfo").read_bytes())
    except OSError:
        return False
    return dirty is not None and int(dirty[1]) * 1024 <= _LITTLE
