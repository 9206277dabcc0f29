"""The job: a frozen value, its statuses, and the one table of moves between them.

``JobDocument`` is what everybody may see: the same in the 202, at the status URL, in lists and events. ``Job`` adds what only the
service needs. A change is a function from one ``Job`` to the next; stores apply it under the job's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import Field, FiniteFloat, JsonValue, computed_field

from service.errors import Conflict, StaleAttempt
from service.jobs.notices import Notice, frozen
from service.jobs.status import ENDS as ENDS
from service.jobs.status import REMEMBERED
from service.jobs.status import JobStatus as JobStatus
from service.jobs.status import Reason as Reason
from service.jobs.status import StatusChange as StatusChange
from service.jobs.status import StepStatus as StepStatus
from service.jobs.value import Moment, Value

_PUT_BACK: Final = timedelta(seconds=10)  #: a clock that is so much behind a moment it has told was put back
#: The only moves there are. Retrying by hand leads back from the ends that are not a success.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELED}),
    JobStatus.RUNNING: frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.QUEUED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELED: frozenset({JobStatus.QUEUED}),
}


class Problem(Value):
    """An RFC 9457 problem, as it stands in ``job.error`` and in a step's ``error``."""

    type: str
    title: str
    status: int | None = Field(None, description="What a synchronous call would have answered.")
    code: str = Field(description="Stable; compare this.")
    detail: str
    hint: str | None = Field(None, description="What to do about it.")
    reason: Reason
    step: str | None = None
    attempt: int | None = None
    retryable: bool = Field(False, description="Whether the same file may succeed another time.")
    request_id: str | None = Field(None, description="The request that uploaded the file.")


class FileInfo(Value):
    """The file as it arrived."""

    name: str = Field(description="The client's name for it, cleaned for display; never part of a path.")
    size: int = Field(ge=0, description="Bytes.")
    media_type: str | None = Field(None, description="Detected from the content; null until a step has looked.")
    declared_type: str | None = Field(None, description="What the client claimed.")
    sha256: str = Field(description="Of the bytes on disk, hexadecimal.")


class Artifact(Value):
    """A file a step made."""

    name: str
    size: int = Field(ge=0, description="Bytes.")
    media_type: str
    sha256: str
    attempt: int = Field(ge=1, description="The attempt that made it.")


class StepProgress(Value):
    """How far a running step is, in units of its own."""

    done: FiniteFloat
    total: FiniteFloat | None = None
    unit: str | None = None


class Step(Value):
    """One use of a processor within a job."""

    name: str
    processor: str
    status: StepStatus = StepStatus.WAITING
    duration_ms: int | None = None
    progress: StepProgress | None = None
    facts: dict[str, JsonValue] | None = None
    artifacts: tuple[Artifact, ...] = ()
    error: Problem | None = None


class Progress(Value):
    """How many steps of the job are over, and which one runs."""

    done: int
    total: int
    step: str | None = None


class JobDocument(Value):
    """What everybody may see of a job."""

    id: str
    status: JobStatus = JobStatus.QUEUED
    version: int = Field(1, ge=1, description="Grows with every change, progress included.")
    attempt: int = Field(0, ge=0, description="Attempts begun so far.")
    max_attempts: int = Field(3, ge=1)
    created_at: Moment
    started_at: Moment | None = None
    finished_at: Moment | None = None
    retry_at: Moment | None = Field(None, description="Before this moment no further attempt begins.")
    cancel_requested_at: Moment | None = None
    expires_at: Moment | None = Field(None, description="When the finished job will be deleted.")
    file: FileInfo
    pipeline: str
    labels: dict[str, str] = Field(default_factory=dict)
    steps: tuple[Step, ...]
    error: Problem | None = None

    @computed_field(description="True in the three end states: succeeded, failed, canceled.")  # type: ignore[prop-decorator]
    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDS

    @computed_field  # type: ignore[prop-decorator]
    @property
    def progress(self) -> Progress:
        """How many steps are over, and which one runs."""
        over = sum(step.status not in (StepStatus.WAITING, StepStatus.RUNNING) for step in self.steps)
        running = next((step.name for step in self.steps if step.status is StepStatus.RUNNING), None)
        return Progress(done=over, total=len(self.steps), step=running)


class Trace(Value):
    """The trace that a job's upload belongs to, as W3C's Trace Context writes it."""

    parent: str  #: ``00-<trace id>-<span id>-<flags>``
    state: str | None = None

    @property
    def id(self) -> str:
        """The id of the trace."""
        return self.parent.split("-")[1]


class StepRun(Value):
    """One step's run within one attempt, by the runner's clock."""

    step: str
    status: Literal["succeeded", "failed"]
    started_at: Moment
    seconds: FiniteFloat = Field(ge=0)


class Attempt(Value):
    """One try at a job, as the record remembers it."""

    number: int
    started_at: Moment
    ended_at: Moment | None = None
    reason: Reason | None = None
    #: Of its process, when that has ended; of one that others shared, nothing is known.
    exit_status: int | None = Field(None, description="As waitpid gave it: exit code, or minus the signal.")
    max_rss: int | None = Field(None, description="Bytes.")
    cpu_seconds: float | None = None
    sandbox: tuple[str, ...] = Field((), description="Layers of the sandbox that were in force.")
    ran: tuple[StepRun, ...] = Field((), description="Steps that ran, in their order; not those of earlier attempts.")


class Job(JobDocument):
    """A job with what only the service needs."""

    attempts: tuple[Attempt, ...] = Field((), description="The last attempts, oldest first.")
    moves: tuple[StatusChange, ...] = Field((), description="The last changes of the status, oldest first.")
    budget_from: int = Field(1, description="Attempts before this one do not count: somebody asked for a retry since.")
    owner: str | None = Field(None, description="Id of the token it came with; None for nobody in particular.")
    request_id: str | None = None
    trace: Trace | None = Field(None, description="The trace of the upload, for the spans of its attempts.")
    key: str | None = Field(None, description="Scope of the Idempotency-Key it came with.")
    fingerprint: str | None = Field(None, description="Digest of the upload that the key belongs to.")
    callback_url: str | None = Field(
        None, description="Who is told of its end by webhook, beside the standing endpoints."
    )
    notify_email: str | None = Field(
        None, description="Who is told of its end by e-mail, beside the standing addresses."
    )
    notify_on: str = Field("both", description="Which ends that one is told of: failure, success or both.")
    notices: tuple[Notice, ...] = Field((), description="What was told of its ends, is being told, or could not be.")

    @property
    def tag(self) -> str:
        """A text that differs whenever anything shown differs, also after a power cut took unsynced progress away."""
        return f"{self.attempt}-{self.version}"

    @property
    def history(self) -> tuple[StatusChange, ...]:
        """The changes of the status, oldest first, beginning with the queued one it was accepted as; of many, the last."""
        accepted = StatusChange(version=1, status=JobStatus.QUEUED, attempt=0, at=self.created_at)
        moves = self.moves
        if not moves and self.status is not JobStatus.QUEUED:  # of a record that was written before moves were
            at = self.finished_at or self.started_at or self.created_at
            moves = (StatusChange(version=2, status=self.status, attempt=self.attempt, at=at),)
        return (accepted, *moves)

    def moment(self, now: datetime) -> datetime:
        """Return the moment that a change at ``now`` is said to be of: no earlier than the last, whatever became of the clock."""
        return max(now, self.history[-1].at, self.cancel_requested_at or now)

    def is_due(self, now: datetime) -> bool:
        """Tell whether ``retry_at`` has come, or the clock was put back since it was set: too early beats a year too late."""
        return self.retry_at is None or self.retry_at <= now or now < self.history[-1].at - _PUT_BACK

    def moved(self, status: JobStatus, at: datetime, **changes: Any) -> Job:
        """Return the job in another status; a move that is not in ``TRANSITIONS`` raises Conflict."""
        if status not in TRANSITIONS[self.status]:
            raise Conflict(f"The job is {self.status} and cannot become {status}.", job_status=str(self.status))
        number = changes.get("attempt", self.attempt)
        move = StatusChange(version=self.version + 1, status=status, attempt=number, at=at)
        return self.changed(status=status, moves=(*self.history[1:], move)[-REMEMBERED:], **changes)

    def changed(self, **changes: Any) -> Job:
        """Return the next version with these members replaced."""
        job: Job = self.evolve(version=self.version + 1, **changes)
        return job

    def claimed(self, now: datetime) -> Job:
        """Return the job with one more attempt counted: what is written before anything of it runs."""
        number, now = self.attempt + 1, self.moment(now)
        return self.moved(
            JobStatus.RUNNING,
            now,
            attempt=number,
            started_at=self.started_at or now,
            retry_at=None,
            attempts=(*self.attempts[-19:], Attempt(number=number, started_at=now)),
        )

    def canceled(self, now: datetime) -> Job:
        """Return the job as canceled, or, while it runs, with the request noted; twice is the same as once."""
        if self.status is JobStatus.CANCELED or (self.status is JobStatus.RUNNING and self.cancel_requested_at):
            return self
        now = self.moment(now)
        if self.status is JobStatus.RUNNING:
            return self.changed(cancel_requested_at=now)
        return self.moved(JobStatus.CANCELED, now, cancel_requested_at=now, finished_at=now, steps=settled(self.steps))

    def retried(self, attempts: int, now: datetime) -> Job:
        """Return a failed or canceled job as queued again, with ``attempts`` more to spend, from its first step not done."""
        if not self.done:
            raise Conflict(f"The job is {self.status}; there is nothing to retry.", job_status=str(self.status))
        return self.moved(
            JobStatus.QUEUED,
            self.moment(now),
            max_attempts=self.attempt + attempts,
            budget_from=self.attempt + 1,
            finished_at=None,
            expires_at=None,
            retry_at=None,
            cancel_requested_at=None,
            error=None,
            steps=rewound(self.steps),
            notices=frozen(self.notices, lambda: self.document().model_dump(mode="json")),
        )

    def expiring(self, retention: timedelta | None) -> Job:
        """Return the job with the moment of its deletion, if it has ended and there is a retention; once told, it stays."""
        if not self.done or retention is None or self.finished_at is None or self.expires_at is not None:
            return self
        job: Job = self.evolve(expires_at=self.finished_at + retention)
        return job

    def require_attempt(self, number: int) -> None:
        """Raise StaleAttempt unless attempt ``number`` is the one that runs: the fence against late writers."""
        if self.status is not JobStatus.RUNNING or self.attempt != number:
            raise StaleAttempt(f"attempt {number} of job {self.id} is over")

    def document(self) -> JobDocument:
        """Return the part that everybody may see."""
        return JobDocument.model_construct(**{name: getattr(self, name) for name in JobDocument.model_fields})


def rewound(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps as the next attempt finds them: what succeeded stays, everything else waits."""
    return tuple(
        step if step.status is StepStatus.SUCCEEDED else Step(name=step.name, processor=step.processor)
        for step in steps
    )


def settled(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps of a job that ended without success: what did not get its turn was skipped."""
    unfinished = (StepStatus.WAITING, StepStatus.RUNNING)
    return tuple(
        step.evolve(status=StepStatus.SKIPPED, progress=None) if step.status in unfinished else step for step in steps
    )
