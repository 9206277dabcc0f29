"""The supervisor: one process per data directory that runs the attempts, elected by a flock.

Its main thread hears the bell, reads the markers and hands due jobs to slots; each slot is a thread that follows one attempt at a
time. The attempts themselves are processes of their own. Everything it knows it can find again in the markers and records.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from service import faults
from service.clock import Clock, UnhurriedClock
from service.durable import Disk, keep_private, open_lock
from service.engines.bell import Bell
from service.errors import ConfigError, IntakeError
from service.execution.attempt import AttemptRunner
from service.execution.janitor import Janitor
from service.execution.launcher import SHARED_TROUBLE, NotStartedError
from service.execution.station import running_attempts
from service.execution.turns import Turns
from service.ids import is_id
from service.jobs.lease import lead_file
from service.jobs.model import Job
from service.jobs.notices import is_open
from service.jobs.store import JobStore, StoreUnreachable
from service.logs import configure
from service.maintenance import collect, tidy_up
from service.notify.outbox import Outbox, OutboxThread
from service.sending import build_outbox
from service.settings import Settings
from service.storage.base import Storage
from service.wiring import Services, build

log = structlog.get_logger(__name__)
_EVICT_AFTER: Final = 3  #: looks at a job whose lease is held by nobody we know, before its holders are killed


class Supervisor:
    """Gives due jobs to slots until it is told to stop."""

    def __init__(
        self,
        *,
        run: Callable[[str, threading.Event], Job | None],
        store: JobStore,
        storage: Storage,
        bell: Bell,
        clock: Clock,
        slots: int,
        poll: float,
        drain: float,
        tidy: Callable[[], object],
        told: Callable[[str], object] = lambda _: None,
        lifeline: int | None = None,
    ) -> None:
        self._run = run
        self._store = store
        self._storage = storage
        self._bell = bell
        self._clock = clock
        self._slots = slots
        self._poll = poll
        self._drain = drain
        self._tidy = tidy
        self._told = told  # of each job that has something to send
        self._lifeline = lifeline  # its end of file: the process that started us is gone
        self._ready = Turns()
        self._known: set[str] = set()  # in ready, running or waiting
        self._waiting: dict[str, Job] = {}  # ids that are not due before a moment
        self._running: dict[str, Future[Job | None]] = {}
        self._held: dict[str, int] = {}  # how often a lease was found held
        self._resume_at = 0.0
        self._interrupt = threading.Event()
        self._stops = 0
        self._orphaned = False

    def stop(self) -> None:
        """Begin to drain; the second time, interrupt the running attempts at once. Safe in a signal handler."""
        self._stops += 1
        if self._stops > 1:
            self._interrupt.set()
        self._bell.wake()

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stops > 0

    def serve(self) -> None:
        """Work until stopped, or until the queue is empty and whoever started this process is gone."""
        next_poll = 0.0
        with ThreadPoolExecutor(self._slots, thread_name_prefix="slot") as slots, Janitor(self._tidy) as janitor:
            while not self._stops:
                now = time.monotonic()
                if now >= next_poll:
                    next_poll = now + self._poll
                    self._scan()
                    if self._orphaned and not self._known:
                        log.info("the queue is empty and the service is gone; leaving")
                        break
                janitor.call()
                self._fill(slots)
                self._wait(max(0.0, min(next_poll, janitor.next_at) - time.monotonic()))
                self._collect()
            self._leave()

    def _scan(self) -> None:
        now = self._clock()
        for job_id in [job_id for job_id, job in self._waiting.items() if job.is_due(now)]:
            del self._waiting[job_id]
            self._due(job_id)
        try:
            found = self._store.pending()
        except OSError as error:
            log.error("the markers cannot be read", error=str(error))
            return
        for job_id in found:
            self._add(job_id)

    def _add(self, job_id: str) -> None:
        if job_id not in self._known:
            self._known.add(job_id)
            self._due(job_id)

    def _due(self, job_id: str) -> None:
        self._ready.add(job_id, self._store.owner_hint(job_id))

    def _fill(self, slots: ThreadPoolExecutor) -> None:
        while self._ready and len(self._running) < self._slots and time.monotonic() >= self._resume_at:
            job_id = self._ready.take()
            future = slots.submit(self._attempt, job_id)
            self._running[job_id] = future
            future.add_done_callback(lambda _: self._bell.wake())

    def _attempt(self, job_id: str) -> Job | None:
        began = self._clock()
        job = self._run(job_id, self._interrupt)
        if job is None or job.done:
            ended_here = job is not None and job.finished_at is not None and job.finished_at >= began
            tidy_up(self._store, self._storage, job_id, settled=ended_here)
        return job

    def _wait(self, timeout: float) -> None:
        watched = [self._bell.fileno(), *([] if self._lifeline is None else [self._lifeline])]
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._bell.fileno() in readable:
            for job_id in filter(is_id, self._bell.heard()):
                if self._waiting.pop(job_id, None):
                    self._due(job_id)
                self._add(job_id)
        if self._lifeline in readable:
            os.read(self._lifeline, 1)
            self._lifeline = None
            self._orphaned = True
            log.info("the service that started this supervisor is gone; finishing the queue")

    def _collect(self) -> None:
        for job_id, future in list(self._running.items()):
            if future.done():
                del self._running[job_id]
                self._known.discard(job_id)
                self._digest(job_id, future)

    def _digest(self, job_id: str, future: Future[Job | None]) -> None:
        """Decide what comes next for a job after a look at it or an attempt. Its marker brings it back at the next poll."""
        try:
            self._decide(job_id, future.result())
        except IntakeError as error:
            log.warning("an attempt could not be made", job_id=job_id, error=error.detail)
            with suppress(OSError, IntakeError):
                self._store.settle(job_id)  # sets a corrupt record aside
        except OSError as error:
            log.error("an attempt could not be made", job_id=job_id, error=str(error))
            shared = error.errno in SHARED_TROUBLE or isinstance(error, NotStartedError | StoreUnreachable)
            if shared:  # no other job would fare better
                self._resume_at = time.monotonic() + self._poll
        except Exception:
            log.exception("an attempt could not be made", job_id=job_id)

    def _decide(self, job_id: str, job: Job | None) -> None:
        if job is None or job.done:
            self._held.pop(job_id, None)
            if job is not None and is_open(job):
                self._told(job_id)
        elif not job.is_due(self._clock()):
            self._held.pop(job_id, None)
            self._known.add(job_id)
            self._waiting[job_id] = job
        else:  # it is due, and still here: most likely somebody holds its lease
            self._held[job_id] = self._held.get(job_id, 0) + 1
            if self._held[job_id] >= _EVICT_AFTER and (killed := self._store.evict(job_id)):
                log.warning("an orphaned attempt is ended", job_id=job_id, killed=killed)

    def _leave(self) -> None:
        """Let running attempts finish within the drain, then interrupt them."""
        if self._running:
            log.info("running attempts have their chance to finish", running=len(self._running), seconds=self._drain)
        until = time.monotonic() + self._drain
        while self._running:
            left = until - time.monotonic()
            if left <= 0:
                self._interrupt.set()
            self._wait(min(left, 0.2) if left > 0 else 0.2)
            self._collect()


def serve(settings: Settings) -> int:
    """Run the supervisor of ``intake worker``: wait for the place if another holds it, then work until signalled."""
    return _serve(settings, lifeline=None, wait=True)


def _serve(settings: Settings, *, lifeline: int | None, wait: bool) -> int:
    configure(settings)
    keep_private()
    faults.arm(settings.faults)
    services = build(settings)
    root = settings.data_dir.resolve()
    lock = _elect(lead_file(root), wait=wait)
    if lock is None:
        return 0
    with running_attempts(settings, services) as runner:
        bell = Bell(root / "engine" / "bell")
        services.store.heed(bell.ring, due=True)
        outbox = build_outbox(settings, services)
        supervisor = _assemble(settings, services, runner, bell, outbox, lifeline)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: supervisor.stop())
        log.info("supervisor runs", slots=settings.slots, data_dir=str(root), pid=os.getpid())
        sending = OutboxThread(outbox)
        try:
            supervisor.serve()
        finally:
            sending.stop()
            bell.close()
    os.close(lock)
    log.info("supervisor has left")
    return 0


def _assemble(
    settings: Settings,
    services: Services,
    runner: AttemptRunner,
    bell: Bell,
    outbox: Outbox,
    lifeline: int | None,
) -> Supervisor:
    expiry = UnhurriedClock(services.clock)
    supervisor = Supervisor(
        run=runner.run,
        store=services.store,
        storage=services.storage,
        bell=bell,
        clock=services.clock,
        slots=settings.slots,
        poll=settings.poll.total_seconds(),
        drain=settings.drain.total_seconds(),
        tidy=lambda: collect(services, now=expiry(), stopped=lambda: supervisor.stopping),
        told=outbox.hint,
        lifeline=lifeline,
    )
    return supervisor


def _elect(path: Path, *, wait: bool) -> int | None:
    """Take the supervisor's place; without ``wait`` give up after a second, in which a mere look at the lock passes."""
    Disk(sync=False).make_folders(path.parent)
    said, tries = False, 0
    while True:
        try:
            return open_lock(path, wait=False)
        except BlockingIOError:
            tries += 1
            if not wait and tries > 10:
                return None
            if tries > 10 and not said:
                said = True
                log.info("another supervisor runs here; waiting to take over")
            time.sleep(0.1)


def main() -> int:
    """Run as ``python -m service.execution.supervisor --lifeline DESCRIPTOR``, started by an engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeline", type=int, required=True)
    try:
        return _serve(Settings.load(), lifeline=parser.parse_args().lifeline, wait=False)
    except ConfigError as error:  # its engine tries again
        log.error("no supervisor can run", error=error.detail)
        return 2


if __name__ == "__main__":
    sys.exit(main())
