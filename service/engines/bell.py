"""The bell between API and supervisor: a FIFO that carries job ids, one a line. It may lose them, and nobody waits for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_ID_LINE: Final = 37


def ring(path: Path, job_id: str) -> bool:
    """Write an id; return False when nobody listens. A full bell loses the id and returns True."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(descriptor, job_id.encode("ascii") + b"\n")
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return True


class Bell:
    """The listening end."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # ids rung to a dead supervisor are found by their markers
        os.mkfifo(path, 0o600)
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # also writing: it never sees an end of file

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._descriptor

    def heard(self) -> list[str]:
        """Return the ids rung since the last call."""
        try:
            data = os.read(self._descriptor, 1000 * _ID_LINE)
        except BlockingIOError:
            return []
        return data.decode("ascii", "replace").split()

    def ring(self, job_id: str) -> None:
        """Ring from within, from any thread."""
        ring(self._path, job_id)

    def wake(self) -> None:
        """Ring without an id."""
        self.ring("")

    def close(self) -> None:
        """Stop listening."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
