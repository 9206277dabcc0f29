"""The process of one attempt, from inside: take the request, confine itself, run the pipeline, report, end.

It never sees the record. What it reports goes through ``wire``; how it ends, others see from its exit status.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from processors.contract import Limits
from processors.failure import Failure
from processors.pipeline import Step
from processors.registry import Registry, load_registry
from processors.runner import Finished, Source, run
from service.durable import holds, is_intact
from service.execution import broker, wire
from service.execution.sandbox import confine
from service.kernel import give_way

log = logging.getLogger(__name__)
_DAMAGED: Final = Failure(
    reason="lost_input", code="source-damaged", detail="The stored bytes are not those that were accepted."
)
_IDLE: Final = 5.0  #: seconds that a shared process waits for more to do


def work(channel: socket.socket, registry: Registry) -> None:
    """Run the attempt that the next request on ``channel`` describes; returns when its outcome is reported.

    A shared process then waits a while for another. It is confined once, for it can open no file of either.
    """
    request: wire.Request | None = wire.Request.receive(channel)
    level: list[str] = []
    while request is not None:
        reports = wire.Reports(channel)
        handler = _Reporter(reports)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
        if not level:
            give_way()
            level = _confine(request)
        reports.tell({"event": "confined", "level": level})
        perform(request, registry, reports)
        request = _another(channel, after=request)


def _confine(request: wire.Request) -> list[str]:
    code = map(Path, request.code)
    if request.is_shared:
        os.chdir("/")
        return confine(request.process, readable=code, writable=())
    workdir = Path(request.workdir)
    os.chdir(workdir)  # also where temporary files land, as no other folder can be written
    readable = [Path(request.source["path"]), *(Path(path) for path in request.files()), *code]
    return confine(request.process, readable=readable, writable=(workdir,))


def _another(channel: socket.socket, *, after: wire.Request) -> wire.Request | None:
    """Close the source that a shared process was handed and wait for another; None when none comes, or it is not shared."""
    if after.descriptor is None:
        return None
    os.close(after.descriptor)
    channel.settimeout(_IDLE)
    try:
        request = wire.Request.receive(channel)
    except (EOFError, TimeoutError):
        return None
    channel.settimeout(None)
    return request


def perform(request: wire.Request, registry: Registry, reports: wire.Reports) -> None:
    """Run the pipeline of ``request`` and report as it goes; the last event is the outcome.

    What is stored is compared with what was recorded of it before any step reads it: a source that has changed ends the attempt,
    and a step with such an artifact runs again. It takes a pass over the files, which has the attempt's deadline.
    """
    try:
        damage = None if _is_intact(request) else _DAMAGED
        finished = {name: done for name, done in request.finished.items() if _is_whole(name, done)}
    except OSError as error:
        detail = f"The stored files cannot be read: {error.strerror or error}."
        damage = Failure(reason="error", code="processor-failed", detail=detail)
    if damage:
        reports.tell({"event": "outcome", "outcome": "failed", **damage.document()})
        return
    run(
        [Step(**step) for step in request.steps],
        registry,
        source=Source(**{**request.source, "path": Path(request.source["path"])}, descriptor=request.descriptor),
        workdir=Path(request.workdir),
        limits=Limits(**request.limits),
        finished={
            name: Finished(
                facts=done["facts"],
                artifacts={key: (Path(path), kind) for key, (path, kind, *_) in done["artifacts"].items()},
            )
            for name, done in finished.items()
        },
        report=reports.tell,
        connect=partial(broker.ask, reports.channel),
    )


def _is_intact(request: wire.Request) -> bool:
    size = request.source["size"]
    if request.descriptor is None:
        return is_intact(Path(request.source["path"]), size, request.sha256)
    with open(request.descriptor, "rb", closefd=False) as file:
        return holds(file, size, request.sha256)


def _is_whole(step: str, done: dict[str, Any]) -> bool:
    whole = all(is_intact(Path(path), size, sha256) for path, _, size, sha256 in done["artifacts"].values())
    if not whole:
        log.warning("artifacts of an earlier attempt have changed; step %s runs again", step)
    return whole


def detach(*kept: int) -> None:
    """Leave the terminal, the parent's descriptors and its signal handling behind; descriptors in ``kept`` stay open."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    take_signals()


def take_signals() -> None:
    """Let signals end this process again, whatever a parent ignored or handled: how an attempt ended is read from that."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(name, signal.SIG_DFL)


class _Reporter(logging.Handler):
    """Sends the processors' log lines to the runner, which knows where logs go; a flood is cut off."""

    def __init__(self, reports: wire.Reports) -> None:
        super().__init__()
        self._reports = reports
        self._left = wire.MAX_LOG_LINES

    def emit(self, record: logging.LogRecord) -> None:
        if self._left > 0:
            self._left -= 1
            line = self.format(record)[:4000]
            self._reports.tell({"event": "log", "level": record.levelname.lower(), "message": line})


def main() -> None:
    """Run one attempt in a spawned process: ``python -m service.execution.child DESCRIPTOR PROCESSORS_DIR``."""
    take_signals()
    descriptor, directory = int(sys.argv[1]), sys.argv[2]
    work(socket.socket(fileno=descriptor), load_registry(directory=Path(directory) if directory else None))


if __name__ == "__main__":
    main()
