"""Following jobs and transfers: live on a terminal, one plain line per change elsewhere. All of it on stderr."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from service.cli.command import Cli, Output
from service.cli.describe import changes, steps_done, timeline
from service.cli.output import form, format_bytes, format_seconds, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.progress import TaskID

    from service.client import Job


def record(cli: Cli, states: Iterable[Job]) -> Iterator[Job]:
    """Pass the states of a job on, and write them to stdout: each as a JSON line, or the last as JSON or id."""
    last = None
    for last in states:
        if form(cli) is Output.jsonl:
            print(json.dumps(last.document, ensure_ascii=False), flush=True)
        yield last
    if last is not None and form(cli) is Output.json:
        print(json.dumps(last.document, ensure_ascii=False, indent=2), flush=True)
    if last is not None and form(cli) is Output.id:
        print(last.id, flush=True)


def draw(cli: Cli, states: Iterable[Job]) -> None:
    """Draw the timeline of a job until its end; the last frame stays."""
    with Live(console=cli.stderr, auto_refresh=False, redirect_stdout=sys.stdout.isatty()) as live:
        for job in states:
            live.update(timeline(job.document), refresh=True)


def narrate(cli: Cli, states: Iterable[Job]) -> None:
    """Say each change of a job in a line."""
    before = None
    for job in states:
        for line in changes(before, job.document):
            cli.say(line)
        before = job.document


class Bars:
    """Bars of transfers and jobs on stderr, while a person looks on; else nothing. A ``with`` block keeps them drawn.

    The methods may be called from several threads.
    """

    def __init__(self, cli: Cli) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Amount(),
            console=cli.stderr,
            disable=not cli.live,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def transfer(self, name: str, size: int | None) -> Iterator[Callable[[int, int | None], None]]:
        """Draw a bar with bytes, rate and time left; give the function to call with the bytes moved."""
        with self._bar(name, size) as task:
            yield lambda moved, _: self._progress.update(task, completed=moved)

    @contextmanager
    def job(self, name: str) -> Iterator[Callable[[Job], None]]:
        """Draw a bar with the steps of a job; give the function to call with the job."""

        def show(job: Job) -> None:
            progress = job.document["progress"]
            words = f"{job.status} {steps_done(job.document)}"
            self._progress.update(task, completed=progress["done"], total=progress["total"], words=words)

        with self._bar(name, None) as task:
            yield show

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[TaskID]:
        task = self._progress.add_task(plain(name), total=total, words=None)
        try:
            yield task
        finally:
            self._progress.remove_task(task)


class _Amount(ProgressColumn):
    """What stands behind a bar: the words it was given, or bytes, rate and time left."""

    def render(self, task: Task) -> Text:
        """Return the text."""
        if task.fields["words"]:
            return Text(task.fields["words"])
        parts = [format_bytes(task.completed)]
        if task.total is not None:
            parts = [f"{task.percentage:3.0f} %", f"{format_bytes(task.completed)} of {format_bytes(task.total)}"]
        if task.speed:
            parts.append(f"{format_bytes(task.speed)}/s")
        if task.time_remaining:
            parts.append(f"{format_seconds(task.time_remaining)} left")
        return Text("  ".join(parts))
