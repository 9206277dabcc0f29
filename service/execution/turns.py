"""Whose job is next: owners take turns, so that one who sends a thousand files makes nobody else wait for them."""

from __future__ import annotations

from collections import deque
from typing import Final

_REMEMBERED: Final = 10_000  #: owners whose last turn is kept in mind


class Turns:
    """Ids of jobs that are due. Of each owner they come in the order they were added; the owner served longest ago is next.

    A turn is one job, however long it runs.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, deque[str]] = {}
        self._served: dict[str, int] = {}  # the number of an owner's last turn
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def add(self, job_id: str, owner: str) -> None:
        """Put a job behind the others of its owner."""
        self._lanes.setdefault(owner, deque()).append(job_id)

    def take(self) -> str:
        """Return the job whose turn it is; there must be one."""
        owner = min(self._lanes, key=lambda one: self._served.get(one, 0))
        lane = self._lanes[owner]
        job_id = lane.popleft()
        if not lane:
            del self._lanes[owner]
        self._turn += 1
        if len(self._served) >= _REMEMBERED and owner not in self._served:
            self._served.clear()
        self._served[owner] = self._turn
        return job_id
