"""The processes of attempts, as their runner holds them: each works on one attempt, or on several small ones in turn.

Who may share one is decided by what they run: processors to which a file is opaque bytes, so that none can make the process do
anything to the next. A shared process works on one attempt at a time; it is handed that one's source, and can open nothing itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from typing import Any, Final, Self

from service.execution.launcher import Launcher, NotStartedError
from service.execution.wire import Request
from service.jobs.store import Lease

SMALL: Final = 2**20  #: bytes of a source that are worked on in less time than it takes to start a process
_MOST: Final = 64  #: attempts of one process: together they take far less CPU time than its limit


class Process:
    """One process, while its runner follows it and between two attempts."""

    def __init__(self, channel: socket.socket, exits: FileIO) -> None:
        self.channel = channel
        self.exits = exits
        self.pid: int | None = None
        self.end: dict[str, Any] | None = None  #: exit ``status``, ``rss`` and ``cpu``, once its end was told
        self.served = 0  #: attempts that have succeeded, after each of which it was left to live

    @classmethod
    def start(cls, launcher: Launcher, lease: int | None) -> Self:
        """Start one, which holds ``lease``. Raises NotStartedError."""
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                channel, its_channel = socket.socketpair()
                ours.enter_context(channel)
                theirs.enter_context(its_channel)
                reader, writer = os.pipe()
                theirs.callback(os.close, writer)
                exits = ours.enter_context(FileIO(reader))
                launcher.start(its_channel, writer, lease)
            except OSError as error:
                raise NotStartedError(f"no attempt can be started: {error}") from error
            ours.pop_all()
        return cls(channel, exits)

    def send(self, request: Request, timeout: float) -> None:
        """Have it work on ``request``; one that does not take it within ``timeout`` seconds, or has ended, is found out later."""
        self.channel.settimeout(timeout)
        with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            request.send(self.channel)
        self.channel.setblocking(False)

    def read_exits(self) -> bool:
        """Take in what was told of its start and end; False when no more will be."""
        data = self.exits.read(4096)
        for line in (data or b"").splitlines():
            told = json.loads(line)
            if "pid" in told:
                self.pid = told["pid"]
            else:
                self.end = told
        return bool(data) and self.end is None

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to it and its group, if it is known and has not ended."""
        if self.pid is not None and self.end is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            with suppress(ProcessLookupError, PermissionError):  # a moment ago it may not have had its own group yet
                os.kill(self.pid, number)

    def close(self) -> None:
        """Let go of it; one that waits for another request ends."""
        self.channel.close()
        self.exits.close()


class Processes:
    """Starts processes, and keeps those that have nothing to do for those who may share them. Safe to call from many threads."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._free: list[Process] = []

    @contextmanager
    def given(self, lease: Lease, *, shared: bool) -> Iterator[Process]:
        """Give a process for one attempt; it holds ``lease`` unless it is ``shared``. Raises NotStartedError.

        A shared one ends with its launcher, and writes nothing: nobody has to know whether it lives.
        """
        process = self._take() if shared else None
        if process is None:
            process = Process.start(self._launcher, None if shared else lease.fileno())
        served = process.served
        try:
            yield process
        except BaseException:
            process.kill(signal.SIGKILL)
            process.close()
            raise
        if served < process.served < _MOST:
            self._free.append(process)
        else:
            process.close()

    def _take(self) -> Process | None:
        try:
            return self._free.pop()  # in one step: others take from here at the same time
        except IndexError:
            return None
