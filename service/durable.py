"""The few file operations that promise something: synced writes, atomic replacement, folders that last, locks between processes.

POSIX promises that a file survives a power cut once it is synced, and that its *name* does once its folder is: both are done
here, in this order, and nowhere else. A failed fsync is never retried on the same file: the kernel may have dropped the pages and
would report success the second time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service import faults

if TYPE_CHECKING:
    from io import BufferedReader

    from service.joint import Joint

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  #: errors of a disk that takes no more
_LITTLE: Final = 2**16  #: bytes that are hashed in one go: a buffer for many takes longer to make than a few to hash
_REMEMBERED: Final = 4096  #: folders; a job's own is asked for a second time within moments, or never


def keep_private() -> None:
    """Let files this process makes from now on be read by its user and group alone: they are strangers' files."""
    os.umask(0o027)


class Disk:
    """Writes to one data directory. With ``sync=False`` the order stays and the syncs are left out."""

    def __init__(self, *, sync: bool = True) -> None:
        self.sync = sync
        self._lasting: set[Path] = set()  # folders whose names are known to be on disk

    def sync_file(self, descriptor: int) -> None:
        """Return when the bytes written through ``descriptor`` are on disk."""
        if self.sync:
            os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names within ``folder`` are on disk."""
        if self.sync:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def make_folders(self, folder: Path, joint: Joint | None = None) -> None:
        """Create ``folder`` and what is missing above it, each name synced in its parent; known ones cost nothing.

        One that is there and not known here may have been made a moment ago, by a process that has yet to sync it.
        With a ``joint`` the names last when that is done.
        """
        try:
            os.mkdir(folder)  # noqa: PTH102 - for every job, and twice as quick
        except FileNotFoundError:
            self.make_folders(folder.parent, joint)
            with suppress(FileExistsError):
                os.mkdir(folder)  # noqa: PTH102 - raises again where nobody can make folders, as in /proc
            self.make_folders(folder, joint)
        except FileExistsError:
            if not folder.is_dir():
                raise
            if folder not in self._lasting:
                with suppress(PermissionError):  # above the data directory; nobody here makes folders in it
                    self._last(folder, joint)
        else:
            if folder.parent not in self._lasting:
                self.make_folders(folder.parent, joint)
            self._last(folder, joint)

    def reserve(self, path: Path, size: int) -> None:
        """Make ``path`` a file of at least ``size`` bytes that are its own on disk, for a ``write`` that must not lack room.

        On file systems that copy on write (Btrfs, ZFS) overwriting may need room all the same. Raises OSError when there is none.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.write(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def write(
        self, path: Path, data: bytes, *, durable: bool = True, mode: int = 0o666, room: Path | None = None
    ) -> None:
        """Replace ``path`` by ``data`` at once and for good: no reader ever sees a part of it.

        Callers serialise writes to one path themselves. With ``durable=False`` it is only atomic, not synced. An OSError
        before the rename leaves the old content; one after it (the folder's sync) is raised as ``CommitUnknown``. When the
        disk is full, a file at ``room`` that was reserved beside ``path`` is used up instead of a new one.
        ``mode`` is that of the new file, less what the process's umask takes.
        """
        try:
            self._replace(path, beside(path), mode, data, durable)
        except OSError as error:
            if room is None or error.errno not in FULL or not room.exists():
                raise
            self._replace(path, room, None, data, durable)
        if durable:
            try:
                self.sync_folder(path.parent)
            except OSError as error:
                raise CommitUnknown(*error.args) from error

    def _replace(self, path: Path, new: Path, mode: int | None, data: bytes, durable: bool) -> None:
        """Write to ``new``, a new file of this mode or, with None, one that is there and may be used up, and rename it."""
        flags = os.O_WRONLY | (0 if mode is None else os.O_CREAT | os.O_TRUNC)
        try:
            descriptor = os.open(new, flags, mode or 0)
            try:
                write_all(descriptor, data)
                os.ftruncate(descriptor, len(data))
                if durable:
                    faults.reach("record.sync")
                    self.sync_file(descriptor)
            finally:
                os.close(descriptor)
            new.rename(path)
        except BaseException:
            if mode is not None:
                with suppress(OSError):
                    new.unlink(missing_ok=True)
            raise

    def _last(self, folder: Path, joint: Joint | None) -> None:
        if joint is not None:
            joint.folder(folder.parent)
            joint.then(lambda: self._remember(folder))
            return
        self.sync_folder(folder.parent)
        self._remember(folder)

    def _remember(self, folder: Path) -> None:
        if len(self._lasting) >= _REMEMBERED:
            self._lasting.clear()
        self._lasting.add(folder)


def beside(path: Path) -> Path:
    """Return where the next content of ``path`` is written before it is renamed into its place."""
    return path.with_name(path.name + ".new")


class CommitUnknown(OSError):
    """The rename happened and its sync failed: the new content is visible and may or may not survive a power cut."""


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of ``data``: a disk that is nearly full takes a part, and says so only when asked to take the rest."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += os.write(descriptor, rest[done:])


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False, create: bool = True) -> Iterator[int]:
    """Hold the flock of ``path`` (a file, made if missing, or a folder) and give its descriptor.

    The kernel frees it when the holder dies. Raises BlockingIOError when ``wait`` is false and somebody holds it, and
    FileNotFoundError when the folder of ``path`` is gone.
    """
    descriptor = open_lock(path, wait=wait, shared=shared, create=create)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_lock(path: Path, *, wait: bool = True, shared: bool = False, create: bool = True) -> int:
    """Take the flock of ``path`` like ``locked`` and leave closing the descriptor to the caller."""
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o640)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the flock of an existing file; a missing one is not locked."""
    try:
        with locked(path, wait=False, create=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def is_intact(path: Path, size: int, sha256: str) -> bool:
    """Tell whether a file has this size (bytes) and SHA-256 (hexadecimal), and is no link.

    Reads all of it, if the size is right; raises OSError when it cannot.
    """
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return holds(file, size, sha256)


def holds(file: BufferedReader, size: int, sha256: str) -> bool:
    """Tell whether an open file, read from here to its end, has this size (bytes) and SHA-256 (hexadecimal)."""
    if os.fstat(file.fileno()).st_size != size:
        return False
    found = hashlib.sha256(file.read(size)) if size <= _LITTLE else hashlib.file_digest(file, "sha256")
    return found.hexdigest() == sha256


def hand_over(path: Path, root: Path) -> None:
    """Give what root has made to whom the data directory ``root`` belongs: the service may run as somebody else."""
    if os.geteuid() == 0:
        owner = root.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below ``folder`` by this user."""
    return shutil.disk_usage(folder).free
