"""What follows the end of an attempt: a pure decision, made from the job and the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform
from typing import Final

from service.jobs.model import Attempt, Job, JobStatus, Problem, Reason, StepRun, rewound, settled

_FINAL: Final = frozenset({Reason.REJECTED, Reason.LOST_INPUT})
_CRASHES: Final = frozenset({Reason.TIMEOUT, Reason.MEMORY, Reason.CRASHED})
_UNCHARGED: Final = frozenset({Reason.INTERRUPTED, Reason.LOST})


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a job is tried, and how long it waits in between."""

    max_attempts: int = 3
    crash_attempts: int = 2  #: attempts that crash, hang or run out of memory
    lost_attempts: int = 10  #: attempts whose supervisor died: not the file's fault, and still not without end
    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=10)
    jitter: Callable[[float, float], float] = uniform

    def may_retry(self, job: Job, reason: Reason) -> bool:
        """Tell whether an attempt that ended for ``reason`` is followed by another; ``job`` has that end in its attempts."""
        if reason in _FINAL:
            return False
        if reason is Reason.INTERRUPTED:
            return True
        kin = _CRASHES if reason in _CRASHES else frozenset({reason})
        counted = [attempt for attempt in job.attempts if attempt.number >= job.budget_from]
        limit = {Reason.LOST: self.lost_attempts}.get(reason, self.crash_attempts if reason in _CRASHES else None)
        if limit is not None and sum(attempt.reason in kin for attempt in counted) >= limit:
            return False
        return reason is Reason.LOST or job.attempt < job.max_attempts

    def wait(self, job: Job, asked: float | None) -> timedelta:
        """Return how long the next attempt waits: as long as the processor asked, else full jitter over a doubling base."""
        if asked is not None:
            return timedelta(seconds=asked)
        tries = max(0, job.attempt - job.budget_from)
        longest = min(self.base.total_seconds() * 2.0 ** min(tries, 60), self.cap.total_seconds())
        return timedelta(seconds=self.jitter(0, longest))


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended, as far as its runner knows."""

    reason: Reason
    problem: Problem | None = None
    retry_after: float | None = None  #: seconds, when the processor asked for them
    exit_status: int | None = None
    max_rss: int | None = None
    cpu_seconds: float | None = None
    sandbox: tuple[str, ...] = ()  #: layers that were in force
    ran: tuple[StepRun, ...] = ()


def ended(job: Job, end: AttemptEnd, policy: RetryPolicy, now: datetime) -> Job:
    """Return a running job after its attempt: ended, or queued again. ``job`` already shows the attempt's steps."""
    now = job.moment(now)
    job = job.evolve(attempts=_closed(job.attempts, end, now))
    if end.reason is Reason.SUCCEEDED:
        return job.moved(JobStatus.SUCCEEDED, now, finished_at=now, error=None)
    if job.cancel_requested_at is not None or end.reason is Reason.CANCELED:
        asked = job.cancel_requested_at or now
        return job.moved(JobStatus.CANCELED, now, finished_at=now, cancel_requested_at=asked, steps=settled(job.steps))
    if policy.may_retry(job, end.reason):
        uncharged = end.reason in _UNCHARGED
        return job.moved(
            JobStatus.QUEUED,
            now,
            max_attempts=job.max_attempts + (1 if uncharged else 0),
            retry_at=None if uncharged else now + policy.wait(job, end.retry_after),
            error=end.problem,
            steps=rewound(job.steps),
        )
    return job.moved(JobStatus.FAILED, now, finished_at=now, error=end.problem, steps=settled(job.steps))


def _closed(attempts: tuple[Attempt, ...], end: AttemptEnd, now: datetime) -> tuple[Attempt, ...]:
    *earlier, last = attempts
    facts = {
        "exit_status": end.exit_status,
        "max_rss": end.max_rss,
        "cpu_seconds": end.cpu_seconds,
        "sandbox": end.sandbox,
        "ran": end.ran,
    }
    return (*earlier, last.evolve(ended_at=now, reason=end.reason, **facts))
