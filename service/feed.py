"""Hearing of the changes of all jobs: the journal is read once for all who listen in this process, and each job once per change."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from service.errors import IntakeError
from service.jobs.model import Job, StatusChange
from service.jobs.store import JobStore, Moves, Position

_BATCH: Final = 200  #: changes that are read at a time
_REMEMBERED: Final = 1000  #: changes that need not be read anew for a listener that is slow, or resumes


@dataclass(frozen=True, kw_only=True)
class News:
    """A change of a job, up to which everything has been told; without a job, of one that is gone since, or ``lost``: of many."""

    position: Position
    job: Job | None = None
    move: StatusChange | None = None
    lost: bool = False


class Feed:
    """The latest changes of all jobs, for those who listen. For one event loop."""

    def __init__(self, store: JobStore, in_thread: Any) -> None:
        self._store, self._in_thread = store, in_thread
        self.listeners = 0
        self.ended = False  #: nobody waits any more
        self._from: Position | None = None  # after it, and up to _to, all news are these
        self._to: Position | None = None
        self._news: deque[News] = deque()
        self._told = asyncio.Event()

    async def here(self) -> Position:
        """Return the position of now."""
        moves: Moves = await self._in_thread(self._store.moves, None, 1)
        return moves.position

    async def after(self, position: Position) -> list[News]:
        """Return what has happened since a position, as soon as something has; nothing when nobody shall wait any more."""
        while not self.ended:
            if self._from and self._to and self._from <= position and self._from.journal == position.journal:
                found = [news for news in self._news if news.position > position]
            elif self._to:  # it is older than what is remembered, or of another journal
                _, found = await self._in_thread(read, self._store, position)
            else:
                found = []  # nobody has looked yet
            if found:
                return found
            await self._told.wait()
        return []

    def look(self) -> tuple[Moves, list[News]]:
        """Return what is new since the last look. Blocks; whoever calls it hands the result to ``tell``."""
        return read(self._store, self._to)

    def tell(self, moves: Moves, news: list[News]) -> None:
        """Take what a look has found, and wake those who wait for it."""
        if self._to is None or moves.lost:
            self._news.clear()
            self._from = moves.position
        else:
            self._news.extend(news)
        before, self._to = self._to, moves.position
        while len(self._news) > _REMEMBERED:
            self._from = self._news.popleft().position
        if before != self._to:
            self.wake()

    def wake(self) -> None:
        """Have all who wait look."""
        told, self._told = self._told, asyncio.Event()
        told.set()

    def rest(self) -> None:
        """Forget what is remembered: nobody listens."""
        self._from = self._to = None
        self._news.clear()


def read(store: JobStore, after: Position | None) -> tuple[Moves, list[News]]:
    """Return what the journal has after a position, with the jobs as they are now."""
    moves = store.moves(after, _BATCH)
    if moves.lost:
        return moves, [News(position=moves.position, lost=True)]
    jobs: dict[str, Job | None] = {}
    news = []
    for position, job_id, version in moves.moves:
        if job_id not in jobs:
            jobs[job_id] = _job(store, job_id)
        job = jobs[job_id]
        move = next((move for move in job.history if move.version == version), None) if job else None
        news.append(News(position=position, job=job, move=move))
    return moves, news


def _job(store: JobStore, job_id: str) -> Job | None:
    try:
        return store.get(job_id)
    except IntakeError:  # it was deleted since, or its record cannot be read
        return None
