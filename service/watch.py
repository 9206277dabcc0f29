"""Waiting for jobs to change: one look at all jobs that are followed, however many follow them.

A store that tells news (``JobStore.heed``) is looked at when it does; any other thirty times a second.

The look compares marks (``JobStore.marks``), which are cheap; a job is read once per change, for all who follow it. The same look
reads the journal for those who listen to all jobs (``service.feed``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

import structlog

from service.errors import IntakeError
from service.feed import Feed
from service.jobs.model import Job
from service.jobs.store import JobStore

log = structlog.get_logger(__name__)
EVERY: Final = 0.03  #: seconds between two looks, at least
_SHARE: Final = 9  #: times as long as the last look took, the pause lasts: looking takes a tenth of one core at most
_SELDOM: Final = 2.0  #: seconds between two looks at a store that tells: its news may be lost
_SETTLE: Final = 0.01  #: seconds in which news gather before a look
_WAVE: Final = 128  #: followers that are woken at a time; others have their turn, and answers go out, between two waves

InThread = Callable[..., Awaitable[Any]]
T = TypeVar("T")


_Changed: TypeAlias = "dict[str, tuple[Hashable, Job | IntakeError]]"


class Places:
    """A number of places that are taken for the length of a block."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.taken = 0

    @contextmanager
    def take(self) -> Iterator[bool]:
        """Take a place, if there is one; False when there is none."""
        if self.taken >= self._number:
            yield False
            return
        self.taken += 1
        try:
            yield True
        finally:
            self.taken -= 1


class Turns:
    """Tasks that wait for their turn."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    async def wait(self) -> None:
        """Wait for the turn that is given next."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)

    def give(self) -> Iterator[None]:
        """Give their turn to all who wait now: a step of this iterator is one of them."""
        waiting, self._waiting = self._waiting, {}
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
                yield


class Topic:
    """A job that is followed, as it was last seen."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.followers = 0
        self.mark: Hashable = self  # equal to no mark: the first look counts as a change, so none before it is missed
        self.seen: Job | IntakeError | None = None
        self.news = Turns()


class Follower:
    """One who follows a job. However long it takes between two calls of ``next``, the latest change is not missed."""

    def __init__(self, watch: Watch, topic: Topic, job: Job) -> None:
        self._watch, self._topic = watch, topic
        self.job = job  #: as this follower knows it

    async def next(self) -> Job | None:
        """Return the job as soon as it is newer than the one known; None when nobody shall wait any more.

        Raises NotFound or Gone when it was deleted, RecordCorrupt when it cannot be read.
        """
        while not self._watch.ended:
            seen = self._topic.seen
            if isinstance(seen, IntakeError):
                raise seen.with_traceback(None)
            if seen is not None and (seen.attempt, seen.version) > (self.job.attempt, self.job.version):
                self.job = seen
                return seen
            await self._topic.news.wait()
        return None


class Watch:
    """Those who follow jobs in this process. For one event loop."""

    def __init__(self, store: JobStore, in_thread: InThread, *, waiters: int, streams: int) -> None:
        self._store = store
        self._in_thread = in_thread
        self.waiters = Places(waiters)  #: of requests that wait for one change
        self.streams = Places(streams)  #: of requests that are told every change
        self.ended = False  #: nobody waits any more
        self.feed = Feed(store, in_thread)
        self._topics: dict[str, Topic] = {}
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._every = EVERY
        self._took = 0.0  # seconds of work, the last look
        self._news = asyncio.Event()
        self._telling = False
        self._told = Turns()

    @contextmanager
    def follow(self, job: Job) -> Iterator[Follower]:
        """Follow a job for the length of the block."""
        topic = self._topics.setdefault(job.id, Topic(job.id))
        topic.followers += 1
        self._start()
        try:
            yield Follower(self, topic, job)
        finally:
            topic.followers -= 1
            if not topic.followers:
                del self._topics[job.id]

    @contextmanager
    def listen(self) -> Iterator[Feed]:
        """Listen to the changes of all jobs for the length of the block."""
        self.feed.listeners += 1
        self._start()
        try:
            yield self.feed
        finally:
            self.feed.listeners -= 1
            if not self.feed.listeners:
                self.feed.rest()

    def end(self) -> None:
        """Let everybody go: the process is about to stop."""
        self.ended = self.feed.ended = True
        self.feed.wake()
        for turns in (self._told, *(topic.news for topic in self._topics.values())):
            for _ in turns.give():
                pass

    async def all_told(self) -> None:
        """Wait until all who follow what has just changed have their answer: what comes after one's own delays nobody then."""
        if self._telling and not self.ended:
            await self._told.wait()

    def _start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if self._store.heed(self._heard):
                self._every = _SELDOM
        if self._every == _SELDOM:
            self._news.set()  # the first look counts: something may have changed before anybody listened
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    def _heard(self, job_id: str) -> None:
        """Take news of a job, from a thread of the store."""
        if self._loop is not None and (job_id in self._topics or self.feed.listeners):
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._news.set)

    async def _pause(self) -> None:
        if self._every == EVERY:
            await asyncio.sleep(max(EVERY, _SHARE * self._took))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._every):
                await self._news.wait()
        await asyncio.sleep(_SETTLE)
        self._news.clear()

    async def _look(self) -> None:
        while (self._topics or self.feed.listeners) and not self.ended:
            await self._pause()
            try:
                known = {job_id: topic.mark for job_id, topic in self._topics.items()}
                feed = self.feed.look if self.feed.listeners else None
                changed, moves, self._took = await self._in_thread(_looked, self._store, known, feed)
            except OSError as error:  # the disk has trouble: waiting goes on, the next look is the next try
                log.warning("jobs that are waited for could not be looked at", error=str(error))
                continue
            told = [topic for job_id in changed if (topic := self._topics.get(job_id))]
            for topic in told:
                topic.mark, topic.seen = changed[topic.job_id]
            if moves and self.feed.listeners:
                self.feed.tell(*moves)
            await self._tell(told)

    async def _tell(self, topics: Iterable[Topic]) -> None:
        self._telling = True
        try:
            await _in_waves(*(topic.news for topic in topics))  # the answers are made and sent
        finally:
            self._telling = False
        await _in_waves(self._told)


async def _in_waves(*turns: Turns) -> None:
    """Give turns; whatever else the process has to do gets its own between two waves."""
    for number, _ in enumerate(chain.from_iterable(each.give() for each in turns), 1):
        if not number % _WAVE:
            await asyncio.sleep(0)
    await asyncio.sleep(0)


def _looked(
    store: JobStore, known: Mapping[str, Hashable], feed: Callable[[], T] | None
) -> tuple[_Changed, T | None, float]:
    """Do one look, at the jobs that are followed and at the journal if somebody listens; return its seconds of work too."""
    began = time.thread_time()  # not the time that a busy machine made it wait
    return _changed(store, known), feed() if feed else None, time.thread_time() - began


def _changed(store: JobStore, known: Mapping[str, Hashable]) -> _Changed:
    """Return the jobs whose mark is not the known one, each with its mark, which is the older of the two."""
    marks = store.marks(known)
    return {job_id: (mark, _read(store, job_id)) for job_id, mark in marks.items() if mark != known[job_id]}


def _read(store: JobStore, job_id: str) -> Job | IntakeError:
    try:
        return store.get(job_id)
    except IntakeError as error:
        return error
