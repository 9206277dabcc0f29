"""What of a job has been counted, and what there is to count anew: the figures that come from records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from service.errors import NotFound, RecordCorrupt
from service.figures import ATTEMPTS, JOB_DURATION, JOBS, QUEUE_WAIT, STAGE_DURATION, Tallies
from service.jobs.model import ENDS, Job, JobStatus


class Seen(NamedTuple):
    """What of a job has been counted."""

    status: str | None = None  #: as last counted, None for a job never seen
    attempts: int = 0  #: number of the last attempt that was


def learn(job: Job, seen: Seen, tallies: Tallies) -> Seen:
    """Count what ``job`` shows and ``seen`` did not, and return what has been seen now. The same job twice counts once."""
    if job.done and seen.status not in ENDS:
        tallies.add(JOBS, job.status)
        if job.budget_from == 1 and job.finished_at is not None:
            tallies.add(JOB_DURATION, value=max(0.0, (job.finished_at - job.created_at).total_seconds()))
    last = seen.attempts
    for attempt in job.attempts:
        if attempt.number <= seen.attempts or attempt.ended_at is None or attempt.reason is None:
            continue
        last = attempt.number
        tallies.add(ATTEMPTS, attempt.reason)
        if attempt.number == 1:
            tallies.add(QUEUE_WAIT, value=max(0.0, (attempt.started_at - job.created_at).total_seconds()))
        for ran in attempt.ran:
            tallies.add(STAGE_DURATION, ran.step, ran.status, value=ran.seconds)
    return Seen(job.status, last)


def due(job: Job) -> float | None:
    """Return since when, or from when, a queued job may be run, in seconds since the epoch; None for others."""
    if job.status is not JobStatus.QUEUED:
        return None
    return (job.retry_at or job.created_at).timestamp()


def count_in_progress(
    get: Callable[[str], Job], ids: Iterable[str], now: datetime
) -> tuple[dict[JobStatus, int], float | None]:
    """Return how many of these jobs are in progress, by status, and since when the one that is due longest has been."""
    counts = {status: 0 for status in JobStatus if status not in ENDS}
    oldest: float | None = None
    for job_id in ids:
        with suppress(NotFound, RecordCorrupt, OSError):
            job = get(job_id)
            if not job.done:
                counts[job.status] += 1
            since = due(job)
            if since is not None and since <= min(now.timestamp(), oldest or since):
                oldest = since
    return counts, oldest
