"""Writing replies: JSON that ends with a newline, and the job document with the headers of its state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from starlette.responses import Response

from service.clock import Clock, utc_now
from service.jobs.document import job_document as job_document
from service.jobs.document import json_bytes as json_bytes
from service.jobs.model import Job
from service.same import Same

#: Retry-After by age of a job that is not done: up to this many seconds old, this many seconds.
_PATIENCE: Final = ((10, 1), (60, 2), (300, 5), (1800, 15))
_LONGEST: Final = 30


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(json_bytes(value), status, headers, "application/json")


def job_bytes(job: Job, root_path: str) -> bytes:
    """Return the document of a job as it is sent; of one that many are told of at once, it is made once."""
    return _bytes_of(Same(job), root_path)


@lru_cache(maxsize=256)
def _bytes_of(one: Same[Job], root_path: str) -> bytes:
    return json_bytes(job_document(one.value, root_path))


def job_reply(
    job: Job,
    root_path: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    clock: Clock = utc_now,
) -> Response:
    """Return the document of a job with the headers of its state: Retry-After until it is done. Made once, like the document."""
    waiting = {} if job.done else {"Retry-After": str(patience(job, clock()))}
    return _Copy(_reply_of(Same(job), root_path, status, tuple({**waiting, **(headers or {})}.items())))


@lru_cache(maxsize=32)
def _reply_of(one: Same[Job], root_path: str, status: int, headers: tuple[tuple[str, str], ...]) -> Response:
    return Response(_bytes_of(one, root_path), status, dict(headers), "application/json")


class _Copy(Response):
    """One more of a response, with fields of its own: those of a response grow on its way out."""

    def __init__(self, original: Response) -> None:
        self.status_code, self.body, self.background = original.status_code, original.body, None
        self.raw_headers = original.raw_headers.copy()


def patience(job: Job, now: datetime) -> int:
    """Return the seconds after which looking again is worth it: few for a young job, more for an old one."""
    if job.retry_at is not None and job.retry_at > now:
        return max(1, min(_LONGEST, int((job.retry_at - now).total_seconds()) + 1))
    age = (now - job.created_at).total_seconds()
    return next((seconds for limit, seconds in _PATIENCE if age < limit), _LONGEST)


def etag_of(job: Job) -> str:
    """Return the entity tag of a job's document."""
    return f'"{job.tag}"'
