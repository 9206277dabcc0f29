"""Jobs for tests: one line makes one, and names only what matters to the test."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from service.ids import created_at, first_id
from service.jobs.model import Artifact, FileInfo, Job, JobStatus, Reason, Step, StepStatus
from service.jobs.retry import AttemptEnd, RetryPolicy, ended

_numbers = count(random.randrange(2**46))
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SHA = "ab" * 32
POLICY = RetryPolicy(base=timedelta(0), cap=timedelta(0))


def make_id(moment: datetime = NOON, number: int = 0) -> str:
    """Return the id that a job of this moment could have: the same for the same arguments, ordered by both."""
    return f"{first_id(moment)}7000-8000-{number:012x}"


def make_job(job_id: str | None = None, **members: Any) -> Job:
    """Return a queued job; ``media_type``, ``size`` and ``name`` are those of its file."""
    job_id = job_id or make_id(NOON, next(_numbers))
    file = {"name": "scan.pdf", "size": 3, "sha256": SHA, "media_type": None}
    file |= {key: members.pop(key) for key in list(members) if key in file}
    defaults: dict[str, Any] = {"pipeline": "default", "steps": (make_step("look"), make_step("count"))}
    return Job(id=job_id, created_at=created_at(job_id), file=FileInfo(**file), **(defaults | members))


def make_step(name: str, status: StepStatus = StepStatus.WAITING, **members: Any) -> Step:
    """Return a step whose processor has its name."""
    return Step(name=name, processor=f"test.{name}", status=status, **members)


def make_artifact(name: str = "out.txt", *, attempt: int = 1, data: bytes = b"made\n") -> Artifact:
    """Return the artifact that ``data`` makes."""
    return Artifact(name=name, size=len(data), media_type="text/plain", sha256=SHA, attempt=attempt)


def finish(job: Job, reason: Reason = Reason.SUCCEEDED, *, now: datetime = NOON, policy: RetryPolicy = POLICY) -> Job:
    """Return a running job after an attempt that ended for ``reason``."""
    return ended(job, AttemptEnd(reason=reason), policy, now)


def make_ended(status: JobStatus, **members: Any) -> Job:
    """Return a job that came to an end along the ways there are."""
    job = make_job(**members)
    if status is JobStatus.CANCELED:
        return job.canceled(NOON)
    return finish(job.claimed(NOON), Reason.SUCCEEDED if status is JobStatus.SUCCEEDED else Reason.REJECTED)
