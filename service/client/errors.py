"""Every error a client raises.

The tree::

    ClientError
    ├── Unreachable        no usable answer, after all retries
    ├── Refused            the service answered with a problem document (RFC 9457)
    │   ├── NotAllowed     it does not let this client in
    │   ├── NotFound       there is no such job, step or artifact
    │   │   └── Expired    there was, and it has been deleted
    │   └── Conflict       the job's status forbids it
    ├── WaitTimeout        the job has not ended in time
    ├── JobFailed          the job ended without success, and ``check()`` was asked
    └── Corrupt            a download does not have the size or SHA-256 the service promised
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from service.client.document import JobView

#: Statuses after which the same request may well succeed; it is repeated by itself.
REPEATED = frozenset({408, 429, 502, 503, 504})
_TEMPORARY = REPEATED | {425, 500, 507}


class ClientError(Exception):
    """Base of the tree. ``hint`` says what to do, where somebody knows."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Unreachable(ClientError):
    """Nothing answers at this address, or what answers is not this service."""


class Refused(ClientError):
    """The service said no. The attributes are the members of its problem document.

    Attributes:
        status: the HTTP status.
        code: the stable name of the problem, such as ``file-too-large``.
        request_id: names this request in the service's log.
        retry_after: seconds the service asks to wait, if it does.
        problem: the whole document.

    """

    def __init__(self, status: int, problem: dict[str, Any], *, retry_after: float | None = None) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or status), hint=problem.get("hint"))
        self.status = status
        self.code = str(problem.get("code", f"http-{status}"))
        self.request_id: str | None = problem.get("request_id")
        self.retry_after = retry_after
        self.problem = problem

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TEMPORARY or self.code == "idempotency-key-in-use"

    @property
    def repeated(self) -> bool:
        """Whether the client repeats the request by itself before it raises this."""
        return self.status in REPEATED or self.code == "idempotency-key-in-use"


class NotAllowed(Refused):
    """Credentials are missing, wrong, or not enough (401, 403)."""


class NotFound(Refused):
    """There is no such job, step or artifact (404)."""


class Expired(NotFound):
    """The job has been deleted at the end of its retention (410)."""


class Conflict(Refused):
    """The status or version of the job forbids this now (409, 412)."""


class WaitTimeout(ClientError):
    """The job goes on; only the waiting has ended. ``job`` is as it was last seen."""

    def __init__(self, job: JobView) -> None:
        super().__init__(f"job {job.id} is still {job.status}", hint="wait longer; the job goes on")
        self.job = job


class JobFailed(ClientError):
    """The job has failed or was canceled; ``job.error`` says why."""

    def __init__(self, job: JobView) -> None:
        error = job.error or {}
        super().__init__(f"job {job.id} {job.status}: {error.get('detail', 'no reason given')}", hint=error.get("hint"))
        self.job = job


class Corrupt(ClientError):
    """The bytes that arrived are not the ones that were promised; nothing was left under the final name."""


def refusal(response: httpx.Response) -> Refused:
    """Return the error that an answer of 400 or above stands for; its body has been read."""
    status = response.status_code
    try:
        body = response.json()
    except ValueError:  # a proxy's page
        body = None
    kinds = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 410: Expired, 409: Conflict, 412: Conflict}
    problem = body if isinstance(body, dict) else {}
    problem.setdefault("detail", f"{response.url} answered {status} {response.reason_phrase}".strip())
    return kinds.get(status, Refused)(status, problem, retry_after=retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of ``Retry-After``; None when it is missing or a date, which this service never sends."""
    value = response.headers.get("Retry-After", "").strip()
    return float(value) if re.fullmatch(r"\d{1,6}", value) else None
