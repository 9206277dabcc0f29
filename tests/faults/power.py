"""A disk whose power can be cut: a file system in a file, ended by the shutdown ioctl with all that was not synced. Needs root."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.needs import need
from tests.waiting import wait_until

_SHUTDOWN: Final = 0x8004587D  #: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN
_NO_FLUSH: Final = 2  #: not even the log: what a power cut leaves
_SIZES: Final = {"ext4": "6000M", "xfs": "6000M"}


class LoopDisk:
    """An ext4 or XFS file system in a file beside its mount point."""

    def __init__(self, folder: Path, kind: str, *, size: str = "", options: tuple[str, ...] = ()) -> None:
        self.path = folder / f"{kind}-disk"
        self.path.mkdir()
        self._image = folder / f"{kind}.img"
        with self._image.open("wb") as image:
            image.truncate(_bytes(size or _SIZES[kind]))
        subprocess.run([need(f"mkfs.{kind}"), "-q", *options, str(self._image)], check=True, capture_output=True)

    def mount(self) -> None:
        done = _run("mount", "-o", "loop", str(self._image), str(self.path))
        if done.returncode:
            pytest.skip(f"this system mounts no loop devices, or not for us: {done.stderr.strip()}")

    def cut(self) -> None:
        """Cut the power: from now on every operation fails, and what was not synced is gone."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(descriptor)

    def remount(self, how: str) -> None:
        """Make the mounted disk read-only (``ro``) or writable again (``rw``)."""
        done = _run("mount", "-o", f"remount,{how}", str(self.path))
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        """Unmount it once nobody uses it any more; mounting it again replays its journal."""
        wait_until(lambda: _run("umount", str(self.path)).returncode == 0, 20, "an idle disk")

    def remove(self) -> None:
        _run("umount", "--lazy", str(self.path))
        with suppress(FileNotFoundError):
            self._image.unlink()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _bytes(size: str) -> int:
    return int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]]
