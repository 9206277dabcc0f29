"""What one process has and the kernel frees when it dies: the lease of an attempt, which its processes inherit, and the lead."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.durable import is_locked, open_lock
from service.jobs.model import Job

_LOOKS: Final = 20


class FileLease:
    """The held flock of a job's ``lease`` file. Raises BlockingIOError at construction when somebody holds it."""

    job: Job

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = open_lock(path, wait=False)

    def fileno(self) -> int | None:
        """Return the descriptor whose copies in other processes keep the lease."""
        return self._descriptor

    def release(self) -> None:
        """Close the descriptor; processes that inherited it keep the lease."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FileLead:
    """The held flock of ``path``. Raises BlockingIOError at construction when somebody holds it."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = open_lock(path, wait=False)

    def is_held(self) -> bool:
        """Tell whether it was not released: the kernel takes it from nobody alive."""
        return self._descriptor is not None

    def release(self) -> None:
        """Close the descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lead_file(root: Path) -> Path:
    """Return the file of the data directory ``root`` whose flock is the lead, whichever engine's process takes it."""
    return root / "engine" / "supervisor.lock"


def is_led(root: Path) -> bool:
    """Tell whether a supervisor, or the one worker that reconciles, is at work on the data directory ``root``."""
    return is_locked(lead_file(root))


def take_lead(path: Path) -> FileLead | None:
    """Take the lead whose file is ``path``; None while somebody has it for longer than a mere look at it takes."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            return FileLead(path)
        time.sleep(0.01)
    return None


def evict(path: Path) -> int:
    """Kill the other processes that keep the lease ``path``, and return how many there were. Needs Linux's /proc."""
    if not is_locked(path):
        return 0
    killed, target = 0, path.stat()
    for process in Path("/proc").glob("[0-9]*/fd"):
        if int(process.parent.name) == os.getpid():
            continue
        with suppress(OSError):
            if any(_is(descriptor, target) for descriptor in process.iterdir()):
                os.kill(int(process.parent.name), signal.SIGKILL)
                killed += 1
    return killed


def _is(descriptor: Path, target: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), target)
    except OSError:
        return False
