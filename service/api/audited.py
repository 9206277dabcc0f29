"""What goes into the audit log: a dependency adds a background task, which FastAPI runs with the route's own, before them.

An exception ends a request's tasks; what is refused to somebody is a task of the refusal itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from fastapi import BackgroundTasks, Depends, Request
from starlette.background import BackgroundTask

from service.access.model import Principal
from service.audit import without_secrets
from service.batch import Batch

_AGAIN: Final = 3600.0  #: seconds after which the use of a token from the same address is written again
_REMEMBERED: Final = 10_000
_REFUSED: Final = frozenset({401, 403, 429})  #: statuses of what somebody may not do, or not so often
_WINDOW: Final = 60.0  #: seconds in which a kind of refusal has one line
_KINDS: Final = 30  #: lines of refusals in that time, at most


def audited(action: str) -> Any:
    """Return a dependency that has this action written down once the request has been answered with success.

    The route leaves the ids of a job and of an endpoint that are not in its path in ``request.state``.
    """

    async def note(request: Request, tasks: BackgroundTasks) -> None:  # one that is not async costs a thread
        tasks.add_task(_write, request, action)

    return Depends(note)


class TokenUses:
    """Which tokens were used from where within the last hour, so that the log has a line for each and not for each request."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}

    def note(self, request: Request, tasks: BackgroundTasks, principal: Principal) -> None:
        """Have the use of a token written down, unless it has been lately."""
        if principal.id is None:
            return
        use, now = (principal.id, _address(request) or ""), time.monotonic()
        if now - self._seen.get(use, -_AGAIN) < _AGAIN:
            return
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[use] = now
        tasks.add_task(_write, request, "token.use")


class Refusals:
    """What was refused to whom, within bounds: a flood neither fills the log nor pushes out of it what was done.

    Of each kind, which is an address with a token and a code, the first one in a minute has a line, and no more than thirty lines
    are written in that minute; the next line tells how many had none.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = -_WINDOW
        self._told: set[tuple[str | None, str | None, str]] = set()
        self._untold = 0

    def task(self, request: Request, status: int, code: str) -> BackgroundTask | None:
        """Return what writes a refusal down after its answer; None for one that is not written."""
        if status not in _REFUSED:
            return None
        if self._clock() - self._since >= _WINDOW:
            self._since = self._clock()
            self._told.clear()
        kind = (_address(request), _token_id(request), code)
        if kind in self._told or len(self._told) >= _KINDS:
            self._untold += 1
            return None
        self._told.add(kind)
        untold, self._untold = self._untold, 0
        return BackgroundTask(_write, request, "request.refused", status=status, code=code, untold=untold or None)


async def _write(request: Request, action: str, **members: Any) -> None:
    """Have a line written, after the response, together with those of other requests that wait for the same."""
    state, path = request.state, request.path_params
    principal: Principal | None = getattr(state, "principal", None)
    token = principal.token if principal else None
    query = request.scope["query_string"].decode("latin-1")
    job_id = path.get("job_id") or getattr(state, "job_id", None) if action.startswith("job.") else None
    endpoint = path.get("endpoint_id") or getattr(state, "endpoint_id", None) if action.startswith("webhook.") else None
    line = members | {
        "action": action,
        "job_id": job_id,
        "endpoint": endpoint,
        "token": _token_id(request),
        "name": token.name if token else None,
        "link": True if getattr(state, "link", None) else None,
        "address": _address(request),
        "method": request.method,
        "path": request.scope["path"],
        "query": without_secrets(query) or None,
        "agent": request.headers.get("user-agent"),
        "request_id": getattr(state, "request_id", None),
    }
    await cast("Batch[Mapping[str, Any]]", request.app.state.audit_lines).do(line)


def _token_id(request: Request) -> str | None:
    """Return the id of the token that a request stands on; of a refused one, the id that it claims."""
    principal: Principal | None = getattr(request.state, "principal", None)
    claimed: str | None = getattr(request.state, "claimed", None)
    return principal.id if principal else claimed


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None
