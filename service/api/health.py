"""Probes: ``/livez`` looks at nothing outside the process, ``/readyz`` at what the next upload needs."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.access.model import Scope
from service.api.auth import authorize
from service.api.deps import IntakeDep
from service.api.openapi import json_response
from service.api.reply import json_reply
from service.execution.sandbox import layers
from service.intake import Intake

router = APIRouter(tags=["probes"])
_NO_STORE = {"Cache-Control": "no-store"}


@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", summary="Is the process alive?", responses={200: json_response("Probe")})
async def livez() -> Response:
    """Answer 200 as long as the event loop turns."""
    return json_reply({"status": "ok"}, headers=_NO_STORE)


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can an upload be taken?",
    responses={200: json_response("Probe"), 503: json_response("Probe")},
)
async def readyz(
    request: Request,
    intake: IntakeDep,
    verbose: Annotated[str | None, Query(description="Present: name the checks; takes the scope `admin`.")] = None,
) -> Response:
    """Answer 200 when the next upload can be taken, 503 when not: also while the service stops.

    A missing supervisor degrades, it does not refuse.
    """
    if verbose is not None:
        await authorize(request, Scope.ADMIN)
    engine = await intake.services.engine.health()
    disk, queue = await run_sync(_disk, intake), await run_sync(_queue, intake)
    draining = "yes" if request.app.state.draining.begun else "no"
    ready = disk == "ok" and queue == "ok" and draining == "no"
    state = "ok" if ready and engine.ok else "degraded" if ready else "unavailable"
    body: dict[str, object] = {"status": state}
    if verbose is not None:
        sandbox = ", ".join(layers(intake.services.settings.sandbox))
        body["checks"] = {
            "disk": disk,
            "queue": queue,
            "engine": engine.detail,
            "sandbox": sandbox,
            "draining": draining,
        }
    return json_reply(body, 200 if ready else 503, _NO_STORE)


def _disk(intake: Intake) -> str:
    try:
        if intake.services.storage.free() <= 0:
            return "free space is down to the reserve"
        intake.services.storage.probe()
    except OSError as error:
        return error.strerror or str(error)
    return "ok"


def _queue(intake: Intake) -> str:
    try:
        waiting = len(intake.services.store.pending())
    except OSError as error:
        return error.strerror or str(error)
    return "ok" if waiting < intake.services.settings.queue_limit else "full"
