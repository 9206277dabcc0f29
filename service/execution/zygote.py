"""A warm process that forks one child per attempt: the processors' libraries are loaded once, a fork costs milliseconds.

Single-threaded and without any state of jobs. Over its control socket it takes one byte and three descriptors per attempt: the
channel, the pipe for the exit status, the lease. It dies with its supervisor, and its children die with it.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from processors import warm
from processors.registry import Registry, load_registry
from service.execution.child import detach, work
from service.execution.sandbox import adopt_orphans, die_with_parent, prepare


class Zygote:
    """The loop over the control socket and the children's ends."""

    def __init__(self, control: socket.socket, registry: Registry) -> None:
        self._control = control
        self._registry = registry
        self._exits: dict[int, int] = {}  # pid of a child -> pipe for its exit status

    def serve(self) -> None:
        """Fork until the supervisor is gone."""
        adopt_orphans()
        wake, wake_writer = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_writer, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if wake in ready:
                    os.read(wake, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._take():
                    return

    def _take(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 3)
        if not message:
            return False
        try:
            channel, exit_writer, lease = descriptors
            parent = os.getpid()
            pid = os.fork()
        except (
            OSError,
            ValueError,
        ):  # out of descriptors or processes: the runner sees its pipe close, the others go on
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        if pid == 0:
            self._become_attempt(parent, channel, lease)
        os.close(channel)
        os.close(lease)
        self._exits[pid] = exit_writer
        self._tell(pid, {"pid": pid})
        return True

    def _become_attempt(self, parent: int, channel: int, lease: int) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            die_with_parent(parent)
            detach(channel, lease)
            with socket.socket(fileno=channel) as connection:
                work(connection, self._registry)
            status = 0
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # whatever it has left in its group
            self._end_orphans()
            if pid not in self._exits:
                continue
            scale = 1 if sys.platform == "darwin" else 1024
            facts = {"rss": usage.ru_maxrss * scale, "cpu": usage.ru_utime + usage.ru_stime}
            self._tell(pid, {"status": os.waitstatus_to_exitcode(status), **facts})
            os.close(self._exits.pop(pid))

    def _end_orphans(self) -> None:
        """Kill what has left its attempt's group and lost its parent: it has become a child of this process."""
        with suppress(OSError):  # a kernel that does not tell
            for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
                if pid not in self._exits:
                    os.kill(pid, signal.SIGKILL)

    def _tell(self, pid: int, value: dict[str, float]) -> None:
        with suppress(BrokenPipeError):
            os.write(self._exits[pid], json.dumps(value).encode() + b"\n")


def main() -> None:
    """Run as ``python -m service.execution.zygote CONTROL_DESCRIPTOR PROCESSORS_DIR``."""
    control, directory = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    for name in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # when to leave is the supervisor's decision, also if a whole group is signalled
        signal.signal(name, signal.SIG_IGN)
    registry = load_registry(directory=Path(directory) if directory else None)
    warm()
    prepare()
    gc.collect()
    gc.freeze()  # collections in children leave the shared pages alone
    Zygote(control, registry).serve()


if __name__ == "__main__":
    main()
