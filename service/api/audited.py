"""What goes into the audit log: a dependency adds a background task, which FastAPI runs with the route's own, before them.

Refused requests are not in it: an exception ends a request's tasks, and the ordinary log has every refusal with its code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, cast

from fastapi import BackgroundTasks, Depends, Request

from service.access.model import Principal
from service.audit import without_secrets
from service.batch import Batch

_AGAIN: Final = 3600.0  #: seconds after which the use of a token from the same address is written again
_REMEMBERED: Final = 10_000


def audited(action: str) -> Any:
    """Return a dependency that has this action written down once the request has been answered with success.

    The route leaves the id of a job that is not in its path in ``request.state.job_id``.
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


async def _write(request: Request, action: str) -> None:
    """Have a line written, after the response, together with those of other requests that wait for the same."""
    state = request.state
    principal: Principal | None = getattr(state, "principal", None)
    token = principal.token if principal else None
    query = request.scope["query_string"].decode("latin-1")
    job_id = request.path_params.get("job_id") or getattr(state, "job_id", None) if action.startswith("job.") else None
    members = {
        "action": action,
        "job_id": job_id,
        "token": principal.id if principal else None,
        "name": token.name if token else None,
        "link": True if getattr(state, "link", None) else None,
        "address": _address(request),
        "method": request.method,
        "path": request.scope["path"],
        "query": without_secrets(query) or None,
        "agent": request.headers.get("user-agent"),
        "request_id": getattr(state, "request_id", None),
    }
    await cast("Batch[Mapping[str, Any]]", request.app.state.audit_lines).do(members)


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None
