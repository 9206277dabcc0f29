"""The engine of one machine: sees to it that a supervisor runs on the data directory, and rings its bell."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from service import faults
from service.durable import locked
from service.engines.base import EngineHealth
from service.engines.bell import ring
from service.jobs.lease import is_led

log = structlog.get_logger(__name__)
_LOOK_EVERY: Final = 5.0  #: seconds between two looks for a supervisor
_START_WITHIN: Final = 15.0  #: seconds in which a started supervisor takes its lock


class LocalEngine:
    """Starts the supervisor if nobody else has, and drains the one it started when it stops."""

    def __init__(self, root: Path, *, environment: dict[str, str], drain: float) -> None:
        self._root = root
        self._environment = environment
        self._drain = drain
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._missed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:  # noqa: D102
        self._watch = asyncio.create_task(self._keep())

    async def stop(self) -> None:  # noqa: D102
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await asyncio.to_thread(self._stop_supervisor)

    async def notify(self, job_id: str) -> None:  # noqa: D102
        try:
            faults.reach("bell.ring")
            if not ring(self._root / "engine" / "bell", job_id):
                self._missed.set()
        except OSError as error:
            log.warning(
                "the bell was not rung; the job's marker is found within the poll", error=str(error), job_id=job_id
            )

    async def health(self) -> EngineHealth:  # noqa: D102
        alive = is_led(self._root)
        return EngineHealth(ok=alive, detail="supervisor runs" if alive else "no supervisor; one is being started")

    async def _keep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._ensure)
            except OSError as error:
                log.error("no supervisor can be started", error=str(error))
            self._missed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    _LOOK_EVERY
                ):  # wait_for of Python 3.11 may swallow the cancellation by stop()
                    await self._missed.wait()
                await asyncio.sleep(0.2)  # a supervisor that is just starting has no bell yet

    def _ensure(self) -> None:
        if is_led(self._root) or (self._process is not None and self._process.poll() is None):  # or is about to be
            return
        with suppress(BlockingIOError), locked(self._root / "engine" / "start.lock", wait=False):
            self._reap()
            self._start_supervisor()

    def _start_supervisor(self) -> None:
        reader, self._lifeline = os.pipe()
        arguments = [sys.executable, "-m", "service.execution.supervisor", "--lifeline", str(reader)]
        environment = {**os.environ, **self._environment}
        try:  # a session of its own: Ctrl-C in the terminal reaches the API, which then orders the drain
            self._process = subprocess.Popen(
                arguments, env=environment, pass_fds=[reader], stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            os.close(reader)
        until = time.monotonic() + _START_WITHIN
        while not is_led(self._root) and time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
                return

    def _reap(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _stop_supervisor(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._drain + 15)
            self._process.kill()
        self._reap()
