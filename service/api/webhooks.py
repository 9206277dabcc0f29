"""Who is told of the ends of jobs, and what became of it: ``/v1/webhook-endpoints`` and ``/v1/jobs/{job_id}/deliveries``."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response

from service.api.audited import audited
from service.api.auth import Administers, Reads, Writes
from service.api.body import BodyLimits, chunks
from service.api.openapi import json_response, problems
from service.api.reply import json_reply
from service.errors import Invalid
from service.intake import Intake
from service.jobs.model import Job
from service.notify.base import END_EVENTS
from service.notify.endpoints import KEPT, Endpoint, callback_id, new_endpoint
from service.notify.guard import RefusedError
from service.notify.replay import replay

router = APIRouter(tags=["webhooks"])
M = TypeVar("M", bound=BaseModel)
_SIZE: Final = 16 * 2**10  #: bytes of a request
_PRIVATE: Final = {"Cache-Control": "no-store"}


class NewEndpoint(BaseModel):
    """A request for an endpoint."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(max_length=2000, description="https://…, or http://….")
    events: list[str] = Field([], max_length=10, description="Names of events; all without it.")
    description: str = Field("", max_length=200)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    if "events" in schema["properties"]:
        schema["properties"]["events"]["items"] = {"type": "string", "enum": list(END_EVENTS)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.head("/v1/webhook-endpoints", include_in_schema=False)
@router.get(
    "/v1/webhook-endpoints",
    operation_id="listEndpoints",
    summary="List webhook endpoints",
    responses={200: json_response("EndpointList", "All of them, without their secrets.")},
)
async def list_endpoints(intake: Administers) -> Response:
    """Return the standing endpoints, oldest first."""
    found = await run_sync(intake.services.endpoints.standing)
    return json_reply({"items": [one.public() for one in found]}, headers=_PRIVATE)


@router.post(
    "/v1/webhook-endpoints",
    status_code=201,
    dependencies=[audited("webhook.create")],
    operation_id="createEndpoint",
    summary="Add a webhook endpoint",
    responses={
        201: json_response("EndpointSecret", "The endpoint and its secret, which is shown this once."),
        **problems(400, 408, 413, 422),
    },
    openapi_extra=_body(NewEndpoint),
)
async def create_endpoint(request: Request, intake: Administers) -> Response:
    """Have a URL told of the end of every job."""
    asked = await _asked(request, intake, NewEndpoint)
    if unknown := next((one for one in asked.events if one not in END_EVENTS), None):
        raise Invalid(f"There is no event {unknown[:64]!r}.", hint=f"The events are {', '.join(END_EVENTS)}.")
    try:
        intake.services.guard.check(asked.url)
    except RefusedError as error:
        raise Invalid(
            f"The URL cannot be called: {error}.",
            code="webhook-refused",
            hint="Give a URL on the Internet, or have the operator name its host in INTAKE_WEBHOOK_ALLOW.",
        ) from None
    now = intake.services.clock()
    events = tuple(dict.fromkeys(asked.events))
    plain = new_endpoint(asked.url, now, events=events, description=asked.description)
    secret, endpoint = plain.rotated(now, timedelta(0))
    await run_sync(intake.services.endpoints.put, endpoint)
    request.state.endpoint_id = endpoint.id
    return json_reply({**endpoint.public(), "secret": secret}, 201, _PRIVATE)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}/rotate",
    dependencies=[audited("webhook.rotate")],
    operation_id="rotateEndpoint",
    summary="Give a webhook endpoint a new secret",
    responses={
        200: json_response("EndpointSecret", "The endpoint and its new secret, which is shown this once."),
        **problems(404),
    },
)
async def rotate_endpoint(endpoint_id: str, intake: Administers) -> Response:
    """Make a new secret; the one before signs along for a day."""
    now, made = intake.services.clock(), list[str]()

    def change(endpoint: Endpoint) -> Endpoint:
        secret, after = endpoint.rotated(now, KEPT)
        made.append(secret)
        return after

    endpoint = await run_sync(intake.services.endpoints.change, endpoint_id, change)
    return json_reply({**endpoint.public(), "secret": made[0]}, headers=_PRIVATE)


@router.delete(
    "/v1/webhook-endpoints/{endpoint_id}",
    status_code=204,
    dependencies=[audited("webhook.delete")],
    operation_id="deleteEndpoint",
    summary="Remove a webhook endpoint",
    responses={204: {"description": "Nothing more is sent there."}, **problems(404)},
)
async def delete_endpoint(endpoint_id: str, intake: Administers) -> Response:
    """Remove an endpoint; what was waiting for it is given up."""
    await run_sync(intake.services.endpoints.remove, endpoint_id)
    return Response(status_code=204)


@router.post(
    "/v1/callback-secret",
    status_code=201,
    dependencies=[audited("webhook.secret")],
    operation_id="createCallbackSecret",
    summary="Make the secret that signs callbacks",
    responses={201: json_response("CallbackSecret", "The secret, which is shown this once.")},
)
async def create_callback_secret(intake: Writes) -> Response:
    """Make a secret for the `callback_url` of your jobs; one before it signs along for a day."""
    endpoints, now = intake.services.endpoints, intake.services.clock()
    name = callback_id(intake.by.id)

    def make() -> str:
        secret, after = (endpoints.get(name) or Endpoint(id=name, created_at=now)).rotated(now, KEPT)
        endpoints.put(after)
        return secret

    return json_reply({"secret": await run_sync(make)}, 201, _PRIVATE)


@router.head("/v1/jobs/{job_id}/deliveries", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/deliveries",
    operation_id="listDeliveries",
    summary="See who was told of a job's end",
    responses={
        200: json_response("NoticeList", "Each end of the job, and what became of telling it."),
        **problems(404, 410),
    },
)
async def list_deliveries(job_id: str, intake: Reads) -> Response:
    """Return the notices of a job, oldest first, each with its deliveries and their last tries."""
    return _notices(await intake.get(job_id))


@router.post(
    "/v1/jobs/{job_id}/deliveries/replay",
    status_code=202,
    dependencies=[audited("job.replay")],
    operation_id="replayDeliveries",
    summary="Tell of a job's end once more",
    responses={202: json_response("NoticeList", "Everything is about to be sent again."), **problems(404, 409, 410)},
)
async def replay_deliveries(job_id: str, intake: Writes) -> Response:
    """Send all that was delivered or given up once more, under the same ids."""
    await intake.get(job_id)  # whose it is, before anything is told
    await run_sync(partial(replay, intake.services, job_id, delivered=True))
    return _notices(await intake.get(job_id), 202)


def _notices(job: Job, status: int = 200) -> Response:
    return json_reply({"items": [notice.public() for notice in job.notices]}, status, _PRIVATE)


async def _asked(request: Request, intake: Intake, model: type[M]) -> M:
    settings = intake.services.settings
    limits = BodyLimits(idle=settings.upload_idle.total_seconds(), min_rate=settings.upload_min_rate, size=_SIZE)
    body = b"".join([data async for data in chunks(request, limits)])
    try:
        return TypeAdapter(model).validate_json(body)
    except ValidationError as error:
        found = [
            {"detail": item["msg"], "pointer": "#" + "".join(f"/{part}" for part in item["loc"])}
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise Invalid("The request is not what is asked for here.", hint="See /docs.", errors=found) from None
