"""What every store raises, in the same words: for a job it does not have, and for a change of which nobody knows."""

from __future__ import annotations

from service.errors import Gone, NotFound, OutcomeUnknown
from service.ids import is_id


def no_such_job(job_id: str) -> NotFound:
    """Return what a store raises for a job it does not have."""
    name = job_id if is_id(job_id) else repr(job_id[:64])
    return NotFound(f"There is no job {name}.", code="job-not-found", hint="Check the id; GET /v1/jobs lists the jobs.")


def require_id(job_id: str) -> str:
    """Return what is an id. Raises NotFound for anything else."""
    if not is_id(job_id):
        raise no_such_job(job_id)
    return job_id


def disk_failed() -> OutcomeUnknown:
    """Return what a store raises when nobody knows whether the disk has a change."""
    return OutcomeUnknown(
        "The disk failed while the record was being written; the change was either made or not made.",
        hint="Look at the job again, or send the request again with the same Idempotency-Key.",
        retry_after=5,
    )


def expired_job(job_id: str) -> Gone:
    """Return what a store raises for a job that left a tombstone."""
    return Gone(f"Job {job_id} has expired and was deleted.", hint="Upload the file again.")
