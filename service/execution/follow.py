"""Following the process of an attempt until it is gone: its reports, its deadline, a cancel, a drain, what it leaves behind."""

from __future__ import annotations

import json
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
from typing import Any, Final

import structlog

from service.errors import NotFound, StaleAttempt
from service.execution.broker import Broker
from service.execution.launcher import Launcher, NotStartedError
from service.execution.live import LiveJob
from service.execution.verdict import Verdict, verdict
from service.execution.wire import FrameReader, Request, WireError
from service.jobs.model import Reason
from service.jobs.store import JobStore, Lease

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
    """Starts and follows one process."""

    def __init__(
        self,
        *,
        lease: Lease,
        live: LiveJob,
        store: JobStore,
        bounds: Bounds,
        stop: threading.Event,
        helpers: Mapping[str, Path] = MappingProxyType({}),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._live = live
        self._store = store
        self._bounds = bounds
        self._stop = stop
        self._now = monotonic
        self._broker = Broker(helpers)
        self._frames = FrameReader()
        self._pid: int | None = None
        self._exit: dict[str, Any] | None = None
        self._ending: tuple[Reason, str | None] | None = None  # why we end it, and the code of the problem
        self._kill_at: float | None = None
        self._abandoned = False
        self._taken = 0  # bytes of reports since the last look

    def follow(self, launcher: Launcher, request: Request) -> Verdict:
        """Run the process to its end.

        Raises StaleAttempt when the job was taken over meanwhile, NotStartedError when there was no process at all.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise NotStartedError(f"no attempt can be started: {error}") from error
        try:
            exit_reader, exit_writer = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            raise NotStartedError(f"no attempt can be started: {error}") from error
        with ours, open(exit_reader, "rb", buffering=0) as exits:  # noqa: PTH123 - a descriptor, not a path
            try:
                launcher.start(theirs, exit_writer, self._lease.fileno())
            except OSError as error:
                raise NotStartedError(f"no attempt can be started: {error}") from error
            finally:
                theirs.close()
                os.close(exit_writer)
            try:
                ours.settimeout(self._bounds.grace + 25)
                with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                    request.send(ours)
                ours.setblocking(False)
                self._loop(ours, exits, Path(request.workdir))
            except BaseException:
                self._kill(signal.SIGKILL)
                raise
        if self._pid is None and self._exit is None and self._ending is None:
            raise NotStartedError("the launcher died before it started the attempt")
        return verdict(self._live, self._exit, ending=self._ending, memory=self._bounds.memory)

    def _loop(self, channel: socket.socket, exits: Any, workdir: Path) -> None:
        deadline = self._now() + self._bounds.deadline
        next_look = self._now() + _TICK
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ, self._read_channel)
            selector.register(exits, selectors.EVENT_READ, self._read_exit)
            while exits in (watched := [key.fileobj for key in selector.get_map().values()]) and not self._abandoned:
                for key, _ in selector.select(_TICK):
                    if not key.data(key.fileobj):
                        selector.unregister(key.fileobj)
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
            elif self._bounds.output and _is_beyond(self._bounds.output, workdir):
                self._end(Reason.ERROR, "output-too-large")
            else:
                self._look_at_record()
        elif self._kill_at is not None and self._now() >= self._kill_at:
            self._kill(signal.SIGKILL)
            self._abandoned = self._now() >= self._kill_at + self._bounds.grace  # it cannot be killed; the slot goes on
            if self._abandoned:
                log.error("an attempt cannot be killed and is given up", job_id=self._live.job.id, pid=self._pid)
        else:
            self._kill(signal.SIGTERM)  # again: the first one may have come before the process could hear it

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
        self._kill(signal.SIGTERM)

    def _kill(self, number: signal.Signals) -> None:
        if self._pid is not None and self._exit is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)
            with suppress(ProcessLookupError, PermissionError):  # a moment ago it may not have had its own group yet
                os.kill(self._pid, number)

    def _read_channel(self, channel: socket.socket) -> bool:
        try:
            data = channel.recv(2**16)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        self._taken += len(data)
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

    def _read_exit(self, exits: Any) -> bool:
        data = exits.read(4096)
        for line in (data or b"").splitlines():
            told = json.loads(line)
            if "pid" in told:
                self._pid = told["pid"]
                if self._ending is not None:  # decided before there was anything to signal
                    self._kill(signal.SIGTERM)
            else:
                self._exit = told
        return bool(data) and self._exit is None


def _is_beyond(limit: int, folder: Path) -> bool:
    """Tell whether ``folder`` holds more than ``limit`` bytes. Every name counts as a block at least: inodes run out too.

    It stops at the first too much, as names may come quicker than they are read.
    """
    total, folders = 0, [os.fspath(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                total += _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with suppress(OSError):
                        total += max(entry.stat(follow_symlinks=False).st_size - _BLOCK, 0)
                if total > limit:
                    return True
    return False
