"""The job as its running attempt makes it: reports of the process become steps, facts and artifacts."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, TypeAdapter, ValidationError

from processors.contract import MAX_FACTS_BYTES
from service.clock import Clock, utc_now
from service.errors import RecordCorrupt
from service.execution.wire import MAX_LOG_LINES
from service.jobs.model import Artifact, Job, Reason, Step, StepProgress, StepRun, StepStatus
from service.jobs.record import decode, encode
from service.jobs.retry import AttemptEnd
from service.jobs.store import JobStore, Lease
from service.jobs.value import Value

log = structlog.get_logger(__name__)
_NOTE_EVERY: Final = 0.25  #: seconds between two notes of progress
_MAX_STEP_REPORTS: Final = 1000  #: of one attempt; each makes the record anew, so a flood of them is dear
_MAX_FACTS: Final = 6 * MAX_FACTS_BYTES  #: as ASCII, where a byte of UTF-8 becomes six at most
_MAX_UNIT: Final = 32  #: characters
_MAX_WAIT: Final = 7 * 86400.0  #: seconds that a processor is waited for at its word
_PLAIN: Final = frozenset({"event", "step", "status"})  #: members with nothing in them that a record could not hold
_NAME: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"

#: Text that may hold what a processor took from a strange file name: surrogates, which no record and no log can hold.
_Words = Annotated[
    str, BeforeValidator(lambda text: text.encode("utf-8", "replace").decode() if isinstance(text, str) else text)
]


class _Made(Value):
    name: str = Field(pattern=_NAME)
    size: int = Field(ge=0)
    media_type: str = Field(max_length=255)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _StepReport(Value):
    event: Literal["step"]
    step: str
    status: StepStatus
    duration_ms: int | None = None
    facts: dict[str, JsonValue] | None = None
    artifacts: tuple[_Made, ...] = Field((), max_length=1000)
    media_type: str | None = Field(None, max_length=255)


class _ProgressReport(Value):
    event: Literal["progress"]
    step: str
    done: float
    total: float | None = None
    unit: Annotated[_Words, AfterValidator(lambda text: text[:_MAX_UNIT])] | None = None


class _LogReport(Value):
    event: Literal["log"]
    level: Literal["debug", "info", "warning", "error", "critical"]
    message: _Words = Field(max_length=4000)


class _Confined(Value):
    event: Literal["confined"]
    level: tuple[Literal["rlimits", "no_new_privs", "landlock", "seccomp"], ...]


class Outcome(Value):
    """The last report of a process that ended by itself."""

    event: Literal["outcome"]
    outcome: Literal["succeeded", "failed"]
    step: str | None = None
    reason: Literal["rejected", "error", "memory", "retry", "lost_input"] | None = None
    code: str | None = Field(None, max_length=100)
    detail: str | None = Field(None, max_length=2000)
    hint: str | None = Field(None, max_length=2000)
    retry_after: Annotated[float, Field(ge=0), AfterValidator(lambda asked: min(asked, _MAX_WAIT))] | None = None


_REPORT: Final[TypeAdapter[Any]] = TypeAdapter(
    Annotated[_StepReport | _ProgressReport | _LogReport | _Confined | Outcome, Field(discriminator="event")]
)


class LiveJob:
    """Collects the reports of one attempt and shows them as the job's progress."""

    def __init__(self, job: Job, *, store: JobStore, lease: Lease, clock: Clock = utc_now) -> None:
        self.job = job
        self.outcome: Outcome | None = None
        self.confined: tuple[str, ...] = ()  #: layers of the sandbox, as the process reported them
        self._store = store
        self._lease = lease
        self._clock = clock
        self._noted_at = 0.0
        self._noted = job
        self._lines_left = MAX_LOG_LINES
        self._begun: dict[str, tuple[datetime, float]] = {}
        self._ran: dict[str, StepRun] = {}
        self._steps_left = _MAX_STEP_REPORTS

    @property
    def succeeded(self) -> bool:
        """Whether the process says so, and every step is over."""
        over = (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
        claimed = self.outcome is not None and self.outcome.outcome == "succeeded"
        return claimed and all(step.status in over for step in self.job.steps)

    def follow_steps(self, names: Sequence[tuple[str, str]]) -> None:
        """Take the steps from the pipeline as it is today, keeping what has succeeded under the same name."""
        done = {step.name: step for step in self.job.steps if step.status is StepStatus.SUCCEEDED}
        steps = tuple(done.get(name, Step(name=name, processor=processor)) for name, processor in names)
        self.job = self.job.evolve(steps=steps)

    def take(self, frame: dict[str, Any]) -> None:
        """Apply one report. Raises ValueError when it is not one this attempt can make."""
        try:
            report = _REPORT.validate_python(frame, strict=False)
        except ValidationError as error:
            raise ValueError("a report that is not one") from error
        if isinstance(report, Outcome):
            self.outcome = report
        elif isinstance(report, _Confined):
            self.confined = report.level
        elif isinstance(report, _LogReport):
            self._log(report)
        elif isinstance(report, _StepReport):
            self._step(report)
        elif math.isfinite(report.done) and math.isfinite(report.total or 0):  # JSON has no other numbers
            progress = StepProgress(done=report.done, total=report.total, unit=report.unit)
            self._replace(report.step, progress=progress)

    def note(self) -> None:
        """Show the progress, at most four times a second."""
        now = time.monotonic()
        if self.job is not self._noted and now - self._noted_at >= _NOTE_EVERY:
            before, self._noted, self._noted_at = self._noted, self.job, now
            if self.job == before:  # the same was reported again: nobody shall look for what has changed
                return
            try:
                self._store.note(self._lease, self.job)
            except OSError as error:
                log.warning("progress cannot be shown", job_id=self.job.id, error=str(error))

    def drop_results(self) -> None:
        """Forget what this attempt made: it is not on disk."""
        attempt = self.job.attempt
        self.job = self.job.evolve(
            steps=tuple(
                Step(name=step.name, processor=step.processor)
                if any(artifact.attempt == attempt for artifact in step.artifacts)
                else step
                for step in self.job.steps
            )
        )

    def runs(self, end: AttemptEnd) -> tuple[StepRun, ...]:
        """Return the steps that ran in this attempt; the one at work when it ended has failed, unless nobody is to blame."""
        blameless = end.reason in (Reason.CANCELED, Reason.INTERRUPTED)
        for step in self._begun.keys() - self._ran.keys() if not blameless else ():
            self._ran[step] = self._run(step, "failed")
        return tuple(self._ran[step] for step in self._begun if step in self._ran)

    def steps_after(self, end: AttemptEnd) -> tuple[Step, ...]:
        """Return the steps as the record shall show them: the one that was at work has failed, with the attempt's problem."""
        failed = (StepStatus.RUNNING, StepStatus.FAILED)
        if end.reason in (Reason.SUCCEEDED, Reason.CANCELED, Reason.INTERRUPTED):
            return self.job.steps
        return tuple(
            step.evolve(status=StepStatus.FAILED, error=end.problem, progress=None) if step.status in failed else step
            for step in self.job.steps
        )

    def _log(self, report: _LogReport) -> None:
        if self._lines_left > 0:
            self._lines_left -= 1
            level = logging.getLevelNamesMapping()[report.level.upper()]
            log.log(level, "processor", line=report.message, job_id=self.job.id, step=self.job.progress.step)

    def _step(self, report: _StepReport) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise ValueError("more reports of steps than there are")
        if report.facts and len(json.dumps(report.facts).encode()) > _MAX_FACTS:
            raise ValueError("facts that are too long")
        artifacts = tuple(Artifact(**dict(made), attempt=self.job.attempt) for made in report.artifacts)
        before = self.job
        self._replace(
            report.step,
            status=report.status,
            duration_ms=report.duration_ms,
            facts=report.facts,
            artifacts=artifacts,
            progress=None,
        )
        if report.status is StepStatus.RUNNING:
            self._begun.setdefault(report.step, (self._clock(), time.monotonic()))
        elif report.step in self._begun:
            status: Literal["succeeded", "failed"] = "succeeded" if report.status is StepStatus.SUCCEEDED else "failed"
            self._ran[report.step] = self._run(report.step, status)
        if report.media_type:
            self.job = self.job.evolve(file=self.job.file.evolve(media_type=report.media_type))
        if report.model_fields_set <= _PLAIN:
            return
        try:
            decode(encode(self.job), self.job.id)
        except (ValueError, RecordCorrupt) as error:
            self.job = before
            raise ValueError("a report that no record could give back") from error

    def _run(self, step: str, status: Literal["succeeded", "failed"]) -> StepRun:
        started_at, began = self._begun[step]
        seconds = round(time.monotonic() - began, 6)
        return StepRun(step=step, status=status, started_at=started_at, seconds=seconds)

    def _replace(self, name: str, **changes: Any) -> None:
        """Change one step. Raises ValueError for a step the pipeline has not."""
        found = next((step for step in self.job.steps if step.name == name), None)
        if found is None:
            raise ValueError("a report of a step that is not the pipeline's")
        changed = found.evolve(**changes)
        self.job = self.job.evolve(steps=tuple(changed if step is found else step for step in self.job.steps))
