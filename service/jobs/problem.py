"""What ``job.error`` says for each way an attempt can end badly."""

from __future__ import annotations

from typing import Final

from service.jobs.model import Job, Problem, Reason

#: By reason: code, title, detail, hint, and the status a synchronous call would have got.
JOB_PROBLEMS: Final[dict[Reason, tuple[str, str, str, str | None, int]]] = {
    Reason.REJECTED: ("file-rejected", "File rejected", "The file cannot be processed.", None, 422),
    Reason.LOST_INPUT: (
        "lost-input",
        "Stored file lost",
        "The bytes of this job are no longer in the storage.",
        "Upload the file again.",
        500,
    ),
    Reason.RETRY: ("retry-later", "Not ready", "The processor asked to be run again later.", None, 503),
    Reason.ERROR: (
        "processor-failed",
        "Processing failed",
        "The processor failed.",
        "Retry the job; if it fails again, the log has the traceback under this job id.",
        500,
    ),
    Reason.TIMEOUT: (
        "processing-timeout",
        "Processing timed out",
        "Processing took longer than its deadline and was ended.",
        "Raise INTAKE_DEADLINE, or send a smaller file.",
        504,
    ),
    Reason.MEMORY: (
        "out-of-memory",
        "Out of memory",
        "Processing needed more memory than an attempt may use.",
        "Raise INTAKE_ATTEMPT_MEMORY, or send a smaller file.",
        500,
    ),
    Reason.CRASHED: (
        "processor-crashed",
        "Processing crashed",
        "The process that worked on this file died.",
        "The file may be damaged or hostile; other jobs are not affected.",
        500,
    ),
    Reason.LOST: (
        "attempt-lost",
        "Attempt lost",
        "The supervisor died during this attempt, again and again.",
        "Retry the job; if this repeats, look at the memory of the machine.",
        500,
    ),
}
_HELPLESS: Final = frozenset({Reason.REJECTED, Reason.LOST_INPUT})


def job_problem(
    job: Job,
    reason: Reason,
    *,
    step: str | None = None,
    code: str | None = None,
    detail: str | None = None,
    hint: str | None = None,
) -> Problem:
    """Return the problem of an attempt that ended for ``reason``; what is not given is the reason's own text."""
    own_code, title, own_detail, own_hint, status = JOB_PROBLEMS[reason]
    return Problem(
        type=f"/problems/{own_code}",
        title=title,
        status=status,
        code=code or own_code,
        detail=detail or own_detail,
        hint=hint or own_hint,
        reason=reason,
        step=step,
        attempt=job.attempt,
        retryable=reason not in _HELPLESS,
        request_id=job.request_id,
    )
