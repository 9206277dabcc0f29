"""Writing replies: JSON that ends with a newline, and the job document with the headers of its state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from starlette.responses import Response

from service.clock import utc_now
from service.jobs.document import job_document as job_document
from service.jobs.document import json_bytes as json_bytes
from service.jobs.model import Job

#: Retry-After by age of a job that is not done: up to this many seconds old, this many seconds.
_PATIENCE: Final = ((10, 1), (60, 2), (300, 5), (1800, 15))
_LONGEST: Final = 30


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(json_bytes(value), status, headers, "application/json")


def job_bytes(job: Job, root_path: str) -> bytes:
    """Return the document of a job as it is sent; of one that many are told of at once, it is made once."""
    return _bytes_of(_Same(job), root_path)


class _Same:
    """A job that is equal to itself alone: all who follow a job in this process are given the same one."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __hash__(self) -> int:
        return id(self.job)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.job is other.job


@lru_cache(maxsize=256)
def _bytes_of(one: _Same, root_path: str) -> bytes:
    return json_bytes(job_document(one.job, root_path))


def job_reply(
    job: Job,
    root_path: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Response:
    """Return the document of a job with the headers of its state: Retry-After until it is done."""
    waiting = {} if job.done else {"Retry-After": str(patience(job, now or utc_now()))}
    return Response(job_bytes(job, root_path), status, {**waiting, **(headers or {})}, "application/json")


def patience(job: Job, now: datetime) -> int:
    """Return the seconds after which looking again is worth it: few for a young job, more for an old one."""
    if job.retry_at is not None and job.retry_at > now:
        return max(1, min(_LONGEST, int((job.retry_at - now).total_seconds()) + 1))
    age = (now - job.created_at).total_seconds()
    return next((seconds for limit, seconds in _PATIENCE if age < limit), _LONGEST)


def etag_of(job: Job) -> str:
    """Return the entity tag of a job's document."""
    return f'"{job.tag}"'
