"""Running a pipeline over one file: a loop over its steps that reports what happens and never raises for a bad file.

The service calls `run` in a child process per attempt, `intake process` calls it in its own. What is reported is JSON,
so that it may travel through a pipe:

- `{"event": "step", "step": name, "status": "running"}`, the same with "skipped", or with "failed" and `duration_ms`
- `{"event": "progress", "step", "done", "total", "unit"}`, at most four a second and step, the last one always
- `{"event": "step", "step", "status": "succeeded", "duration_ms", "facts", "artifacts"}`, with the `media_type` too
  when the step identified the source
- at the very end one `{"event": "outcome", "outcome": "succeeded"}`, or the same with "failed" and `step`, `reason`,
  `code`, `detail`, `hint`, `retry_after`
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from pydantic import JsonValue

from processors.contract import Facts, Limits, Processor, StepContext
from processors.failure import Failure, failure_of, lost_input
from processors.pipeline import SOURCE, Step
from processors.publish import Artifact, checked_facts, discard, publish

if TYPE_CHECKING:
    import socket
    from pathlib import Path

Event: TypeAlias = dict[str, JsonValue]
Report: TypeAlias = Callable[[Event], None]
Connect: TypeAlias = "Callable[[str], socket.socket]"

PROGRESS_INTERVAL = 0.25
"""Least seconds between two progress events of one step."""

_UNKNOWN = "application/octet-stream"


@dataclass(frozen=True)
class Source:
    """The file a client sent."""

    path: Path
    filename: str
    """The client's name for it: a claim, for people to read."""
    declared_type: str | None
    size: int
    """In bytes."""
    descriptor: int | None = None
    """The file, open for reading, where nothing can be opened by its path: then only `opaque` steps can read it."""


@dataclass(frozen=True)
class Finished:
    """What a step that succeeded in an earlier attempt left behind."""

    facts: Facts
    artifacts: Mapping[str, tuple[Path, str]]
    """Path and media type of each artifact, by name."""


def run(
    steps: Sequence[Step],
    registry: Mapping[str, Processor],
    *,
    source: Source,
    workdir: Path,
    limits: Limits,
    finished: Mapping[str, Finished] = MappingProxyType({}),
    report: Report,
    connect: Connect | None = None,
) -> None:
    """Run `steps` in order until one fails, telling `report` as it goes; the last event is the outcome.

    Steps named in `finished` are not run, nor reported, again: their facts, artifacts and identified type count. The
    artifacts of a step appear as `workdir/<step>/` when it has succeeded, and leave nothing there otherwise; they are
    not synced. `connect` gives steps the connections that their processors need. Raises only what `report` raises, and
    what is no Exception (KeyboardInterrupt, SystemExit).
    """
    attempt = _Attempt(registry, source, workdir, limits, report, connect)
    for step in steps:
        earlier = finished.get(step.name)
        if earlier is not None:
            attempt.recall(step, earlier)
            continue
        failure = attempt.take(step)
        if failure is not None:
            report({"event": "outcome", "outcome": "failed", "step": step.name, **failure.document()})
            return
    report({"event": "outcome", "outcome": "succeeded"})


class _Attempt:
    """What has been learned and made so far."""

    def __init__(
        self,
        registry: Mapping[str, Processor],
        source: Source,
        workdir: Path,
        limits: Limits,
        report: Report,
        connect: Connect | None,
    ) -> None:
        self._registry = registry
        self._source = source
        self._workdir = workdir
        self._limits = limits
        self._report = report
        self._connect = connect
        self._facts: dict[str, Facts] = {}
        self._written = 0
        #: Path and media type of everything a step may read, by what a step's `input` calls it.
        self._inputs: dict[str, tuple[Path, str]] = {SOURCE: (source.path, source.declared_type or _UNKNOWN)}

    def recall(self, step: Step, earlier: Finished) -> None:
        """Count what a step of an earlier attempt left behind."""
        self._learn(step, earlier.facts)
        for name, (path, media_type) in earlier.artifacts.items():
            self._inputs[f"{step.name}/{name}"] = (path, media_type)
            self._written += path.stat().st_size if path.exists() else 0

    def take(self, step: Step) -> Failure | None:
        """Run one step, or skip it. Returns why it failed, None if it did not."""
        processor = self._registry[step.processor]
        found = self._inputs.get(step.input)
        if found is None or not processor.accepts_type(found[1]):
            self._report({"event": "step", "step": step.name, "status": "skipped"})
            return None
        self._report({"event": "step", "step": step.name, "status": "running"})
        path, media_type = found
        folder = self._workdir / step.name
        partial = self._workdir / f"{step.name}.partial"
        progress = Progress(step.name, self._report)
        log = logging.LoggerAdapter(logging.getLogger(f"processors.{processor.name}"), {"step": step.name})
        started = time.monotonic()
        try:
            if not path.is_file():
                return self._failed(step, started, lost_input())
            if not processor.opaque:  # a child that was killed may have left either behind
                discard(partial)
                discard(folder)
            ctx = self._context(step, path, media_type, partial, progress, log)
            facts = checked_facts(processor, processor(ctx, processor.options.model_validate(step.options)))
            artifacts = publish(ctx.outputs, partial=partial, folder=folder, already=self._written, limits=self._limits)
        except Exception as error:
            progress.flush()
            failure = failure_of(error, input_path=str(path))
            if failure.code == "processor-failed":
                log.exception("The processor failed.")
            return self._failed(step, started, failure)
        finally:
            if not processor.opaque:
                discard(partial)
        progress.flush()
        self._succeeded(step, started, facts, artifacts)
        return None

    def _context(
        self,
        step: Step,
        path: Path,
        media_type: str,
        partial: Path,
        progress: Progress,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> StepContext:
        from_client = step.input == SOURCE
        return StepContext(
            input=path,
            folder=None if self._registry[step.processor].opaque else partial,
            media_type=media_type,
            declared_type=self._source.declared_type if from_client else None,
            filename=self._source.filename if from_client else step.input.partition("/")[2],
            limits=self._limits,
            facts=MappingProxyType(self._facts),
            progress=progress,
            log=log,
            descriptor=self._source.descriptor if from_client else None,
            connect=lambda helper: self._connected(self._registry[step.processor], helper),
        )

    def _connected(self, processor: Processor, helper: str) -> socket.socket:
        if helper not in processor.needs:
            raise ValueError(f"{processor.name} does not name {helper!r} in needs=(...), so it is not connected to it.")
        if self._connect is None:
            raise ConnectionRefusedError(f"{helper} cannot be reached from here")
        return self._connect(helper)

    def _learn(self, step: Step, facts: Facts) -> None:
        self._facts[step.name] = facts
        if self._registry[step.processor].identifies and step.input in self._inputs:
            self._inputs[step.input] = (self._inputs[step.input][0], str(facts["media_type"]))

    def _succeeded(
        self, step: Step, started: float, facts: dict[str, JsonValue], artifacts: Sequence[Artifact]
    ) -> None:
        self._learn(step, facts)
        for artifact in artifacts:
            self._inputs[f"{step.name}/{artifact.name}"] = (artifact.path, artifact.media_type)
            self._written += artifact.size
        event: Event = {
            "event": "step",
            "step": step.name,
            "status": "succeeded",
            "duration_ms": _milliseconds_since(started),
            "facts": facts,
            "artifacts": [artifact.document() for artifact in artifacts],
        }
        if self._registry[step.processor].identifies and step.input == SOURCE:
            event["media_type"] = facts["media_type"]
        self._report(event)

    def _failed(self, step: Step, started: float, failure: Failure) -> Failure:
        duration = _milliseconds_since(started)
        self._report({"event": "step", "step": step.name, "status": "failed", "duration_ms": duration})
        return failure


class Progress:
    """Reports the progress of one step, no more often than every `PROGRESS_INTERVAL` seconds."""

    def __init__(self, step: str, report: Report, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._step = step
        self._report = report
        self._clock = clock
        self._due = float("-inf")
        self._held: Event | None = None

    def __call__(self, done: float, total: float | None, unit: str | None) -> None:
        """Report now if one is due, else hold it; a later one replaces what is held."""
        self._held = {"event": "progress", "step": self._step, "done": done, "total": total, "unit": unit}
        if self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Report what is held."""
        if self._held is not None:
            held, self._held = self._held, None
            self._due = self._clock() + PROGRESS_INTERVAL
            self._report(held)


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
