"""What event streams tell: of a job where it stands, then every change, until it is done; of all jobs what changes. No HTTP.

A status that has passed before anybody looked is told all the same, from the record's history. Ids are the versions of the record
that changed the status: only these are on disk for good, so only these can be resumed after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from service.errors import IntakeError
from service.feed import Feed
from service.jobs.model import Job, StatusChange
from service.jobs.status import CHANGED, EVENTS, PROGRESS
from service.jobs.store import JobQuery, Position
from service.same import Same
from service.watch import Follower

_MARK_EVERY: Final = 1000  #: changes that did not pass a stream's filters, until their position is told
PULSE: Final = 15.0  #: seconds of silence after which a stream shows that it is alive
PACE: Final = 0.5  #: seconds between two events of progress, at least


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to tell of a job. ``move`` is a change of the status, and ``passed`` when the job has moved on since."""

    name: str
    job: Job
    move: StatusChange | None = None
    passed: bool = False


class Account:
    """What one stream of a job has told so far; resumed after the id ``last``, unless this job never had that."""

    def __init__(self, job: Job, last: int | None = None) -> None:
        newest = job.history[-1].version
        self._last = newest - 1 if last is None or last > newest else last
        self._shown: Job | None = None

    def news(self, job: Job) -> list[Event]:
        """Return what is to be told now that the job is like this; at first, where it stands."""
        moves = [move for move in job.history if move.version > self._last]
        if moves:
            return [Event(name=EVENTS[move.status], job=job, move=move, passed=move is not moves[-1]) for move in moves]
        if self._shown is None or _differ(Same(self._shown), Same(job)):
            return [Event(name=CHANGED, job=job)]
        return [] if self._shown.version == job.version else [Event(name=PROGRESS, job=job)]

    def told(self, job: Job) -> None:
        """Note that this has been told."""
        self._last, self._shown = job.history[-1].version, job


def is_over(job: Job, last: int | None) -> bool:
    """Tell whether whoever has been told ``last`` knows the end of the job."""
    return job.done and last == job.history[-1].version


@lru_cache(maxsize=64)
def _differ(before: Same[Job], after: Same[Job]) -> bool:
    """Tell whether more than the progress of a job has changed; the same for all who follow it."""
    return _plain(before.value) != _plain(after.value)


def _plain(job: Job) -> Job:
    """Return the job without its progress."""
    plain: Job = job.evolve(version=1, steps=tuple(step.evolve(progress=None) for step in job.steps))
    return plain


async def events_of(follower: Follower, *, last: int | None, seconds: float) -> AsyncIterator[Event | None]:
    """Yield the events of a job, resumed after the id ``last``; ends when the job is done or deleted, or after ``seconds``.

    None stands for a pulse: nothing has happened for a while.
    """
    now = asyncio.get_running_loop().time
    job: Job | None = follower.job
    account, until, quiet = Account(follower.job, last), now() + seconds, now()
    pulse = now() + PULSE
    while job is not None:
        events = account.news(job)
        hurry = any(event.name != PROGRESS for event in events)
        if not events or hurry or now() >= quiet:
            account.told(job)
            quiet = now() + PACE if events else quiet
            for event in events:
                yield event
            if job.done:
                return
            pulse = now() + PULSE if events else pulse
            wake = min(pulse, until)
        else:
            wake = min(quiet, pulse, until)
        try:
            async with asyncio.timeout_at(wake):
                job = await follower.next()
        except TimeoutError:
            if now() >= until:
                return
            if now() >= pulse:
                yield None
                pulse = now() + PULSE
        except IntakeError:  # it was deleted, or its record cannot be read any more
            return


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Something to tell of all jobs, up to a position: an event, the position alone, or ``ready``: more may have happened."""

    position: Position
    event: Event | None = None
    ready: bool = False


async def events_of_all(
    feed: Feed, query: JobQuery, *, last: Position | None, seconds: float
) -> AsyncIterator[Heard | None]:
    """Yield the changes of the status of all jobs that match, resumed after ``last``; ends after ``seconds``.

    Begins with ``ready`` when it is not resumed, and says so again when the thread was lost: from there on nothing is missed.
    None stands for a pulse, as in ``events_of``.
    """
    now = asyncio.get_running_loop().time
    until, position = now() + seconds, last
    if position is None:
        position = await feed.here()
        yield Heard(position=position, ready=True)
    told = position
    while True:
        try:
            async with asyncio.timeout_at(min(until, now() + PULSE)):
                news = await feed.after(position)
        except TimeoutError:
            if now() >= until:
                return
            yield None
            continue
        if not news:
            return
        for one in news:
            position = one.position
            if one.lost:
                told = position
                yield Heard(position=position, ready=True)
            elif one.job and one.move and query.matches(one.job.evolve(status=one.move.status)):
                told, passed = position, one.move != one.job.history[-1]
                event = Event(name=EVENTS[one.move.status], job=one.job, move=one.move, passed=passed)
                yield Heard(position=position, event=event)
        if position.number - told.number >= _MARK_EVERY:
            told = position
            yield Heard(position=position)
