"""Following the process of an attempt until it is gone: its reports, its deadline, a cancel, a drain, what it leaves behind."""

from __future__ import annotations

import errno
import os
import select
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

from service.errors import NotFound, StaleAttempt
from service.execution.broker import Broker
from service.execution.launcher import NotStartedError
from service.execution.live import LiveJob
from service.execution.process import Process
from service.execution.verdict import Verdict, verdict
from service.execution.wire import FrameReader, Request, WireError
from service.jobs.model import Reason
from service.jobs.store import JobStore

log = structlog.get_logger(__name__)
_TICK: Final = 0.25  #: seconds between two looks at deadline, cancel and drain
_BLOCK: Final = 4096  #: bytes
_PER_TICK: Final = 2**19  #: bytes of reports that are read between two looks; a flood waits in its sender
_CLOSING: Final = 0.2  #: seconds that a dead process's channel may stay open before its survivors are killed


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long an attempt may run, what it may write, and how it is ended."""

    deadline: float = 300.0  #: seconds
    grace: float = 5.0  #: seconds between SIGTERM and SIGKILL
    output: int = 0  #: bytes in its workspace, 0 for no bound
    memory: int = 0  #: bytes of address space it was given, to tell an out-of-memory kill from a crash


class Follower:
    """Follows one attempt."""

    def __init__(
        self,
        process: Process,
        *,
        live: LiveJob,
        store: JobStore,
        bounds: Bounds,
        stop: threading.Event,
        helpers: Mapping[str, Path] = MappingProxyType({}),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = process
        self._live = live
        self._store = store
        self._bounds = bounds
        self._stop = stop
        self._now = monotonic
        self._broker = Broker(helpers)
        self._frames = FrameReader()
        self._ending: tuple[Reason, str | None] | None = None  # why we end it, and the code of the problem
        self._kill_at: float | None = None
        self._abandoned = False
        self._heard = False  # anything of this attempt
        self._shared = False
        self._taken = 0  # bytes of reports since the last look

    def follow(self, request: Request) -> Verdict | None:
        """Have the process work on ``request`` until that, or the process, has come to its end.

        None when it had worked on others before, and left without a word of this one: another process may take it. Raises
        StaleAttempt when the job was taken over meanwhile, NotStartedError when there was no process at all.
        """
        process = self._process
        process.send(request, self._bounds.grace + 25)
        self._shared = request.is_shared
        self._loop(Path(request.workdir))
        over = self._is_over()
        if not over and self._ending is None:
            if process.served and not self._heard:
                return None
            if process.pid is None and process.end is None:
                raise NotStartedError("the launcher died before it started the attempt")
        judged = verdict(self._live, process.end, over=over, ending=self._ending, memory=self._bounds.memory)
        if over and judged.reason is Reason.SUCCEEDED:
            process.served += 1
        return judged

    def _is_over(self) -> bool:
        """Tell whether a shared process has had its last word of this attempt, and lives."""
        said = self._live.outcome is not None and self._frames.is_empty
        return self._shared and said and self._ending is None and self._process.end is None

    def _loop(self, workdir: Path) -> None:
        channel, exits = self._process.channel, self._process.exits
        deadline = self._now() + self._bounds.deadline
        next_look = self._now() + _TICK
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ, self._read_channel)
            selector.register(exits, selectors.EVENT_READ, self._read_exits)
            while exits in (watched := [key.fileobj for key in selector.get_map().values()]) and not self._abandoned:
                for key, _ in selector.select(_TICK):
                    if not key.data(key.fileobj):
                        selector.unregister(key.fileobj)
                if self._is_over():
                    return
                self._live.note()
                if self._now() >= next_look:
                    next_look, self._taken = self._now() + _TICK, 0
                    self._look(deadline, workdir)
                elif self._taken > _PER_TICK:
                    select.select([exits], [], [], max(0.0, next_look - self._now()))
            if channel in watched:
                self._drain(selector, channel)

    def _drain(self, selector: selectors.BaseSelector, channel: socket.socket) -> None:
        """Read what is left. If the channel stays open, somebody has inherited it and outlived the process."""
        until = self._now() + _CLOSING
        while self._now() < until:
            if selector.select(0.02) and not self._read_channel(channel):
                return
        killed = self._store.evict(self._live.job.id)
        log.warning("processes left by an attempt were killed", job_id=self._live.job.id, count=killed)

    def _look(self, deadline: float, workdir: Path) -> None:
        if self._ending is None:
            if self._now() >= deadline:
                self._end(Reason.TIMEOUT)
            elif self._stop.is_set():
                self._end(Reason.INTERRUPTED)
            elif self._bounds.output and not self._shared and _is_beyond(self._bounds.output, workdir):
                self._end(Reason.ERROR, "output-too-large")
            else:
                self._look_at_record()
        elif self._kill_at is not None and self._now() >= self._kill_at:
            self._process.kill(signal.SIGKILL)
            self._abandoned = self._now() >= self._kill_at + self._bounds.grace  # it cannot be killed; the slot goes on
            if self._abandoned:
                log.error(
                    "an attempt cannot be killed and is given up", job_id=self._live.job.id, pid=self._process.pid
                )
        else:
            self._process.kill(signal.SIGTERM)  # again: the first one may have come before the process could hear it

    def _look_at_record(self) -> None:
        try:
            job = self._store.get(self._live.job.id)
            job.require_attempt(self._live.job.attempt)
        except NotFound as error:
            raise StaleAttempt(f"job {self._live.job.id} was deleted") from error
        except OSError as error:
            log.warning("the record cannot be read now", job_id=self._live.job.id, error=str(error))
            return
        if job.cancel_requested_at is not None:
            self._end(Reason.CANCELED)

    def _end(self, reason: Reason, code: str | None = None) -> None:
        self._ending = (reason, code)
        self._kill_at = self._now() + self._bounds.grace
        self._process.kill(signal.SIGTERM)

    def _read_channel(self, channel: socket.socket) -> bool:
        try:
            data = channel.recv(2**16)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self._taken += len(data)
        self._heard = self._heard or bool(data)
        try:
            for frame in self._frames.feed(data):
                if frame.get("event") == "connect":
                    self._broker.answer(channel, frame)
                else:
                    self._live.take(frame)
        except (WireError, ValueError) as error:
            log.warning("an attempt reports nonsense and is ended", job_id=self._live.job.id, error=str(error))
            self._live.outcome = None
            self._end(Reason.ERROR, "bad-report")
            return False
        return bool(data)

    def _read_exits(self, _: object) -> bool:
        known = self._process.pid
        goes_on = self._process.read_exits()
        if known is None and self._ending is not None:  # decided before there was anything to signal
            self._process.kill(signal.SIGTERM)
        return goes_on


def _is_beyond(limit: int, folder: Path) -> bool:
    """Tell whether ``folder`` holds more than ``limit`` bytes. Every name counts as a block at least: inodes run out too.

    It stops at the first too much, as names may come quicker than they are read. What is nested deeper than a path can say is taken
    for too much as well: nobody could look into it.
    """
    total, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        with suppress(OSError):
                            total += max(entry.stat(follow_symlinks=False).st_size - _BLOCK, 0)
                    if total > limit:
                        return True
        except OSError as error:  # it was removed, or renamed
            if error.errno == errno.ENAMETOOLONG:
                return True
    return False
