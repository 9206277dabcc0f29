"""When what is tried: deliveries that wait for their moment, and turns among receivers once it has come."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_PLACES: Final = 32  #: tries at a time
_PLACES_EACH: Final = 4  #: tries at a time to one receiver: a slow one does not keep the others waiting


@dataclass(frozen=True, kw_only=True)
class Due:
    """One delivery that is to be tried."""

    job_id: str
    notice_id: str
    to: str
    receiver: str  #: who shares his places with others of the same


class Plan:
    """Deliveries by their moment. Each that ``take`` has given is at work until ``leave``."""

    def __init__(self) -> None:
        self._later: list[tuple[datetime, int, Due]] = []
        self._ready: dict[str, deque[Due]] = {}  # by receiver
        self._busy: Counter[str] = Counter()
        self._numbers = itertools.count()

    @property
    def next_at(self) -> datetime | None:
        """When the first of those that wait for their moment is due."""
        return self._later[0][0] if self._later else None

    def add(self, at: datetime, due: Due) -> None:
        """Have a delivery tried at this moment."""
        heapq.heappush(self._later, (at, next(self._numbers), due))

    def take(self, now: datetime) -> Iterator[Due]:
        """Give what is due, as far as there are places."""
        while self._later and self._later[0][0] <= now:
            due = heapq.heappop(self._later)[2]
            self._ready.setdefault(due.receiver, deque()).append(due)
        for receiver in list(self._ready):
            waiting = self._ready.pop(receiver)
            while waiting and self._busy.total() < _PLACES and self._busy[receiver] < _PLACES_EACH:
                self._busy[receiver] += 1
                yield waiting.popleft()
            if waiting:
                self._ready[receiver] = waiting  # behind the others: they take turns

    def leave(self, due: Due) -> None:
        """Give the place of a try back."""
        self._busy[due.receiver] -= 1
        if not self._busy[due.receiver]:
            del self._busy[due.receiver]
