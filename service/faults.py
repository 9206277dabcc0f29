"""Fault points: named places where a test may make this process die, fail or hang. Unarmed, a point costs a dictionary look-up.

``INTAKE_FAULTS=accept.committed=kill`` makes the next process that reaches ``accept.committed`` die there as by ``kill -9``, and
so each one that is started after it. With ``kill@/some/file`` it happens once: to whoever creates that file.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Final

from service.errors import ConfigError

POINTS: Final = {
    "accept.received": "the bytes are in incoming/, nothing is synced",
    "accept.stored": "the source is in the job's folder, there is no record",
    "accept.marked": "the marker is there, there is no record",
    "accept.committed": "the record is committed, the client has no answer",
    "bell.ring": "the background task is about to ring",
    "attempt.claimed": "the attempt is counted, its process is not started",
    "attempt.ended": "the process of the attempt has ended, the record does not know",
    "attempt.recorded": "the end is recorded, the marker is still there",
    "notice.marked": "the end is recorded and its marker in outbox/ made, the one in pending/ is still there",
    "notice.sent": "a notice was sent, its record does not know",
    "record.sync": "the file of a record is about to be synced",
}
_ACTIONS: Final = ("kill", "fail", "hang", "eio")
_armed: dict[str, tuple[str, str]] = {}


def arm(text: str) -> None:
    """Arm the points of ``INTAKE_FAULTS``; an unknown one raises ConfigError."""
    _armed.clear()
    for item in filter(None, (part.strip() for part in text.split(","))):
        point, _, rest = item.partition("=")
        action, _, once = rest.partition("@")
        if point not in POINTS or action not in _ACTIONS:
            raise ConfigError(
                f"INTAKE_FAULTS={item}: points are {', '.join(POINTS)}; actions are {', '.join(_ACTIONS)}"
            )
        _armed[point] = action, once


def reach(point: str) -> None:
    """Do what ``point`` is armed with: die, raise OSError(ENOSPC), raise OSError(EIO), or hang until killed."""
    action, once = _armed.get(point, ("", ""))
    if not action or (once and not _is_first(once)):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(3600)
    raise OSError(errno.EIO if action == "eio" else errno.ENOSPC, f"fault point {point}")


def _is_first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
