"""What can be asked for: pipelines, processors, limits; and what each problem code means."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service import errors
from service.api.auth import Known
from service.api.openapi import json_response, problems
from service.api.problems import FRAMEWORK, phrase_of, status_of
from service.api.reply import json_reply
from service.errors import NotFound
from service.jobs.problem import JOB_PROBLEMS

router = APIRouter(tags=["catalogue"])


@router.head("/v1/pipelines", include_in_schema=False)
@router.get(
    "/v1/pipelines",
    operation_id="listPipelines",
    summary="List the pipelines",
    responses={200: json_response("Pipelines")},
)
async def list_pipelines(intake: Known) -> Response:
    """Return all pipelines with their steps; `default` is the one of an upload that names none."""
    catalogue = intake.services.catalogue
    items = [catalogue.pipelines[name].document() for name in sorted(catalogue.pipelines)]
    return json_reply({"items": items, "default": catalogue.default})


@router.head("/v1/processors", include_in_schema=False)
@router.get(
    "/v1/processors",
    operation_id="listProcessors",
    summary="List the processors",
    responses={200: json_response("Processors")},
)
async def list_processors(intake: Known) -> Response:
    """Return all processors with the types they take and the JSON Schema of their options."""
    registry = intake.services.catalogue.registry
    items = [
        {"name": one.name, "description": one.description, "accepts": list(one.accepts), "options": one.schema()}
        for _, one in sorted(registry.items())
    ]
    return json_reply({"items": items})


@router.head("/v1/limits", include_in_schema=False)
@router.get("/v1/limits", operation_id="getLimits", summary="See the limits", responses={200: json_response("Limits")})
async def get_limits(intake: Known) -> Response:
    """Return the limits of an upload and of an attempt, and the quotas of the token; sizes in bytes, times in seconds."""
    settings = intake.services.settings
    retention = settings.retention
    return json_reply(
        {
            "max_upload": settings.max_upload,
            "upload_idle_seconds": settings.upload_idle.total_seconds(),
            "upload_min_rate": settings.upload_min_rate,
            "queue_limit": settings.queue_limit,
            "max_attempts": settings.max_attempts,
            "deadline_seconds": settings.deadline.total_seconds(),
            "max_output": settings.max_output,
            "max_pixels": settings.max_pixels,
            "max_total_pixels": settings.max_total_pixels,
            "max_frames": settings.max_frames,
            "max_side": settings.max_side,
            "max_scan": settings.max_scan,
            "retention_seconds": retention.total_seconds() if retention else None,
            "idempotency_ttl_seconds": settings.idempotency_ttl.total_seconds(),
            "quota": await intake.quota(),
        }
    )


@router.head("/problems/{code}", include_in_schema=False)
@router.get(
    "/problems/{code}",
    operation_id="getProblem",
    summary="What a problem code means",
    responses={200: json_response("ProblemType"), **problems(404)},
)
async def get_problem(code: str) -> Response:
    """Return what the `type` of a problem document stands for."""
    found = _problem_types().get(code)
    if found is None:
        raise NotFound(f"There is no problem {code[:64]!r}.", hint="docs/reference/errors.md lists them all.")
    return json_reply(found)


def _problem_types() -> dict[str, dict[str, Any]]:
    found = {code: _problem_type(code, phrase_of(status), status) for status, code in FRAMEWORK.items()}
    for reason, (code, title, meaning, _, status) in JOB_PROBLEMS.items():
        found[code] = {**_problem_type(code, title, status, meaning), "reason": str(reason)}
    pending: list[type[errors.IntakeError]] = [errors.IntakeError]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        found[kind.code] = _problem_type(kind.code, kind.title, status_of(kind()), (kind.__doc__ or "").split("\n")[0])
    return found


def _problem_type(code: str, title: str, status: int, meaning: str = "") -> dict[str, Any]:
    return {"code": code, "title": title, "status": status, "phrase": phrase_of(status), "meaning": meaning or title}
