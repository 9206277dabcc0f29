"""Several uploads at the same time, and the waiting for their jobs."""

from __future__ import annotations

import os
import queue
import stat
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from service.cli.describe import reason, took
from service.cli.exits import Code, Fail
from service.cli.output import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.cli.command import Cli
    from service.cli.watching import Bars
    from service.client import Client, Job

_WAITERS = 8  # threads that look after accepted jobs with --wait


@dataclass(eq=False)
class Item:
    """One file and what has become of it."""

    content: Path | BinaryIO
    name: str
    size: int | None
    job: Job | None = None
    code: int = Code.OK
    ended: threading.Event = field(default_factory=threading.Event)


def item_of(path: str, name: str | None) -> Item:
    """Look at a file before any is sent; Fail (exit code 2) when it cannot be read."""
    if path == "-":
        if sys.stdin.isatty():
            raise Fail("the standard input is a terminal", hint="pipe a file into it", code=Code.USAGE)
        # Without a buffer, whose lock a thread that still reads would hold while the interpreter leaves.
        return Item(open(0, "rb", buffering=0, closefd=False), name or "stdin", None)  # never closed
    try:
        found = Path(path).stat()
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}", code=Code.USAGE) from None
    if stat.S_ISDIR(found.st_mode):
        raise Fail(f"{path} is a directory", hint=f"name the files in it: {path.rstrip('/')}/*", code=Code.USAGE)
    if not os.access(path, os.R_OK):
        raise Fail(f"{path}: Permission denied", code=Code.USAGE)
    return Item(Path(path), name or Path(path).name, found.st_size if stat.S_ISREG(found.st_mode) else None)


class Batch:
    """Uploads in a few threads, waits in a few more. They are daemons: Ctrl-C ends the process without waiting for any."""

    def __init__(
        self,
        cli: Cli,
        client: Client,
        bars: Bars,
        items: list[Item],
        options: dict[str, Any],
        *,
        wait: bool,
        timeout: float | None,
    ) -> None:
        self._cli = cli
        self._client = client
        self._bars = bars
        self._items = items
        self._options = options
        self._wait = wait
        self._timeout = timeout
        self._to_send: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._to_wait: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def run(self, concurrency: int) -> Iterator[dict[str, Any]]:
        """Yield the job of each file, as it is at last, in the order of the files; without those that were refused."""
        for item in self._items:
            self._to_send.put(item)
        for _ in range(min(concurrency, len(self._items))):
            threading.Thread(target=self._work, args=(self._to_send, self._send), daemon=True).start()
        for _ in range(min(_WAITERS, len(self._items)) if self._wait else 0):
            threading.Thread(target=self._work, args=(self._to_wait, self._await_end), daemon=True).start()
        for item in self._items:
            item.ended.wait()
            if item.job is not None:
                yield item.job.document

    def _work(self, todo: queue.SimpleQueue[Item], step: Callable[[Item], None]) -> None:
        while True:
            item = todo.get()
            try:
                step(item)
            except Exception as error:  # noqa: BLE001 - reported below; the other files go on
                self._fail(item, error)

    def _send(self, item: Item) -> None:
        with self._bars.transfer(item.name, item.size) as progress:
            item.job = self._client.submit(item.content, name=item.name, progress=progress, **self._options)
        self._cli.say(f"{plain(item.name)} is job {item.job.id}")
        if self._wait:
            self._to_wait.put(item)
        else:
            item.ended.set()

    def _await_end(self, item: Item) -> None:
        assert item.job is not None
        job = item.job
        with self._bars.job(item.name) as show:
            for state in job.watch(timeout=self._timeout):
                show(state)
        spent = f" in {time}" if (time := took(job.document)) else ""
        self._cli.say(": ".join(filter(None, (f"{plain(item.name)} {job.status}{spent}", reason(job.document)))))
        item.code = Code.OK if job.status == "succeeded" else Code.FAILED
        item.ended.set()

    def _fail(self, item: Item, error: Exception) -> None:
        item.code = self._cli.report(error, about=plain(item.name))
        item.ended.set()
