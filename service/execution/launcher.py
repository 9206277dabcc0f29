"""Starting an attempt's process: forked from a zygote on Linux, spawned elsewhere. Both are told over the same descriptors."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

log = structlog.get_logger(__name__)
_SECRET: Final = ("INTAKE_", "AWS_", "PG", "OTEL_")  #: begin the names of variables that attempts do not get

#: Errors that say nothing about one job: no other one would fare better.
SHARED_TROUBLE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)


class NotStartedError(OSError):
    """No process could be started: nothing of the file has run, and no other file would fare better."""


class Launcher(Protocol):
    """Starts processes for attempts, from any thread."""

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
        """Start a process that works for ``channel`` and holds ``lease``.

        On ``exit_writer`` a line ``{"pid": …}`` follows, and when the process has ended ``{"status", "rss", "cpu"}``; its end
        without that line means that the launcher itself died. The caller closes its copies. Raises OSError.
        """

    def stop(self) -> None:
        """End everything that was started."""


class ForkLauncher:
    """Keeps one zygote and starts it again when it died."""

    def __init__(self, processors_dir: Path | None = None) -> None:
        self._directory = str(processors_dir or "")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def warm(self) -> None:
        """Start the zygote ahead of the first attempt."""
        with self._lock:
            self._ensure()

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:  # noqa: D102
        descriptors = [channel.fileno(), exit_writer, channel.fileno() if lease is None else lease]
        with self._lock:
            try:
                socket.send_fds(self._ensure(), [b"a"], descriptors)
            except OSError:  # it died a moment ago
                self._stop()
                socket.send_fds(self._ensure(), [b"a"], descriptors)

    def stop(self) -> None:  # noqa: D102
        with self._lock:
            self._stop()

    def _ensure(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        if self._process is not None:
            log.warning("the zygote has died and is started again", status=self._process.returncode)
            self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [sys.executable, "-m", "service.execution.zygote", str(theirs.fileno()), self._directory]
            self._process = subprocess.Popen(
                arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_without_secrets()
            )
        self._control = ours
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # its signal to leave, and its children die with it
            self._control = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._process.kill()
            self._process.wait()
            self._process = None


class SpawnLauncher:
    """Starts a fresh interpreter per attempt: some 20 times slower, and works without fork."""

    def __init__(self, processors_dir: Path | None = None) -> None:
        self._directory = str(processors_dir or "")
        self._running: set[int] = set()

    def warm(self) -> None:
        """Do nothing: there is nothing to keep warm."""

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:  # noqa: D102
        inherited = [channel.fileno(), *([] if lease is None else [lease])]
        arguments = [sys.executable, "-m", "service.execution.child", str(channel.fileno()), self._directory]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            arguments,
            pass_fds=inherited,
            start_new_session=True,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            env=_without_secrets(),
        )
        writer = os.dup(exit_writer)
        os.write(writer, json.dumps({"pid": process.pid}).encode() + b"\n")
        self._running.add(process.pid)
        threading.Thread(target=self._wait, args=(process, writer), daemon=True).start()

    def stop(self) -> None:  # noqa: D102
        for pid in list(self._running):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _wait(self, process: subprocess.Popen[bytes], writer: int) -> None:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._running.discard(process.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        scale = 1 if sys.platform == "darwin" else 1024
        told = {"status": process.returncode, "rss": usage.ru_maxrss * scale, "cpu": usage.ru_utime + usage.ru_stime}
        with suppress(BrokenPipeError):
            os.write(writer, json.dumps(told).encode() + b"\n")
        os.close(writer)


def _without_secrets() -> dict[str, str]:
    """Return the environment less the service's own settings and its servers' credentials: what runs there is nobody's friend."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_SECRET) or name.startswith("INTAKE_TEST_")
    }


def launcher_for(start: str, processors_dir: Path | None = None) -> ForkLauncher | SpawnLauncher:
    """Return the launcher of ``INTAKE_ATTEMPT_START``: ``fork``, ``spawn``, or ``auto`` for the best of this system."""
    fork = start == "fork" or (start == "auto" and sys.platform == "linux")
    return (ForkLauncher if fork else SpawnLauncher)(processors_dir)
