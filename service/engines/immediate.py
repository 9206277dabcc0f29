"""The engine for tests: a job has run when ``notify`` returns, in this process, with no supervisor and no other process.

It is the same claim, the same runner, the same pipeline and the same end as everywhere else; only the process of the attempt is
a thread. So nothing protects this process from a file: no limits, no sandbox, and a processor that hangs cannot be killed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from typing import Final

import structlog
from anyio import to_thread

from processors.registry import Registry
from service.clock import Clock, utc_now
from service.engines.base import EngineHealth
from service.execution import wire
from service.execution.attempt import AttemptRunner
from service.execution.child import perform
from service.jobs.model import Job, JobStatus
from service.jobs.store import JobStore

log = structlog.get_logger(__name__)
_UNMEASURED: Final = {"rss": 0, "cpu": 0.0}


class ImmediateEngine:
    """Runs a job within ``notify``, and again until it is done or has to wait.

    It waits for nothing: a job that is to be tried later stays queued until the clock has been moved and ``run_due`` is called.
    Needs no ``start``; after ``stop`` a notification is lost, as any engine may lose it.
    """

    def __init__(self, *, runner: AttemptRunner, store: JobStore, clock: Clock = utc_now) -> None:
        self._runner = runner
        self._store = store
        self._clock = clock
        self._stop = threading.Event()

    async def start(self) -> None:
        """Take notifications again, after ``stop``."""
        self._stop.clear()

    async def stop(self) -> None:
        """Run nothing from now on. A job that runs is interrupted and queued again, uncharged."""
        self._stop.set()

    async def notify(self, job_id: str) -> None:
        """Run the job, and return when it is done or has to wait. Never raises; not in microseconds."""
        try:
            await to_thread.run_sync(self._run, job_id)
        except Exception:
            log.exception("a job could not be run", job_id=job_id)

    async def health(self) -> EngineHealth:
        """Tell whether notifications are taken."""
        running = not self._stop.is_set()
        return EngineHealth(ok=running, detail="jobs run at once, in this process" if running else "stopped")

    async def run_due(self) -> list[Job]:
        """Run every job that is due by now, as a supervisor would; return all that were not done, as they are then."""
        found = [await to_thread.run_sync(self._run, job_id) for job_id in self._store.pending()]
        return [job for job in found if job is not None]

    def _run(self, job_id: str) -> Job | None:
        job: Job | None = None
        while not self._stop.is_set():
            job = self._runner.run(job_id, self._stop)
            waits = job is not None and not job.is_due(self._clock())
            if job is None or job.status is not JobStatus.QUEUED or waits:
                break
        return job


class ThreadLauncher:
    """Runs each attempt in a thread of this process, which speaks as the process of an attempt does.

    There is no process id, so what should be killed is given up instead: its thread goes on until it reports next.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
        """Start a thread that works for ``channel``."""
        held = None if lease is None else os.dup(lease)
        thread = threading.Thread(target=self._attempt, args=(channel.dup(), os.dup(exit_writer), held), daemon=True)
        thread.start()

    def stop(self) -> None:
        """Do nothing: threads end by themselves."""

    def _attempt(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
        status = 1
        try:
            with channel, suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the runner has given it up
                request = wire.Request.receive(channel)
                perform(request, self._registry, wire.Reports(channel))
                channel.shutdown(socket.SHUT_WR)
                status = 0
        except SystemExit as error:  # what would end a process of its own ends this attempt
            status = error.code if isinstance(error.code, int) else 1
        finally:
            with suppress(BrokenPipeError):
                os.write(exit_writer, json.dumps({"status": status, **_UNMEASURED}).encode() + b"\n")
            for descriptor in filter(None, (exit_writer, lease)):
                os.close(descriptor)
