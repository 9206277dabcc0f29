"""The outbox: sends what the records of jobs say is waiting, until it is delivered or given up.

It has no store of its own. The markers tell which records to read, the records what is to be sent and when; a try is written into
the record after it was made, so a crash in between repeats it, under the same id. One outbox runs on a data directory, within the
supervisor, in a thread and event loop of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from random import uniform
from typing import Any, Final, Literal, TypeVar

import structlog

from service import faults
from service.clock import Clock
from service.counts import Counts
from service.errors import NotFound, RecordCorrupt
from service.figures import DELIVERY_DELAY, DELIVERY_TRIES
from service.jobs.document import linked
from service.jobs.model import Job
from service.jobs.notices import Delivery, Kind, Notice, Try, delivering
from service.jobs.store import JobStore
from service.notify.base import Letter, Outcome, Sender
from service.notify.plan import Due, Plan

log = structlog.get_logger(__name__)
T = TypeVar("T")
#: Waits before each try after the first, as Standard Webhooks proposes them: about three days in all.
WAITS: Final = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))
_JITTER: Final = (
    0.2  #: a wait is up to this much longer or shorter, so that what failed together does not return together
)
_LONGEST_ASKED: Final = timedelta(days=1)  #: of a Retry-After
_THREADS: Final = 4  #: for the disk
_AGAIN: Final = 5.0  #: seconds after which what could not be read or written is looked at again


class Outbox:
    """Sends for one data directory. ``run`` and ``round`` belong to one event loop; ``hint`` and ``stop`` to any thread."""

    def __init__(
        self,
        *,
        store: JobStore,
        senders: Mapping[Kind, Callable[[], Sender]],
        clock: Clock,
        poll: float,
        root_path: str = "",
        counts: Counts | None = None,
        jitter: Callable[[float, float], float] = uniform,
    ) -> None:
        self._store = store
        self._make = senders
        self._senders: dict[Kind, Sender] = {}
        self._clock = clock
        self._poll = poll
        self._root_path = root_path
        self._counts = counts or Counts()
        self._jitter = jitter
        self._known: dict[str, set[tuple[str, str]]] = {}  # by job: its notices and whom they are for
        self._plan = Plan()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hints: deque[str] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="outbox")

    def hint(self, job_id: str) -> None:
        """Look at this job now: something of it may wait. A hint may be lost; the next look at the markers finds it."""
        self._hints.append(job_id)
        self._ring()

    def stop(self) -> None:
        """Begin nothing more; ``run`` returns when what is being sent was sent, or a few seconds later."""
        self._stopped.set()
        self._ring()

    async def run(self, *, patience: float = 5.0) -> None:
        """Send until stopped; what is still being sent ``patience`` seconds after that is cut off, and sent again another day."""
        self._loop = asyncio.get_running_loop()
        look = 0.0
        try:
            while not self._stopped.is_set():
                self._wake.clear()
                try:
                    if time.monotonic() >= look:
                        look = time.monotonic() + self._poll
                        await self._scan()
                    await self._heed()
                    self._begin()
                except Exception:
                    log.exception("the outbox has stumbled; it goes on")
                await self._rest(max(0.0, look - time.monotonic()))
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=patience)
        finally:
            await self.close()

    async def round(self) -> None:
        """Look at the markers and send all that is due at this moment, with what follows from it: for tests, and for one shot."""
        await self._scan()
        self._begin()
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._begin()

    async def close(self) -> None:
        """Cut off what is being sent and let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self._senders.values():
            await sender.close()
        self._threads.shutdown(wait=False)

    def _ring(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    async def _rest(self, longest: float) -> None:
        if at := self._plan.next_at:
            longest = min(longest, max(0.0, (at - self._clock()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._wake.wait()

    async def _scan(self) -> None:
        try:
            found = await self._blocking(self._store.undelivered)
        except OSError as error:
            log.error("the outbox cannot be read", error=str(error))
            return
        for job_id in found:
            if job_id not in self._known:
                await self._look(job_id)

    async def _heed(self) -> None:
        while self._hints:
            await self._look(self._hints.popleft())

    async def _look(self, job_id: str) -> None:
        """Plan what waits of a job and is not planned yet."""
        try:
            job = await self._blocking(self._store.get, job_id)
        except (NotFound, RecordCorrupt):
            with suppress(OSError):
                await self._blocking(self._store.settle, job_id)
            return
        except OSError as error:
            log.warning("a record cannot be read now", job_id=job_id, error=str(error))
            return
        known = self._known.get(job_id, set())
        waiting = [(notice, one) for notice in job.notices for one in notice.deliveries if one.state == "waiting"]
        for notice, delivery in waiting:
            if (notice.id, delivery.to) not in known:
                known.add((notice.id, delivery.to))
                receiver = _receiver(delivery)
                due = Due(job_id=job_id, notice_id=notice.id, to=delivery.to, receiver=receiver)
                self._plan.add(delivery.due_at or self._clock(), due)
        if known:
            self._known[job_id] = known
        elif not waiting:
            with suppress(OSError):
                await self._blocking(self._store.settle, job_id)  # the marker outlived what it stood for

    def _begin(self) -> None:
        for due in self._plan.take(self._clock()):
            task = asyncio.create_task(self._deliver(due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, due: Due) -> None:
        after: Delivery | None = None
        try:
            job = await self._blocking(self._store.get, due.job_id)
            notice, delivery = _find(job, due)
            if delivery is not None and notice is not None and delivery.state == "waiting":
                after = await self._try(job, notice, delivery)
        except (NotFound, RecordCorrupt):
            log.info("what was to be sent is gone with its job", job_id=due.job_id)
        except Exception:
            log.exception("a delivery failed in the service itself; it is tried again", job_id=due.job_id)
            self._plan.add(self._clock() + timedelta(seconds=_AGAIN), due)
            return
        finally:
            self._plan.leave(due)
            self._wake.set()
        if after is not None and after.state == "waiting" and after.due_at is not None:
            self._plan.add(after.due_at, due)
        else:
            self._forget(due)

    async def _try(self, job: Job, notice: Notice, delivery: Delivery) -> Delivery | None:
        at, began = self._clock(), time.monotonic()
        document = notice.job if notice.job is not None else job.document().model_dump(mode="json")
        letter = Letter(notice=notice, delivery=delivery, job=linked(document, self._root_path), owner=job.owner, at=at)
        outcome = await self._sender(delivery.kind).send(letter)
        faults.reach("notice.sent")
        attempt = Try(at=at, seconds=round(time.monotonic() - began, 3), status=outcome.status, detail=outcome.detail)

        def change(stored: Delivery) -> Delivery:
            return stored.tried(attempt, *self._follows(stored, outcome)) if stored.state == "waiting" else stored

        stored = await self._blocking(
            self._store.update, job.id, partial(delivering, notice_id=notice.id, to=delivery.to, change=change)
        )
        after = next(
            (d for n in stored.notices if n.id == notice.id for d in n.deliveries if d.to == delivery.to), None
        )
        _tell(job, notice, after, attempt)
        await self._blocking(self._count, notice, after, at)
        return after

    def _count(self, notice: Notice, delivery: Delivery | None, at: datetime) -> None:
        if delivery is None:
            return
        outcome = {"waiting": "failed"}.get(delivery.state, delivery.state)
        self._counts.add(DELIVERY_TRIES, delivery.kind, outcome)
        if outcome == "delivered":
            self._counts.add(DELIVERY_DELAY, delivery.kind, value=max(0.0, (at - notice.at).total_seconds()))
        self._counts.flush()

    def _follows(
        self, delivery: Delivery, outcome: Outcome
    ) -> tuple[Literal["waiting", "delivered", "dead"], datetime | None]:
        if outcome.ok:
            return "delivered", None
        if outcome.final or delivery.tries >= len(WAITS):
            return "dead", None
        wait = WAITS[delivery.tries] * self._jitter(1 - _JITTER, 1 + _JITTER)
        asked = min(timedelta(seconds=outcome.retry_after or 0), _LONGEST_ASKED)
        return "waiting", self._clock() + max(wait, asked)

    def _sender(self, kind: Kind) -> Sender:
        if kind not in self._senders:
            self._senders[kind] = self._make[kind]()
        return self._senders[kind]

    def _forget(self, due: Due) -> None:
        known = self._known.get(due.job_id, set())
        known.discard((due.notice_id, due.to))
        if not known:
            self._known.pop(due.job_id, None)

    async def _blocking(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))


class OutboxThread:
    """An outbox in a thread and event loop of its own."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, in a few seconds at most."""
        self._outbox.stop()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._outbox.run())
        except Exception:
            log.exception("the outbox has failed; it begins anew with the supervisor")


def _receiver(delivery: Delivery) -> str:
    """Return with whom a delivery shares its places: the endpoint, the URL without its query, or the one SMTP server."""
    if delivery.kind is Kind.EMAIL:
        return "smtp"
    return delivery.to if delivery.to.startswith("ep_") else delivery.address.partition("?")[0]


def _find(job: Job, due: Due) -> tuple[Notice | None, Delivery | None]:
    notice = next((one for one in job.notices if one.id == due.notice_id), None)
    return notice, next((one for one in notice.deliveries if one.to == due.to), None) if notice else None


def _tell(job: Job, notice: Notice, delivery: Delivery | None, attempt: Try) -> None:
    state = delivery.state if delivery else "dropped"
    facts = {
        "job_id": job.id,
        "notice": notice.id,
        "receiver": delivery.to if delivery else None,
        "detail": attempt.detail,
    }
    if state == "delivered":
        log.info("notice delivered", **facts)
    elif state == "dead":
        log.error("a notice was given up", **facts)
    else:
        log.warning("a notice could not be delivered", due_at=str(delivery.due_at) if delivery else None, **facts)
