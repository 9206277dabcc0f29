"""Errors to RFC 9457 problem documents: the one table of statuses, and the handlers that apply it everywhere."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from service import errors
from service.api.reply import json_bytes
from service.durable import FULL
from service.figures import REFUSALS
from service.jobs.store import StoreUnreachable

log = structlog.get_logger(__name__)
MEDIA_TYPE: Final = "application/problem+json"

#: A class not listed here has the status of its nearest listed base.
STATUSES: Final[Mapping[type[errors.IntakeError], int]] = {
    errors.IntakeError: 500,
    errors.BadRequest: 400,
    errors.HeadersTooLarge: 431,
    errors.UriTooLong: 414,
    errors.Invalid: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.Misdirected: 421,
    errors.Unsupported: 415,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.TooMany: 429,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.RecordCorrupt: 500,
    errors.StaleAttempt: 409,
    errors.ClientGone: 400,
}

_PHRASES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110; Python 3.11 has older ones
#: Problems that are the framework's, by status.
FRAMEWORK: Final = {404: "not-found", 405: "method-not-allowed", 416: "range-not-satisfiable"}
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def status_of(error: errors.IntakeError) -> int:
    """Return the HTTP status of an error, looked up along its base classes."""
    return next(STATUSES[base] for base in type(error).__mro__ if base in STATUSES)


def phrase_of(status: int) -> str:
    """Return the reason phrase of RFC 9110 for a status."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def problem(
    request: Request,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    kind: str | None = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
    **extras: Any,
) -> Response:
    """Return a problem document as a response; ``extras`` become members of it.

    ``kind`` is the problem's type, which ``/problems/{kind}`` explains; ``code`` may be finer.
    """
    request.app.state.intake.services.counts.add(REFUSALS, code)
    request_id = getattr(request.state, "request_id", None)
    body = {
        "type": f"{request.scope.get('root_path', '')}/problems/{kind or code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "hint": hint,
        "instance": f"urn:uuid:{request_id}" if _is_uuid(request_id) else None,
        "request_id": request_id,
        **extras,
    }
    shown = {name: value for name, value in body.items() if value is not None}
    return Response(json_bytes(shown), status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def problem_of(request: Request, error: errors.IntakeError) -> Response:
    """Return the problem document of one of our errors."""
    status = status_of(error)
    if status >= 500:
        log.warning("refused", code=error.problem, detail=error.detail, path=request.url.path)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    headers |= error.extras.get("headers", {})
    extras = {name: value for name, value in error.extras.items() if name != "headers"}
    answer = problem(
        request,
        status=status,
        kind=error.code,
        code=error.problem,
        title=error.title,
        detail=error.detail,
        hint=error.hint,
        headers=headers,
        **extras,
    )
    answer.background = request.app.state.refusals.task(request, status, error.problem)
    return answer


def unexpected(request: Request) -> Response:
    """Return the problem document of what nobody has foreseen."""
    return problem(
        request,
        status=500,
        code="internal-error",
        title=errors.IntakeError.title,
        detail="The service has met an error it did not expect.",
        hint="Tell the operator the request id; the log has it.",
    )


def from_os_error(error: OSError) -> errors.IntakeError:
    """Return what a failed disk means for a client: full is 507, anything else of the disk's is 503, never 500."""
    if isinstance(error, StoreUnreachable):
        return errors.Unavailable(
            "The records of jobs cannot be reached at the moment.",
            hint="Try again in a moment.",
            code="records-unavailable",
            retry_after=5,
        )
    if error.errno in FULL:
        return errors.StorageFull(
            "The disk is full.", hint="Try again later; the operator can free space.", retry_after=60
        )
    if error.errno == errno.EFBIG:
        return errors.TooLarge("The file is larger than the file system takes.")
    return errors.Unavailable(
        "The storage does not work at the moment.", hint="Try again later.", code="storage-unavailable", retry_after=30
    )


def install(app: FastAPI) -> None:
    """Have every error of the application answered with a problem document."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.IntakeError), "registered for this class"
        return problem_of(request, error)

    async def disk(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError), "registered for this class"
        log.error("disk or records failed", error=str(error), path=request.url.path)
        return problem_of(request, from_os_error(error))

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this class"
        code = FRAMEWORK.get(error.status_code, "request-refused")
        detail = {404: "There is nothing at this path.", 405: f"{request.method} is not possible here."}.get(
            error.status_code
        )
        hint = {404: "The paths are listed at /docs.", 405: "See the Allow header."}.get(error.status_code)
        title = errors.NotFound.title if error.status_code == 404 else phrase_of(error.status_code)
        headers = error.headers
        if error.status_code == 405:
            headers = {**(headers or {}), "Allow": ", ".join(_allowed(request))}
        return problem(
            request,
            status=error.status_code,
            code=code,
            title=title,
            detail=detail or str(error.detail),
            hint=hint,
            headers=headers,
        )

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for this class"
        found = [
            {
                "detail": item["msg"].removeprefix("Value error, "),
                "parameter": str(item["loc"][-1]),
                "in": str(item["loc"][0]),
            }
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['parameter']}: {item['detail']}" for item in found)[:500]
        title = errors.Invalid.title
        return problem(request, status=422, code="validation-error", title=title, detail=detail, errors=found)

    app.add_exception_handler(errors.IntakeError, ours)
    app.add_exception_handler(OSError, disk)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes of this path; the framework knows only those of the first one."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    return [method for method in _METHODS if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)]


def _is_uuid(text: object) -> bool:
    return isinstance(text, str) and len(text) == 36 and text.count("-") == 4
