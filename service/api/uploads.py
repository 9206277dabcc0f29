"""Taking files: ``POST /v1/jobs`` and ``PUT /v1/files/{filename}``. The routes read no body byte before all headers are judged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, BackgroundTasks, Request
from starlette.responses import Response

from service.access.links import PARAMETERS, Link, used_up
from service.api import headers as fields
from service.api.audited import audited
from service.api.auth import LinkedWrites
from service.api.body import BodyLimits, Event, Field, FileStart, chunks, digested, multipart_events, raw_events
from service.api.deps import RootPath
from service.api.meter import UploadMeter, metered
from service.api.openapi import PUT_BODY, PUT_PARAMETERS, UPLOAD_BODY, UPLOAD_PARAMETERS, accepted, problems
from service.api.reply import job_reply
from service.errors import Invalid, Unsupported
from service.intake import Intake
from service.jobs.model import Job
from service.reception import Reception, key_reused, too_large

log = structlog.get_logger(__name__)
router = APIRouter(tags=["uploads"])
_ENVELOPE: Final = 2**20  #: bytes a multipart request may have beside its file
_FORM: Final = "multipart/form-data"
_QUERY_FIELDS: Final = ("pipeline", "sha256", "callback_url", "notify_email", "notify_on")


@router.post(
    "/v1/jobs",
    status_code=202,
    operation_id="createJob",
    summary="Upload a file",
    responses={202: accepted(), **problems(400, 408, 409, 413, 415, 422, 503, 507)},
    dependencies=[audited("job.accept")],
    openapi_extra={"requestBody": UPLOAD_BODY, "parameters": UPLOAD_PARAMETERS},
)
async def create_job(request: Request, tasks: BackgroundTasks, intake: LinkedWrites, root_path: RootPath) -> Response:
    """Take one file, as a form (`file`) or as the body itself, and answer once it is safe on disk."""
    kind, parameters = fields.content_type(request.headers)
    if kind == _FORM:
        return await _take(request, tasks, intake, root_path, boundary=parameters.get("boundary", ""))
    if kind == "application/x-www-form-urlencoded":  # what curl -d and --data-binary say when nothing was said
        kind = ""
    if kind and not _is_media_type(kind):
        raise Unsupported(
            f"The Content-Type {kind[:64]!r} is not one.",
            hint=f"Send {_FORM}, or the file itself under its own type.",
            headers={"Accept": f"{_FORM}, */*"},
        )
    name = fields.disposition_name(request.headers) or request.query_params.get("filename")
    return await _take(request, tasks, intake, root_path, name=name, declared_type=kind or None)


@router.put(
    "/v1/files/{filename:path}",  # an encoded slash is part of the name, and none of a path
    status_code=202,
    operation_id="putFile",
    summary="Upload a file with curl -T",
    responses={202: accepted(), **problems(400, 408, 409, 413, 415, 422, 503, 507)},
    dependencies=[audited("job.accept")],
    openapi_extra={"requestBody": PUT_BODY, "parameters": PUT_PARAMETERS},
)
async def put_file(
    filename: str, request: Request, tasks: BackgroundTasks, intake: LinkedWrites, root_path: RootPath
) -> Response:
    """Take the body as a file of this name: `curl -T scan.pdf …/v1/files/`."""
    kind, _ = fields.content_type(request.headers)
    if kind == _FORM:
        raise Unsupported("A form cannot be put here.", hint="Use POST /v1/jobs for forms.", headers={"Accept": "*/*"})
    return await _take(request, tasks, intake, root_path, name=filename, declared_type=kind or None)


async def _take(
    request: Request,
    tasks: BackgroundTasks,
    intake: Intake,
    root_path: str,
    *,
    boundary: str | None = None,
    name: str | None = None,
    declared_type: str | None = None,
) -> Response:
    with metered(intake.services.counts, "raw" if boundary is None else "form") as meter:
        job, replayed = await _job_of(request, intake, meter, boundary, name, declared_type)
        meter.taken(job.file.size, replayed=replayed)
    log.info("upload accepted", job_id=job.id, size=job.file.size, replayed=replayed)
    request.state.job_id = job.id
    tasks.add_task(intake.services.engine.notify, job.id)
    return _accepted(job, root_path, replayed=replayed)


async def _job_of(
    request: Request,
    intake: Intake,
    meter: UploadMeter,
    boundary: str | None,
    name: str | None,
    declared_type: str | None,
) -> tuple[Job, bool]:
    """Judge the headers, then receive: the order of refusals is that of their cost."""
    head = request.headers
    settings = intake.services.settings
    fields.require_identity(head)
    link: Link | None = getattr(request.state, "link", None)
    key = fields.idempotency_key(head) if link is None else f"link {link.nonce}"  # what makes it good for one job
    announced = fields.digests(head)
    size = fields.content_length(head)
    envelope = _ENVELOPE if boundary is not None else 0
    largest = settings.max_upload if link is None or link.max_size is None else min(link.max_size, settings.max_upload)
    if size is not None and size > largest + envelope:
        raise too_large(largest, size)
    await intake.admit(size if boundary is None else None if size is None else max(0, size - envelope))
    limits = BodyLimits(
        idle=settings.upload_idle.total_seconds(),
        min_rate=settings.upload_min_rate,
        size=largest + envelope,
    )
    async with intake.receiving(
        key=key, request_id=request.state.request_id, max_size=largest, by_link=link is not None
    ) as reception:
        reception.trace = request.state.trace
        if link is not None and reception.is_repeated:
            raise used_up()
        for field, value in _query_fields(request):
            reception.field(field, value)
        if reception.contradicts(announced if boundary is None else [], size if boundary is None else None):
            raise key_reused()
        body = digested(chunks(request, limits), announced)
        events = raw_events(body, name, declared_type) if boundary is None else multipart_events(body, boundary)
        received = await _receive(reception, events, meter)
    if link is not None:
        await _spend(intake, link)
    return received


async def _spend(intake: Intake, link: Link) -> None:
    try:
        await run_sync(intake.services.links.spend, link)
    except OSError as error:  # the job is promised all the same, and its key keeps the link from making another
        log.warning("a link could not be marked as used", error=str(error))


async def _receive(reception: Reception, events: AsyncIterator[Event], meter: UploadMeter) -> tuple[Job, bool]:
    async for event in events:
        if isinstance(event, bytes):
            meter.received(len(event))
            await reception.write(event)
        elif isinstance(event, Field):
            reception.field(event.name, event.value)
        elif isinstance(event, FileStart):
            reception.begin(event.name, event.declared_type)
    return await reception.finish()


def _accepted(job: Job, root_path: str, *, replayed: bool) -> Response:
    here = f"{root_path}/v1/jobs/{job.id}"
    headers = {"Location": here, "Content-Location": here, "Cache-Control": "no-store"}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return job_reply(job, root_path, status=202, headers=headers)


def _query_fields(request: Request) -> list[tuple[str, str]]:
    """Return the fields a raw upload gives in its query; unknown ones are refused, not passed over."""
    given: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        if name in _QUERY_FIELDS or name.startswith("labels."):
            given.append((name, value))
        elif name != "filename" and not (name in PARAMETERS and hasattr(request.state, "link")):
            known = "filename, pipeline, sha256, callback_url, notify_email, notify_on and labels.<key>"
            raise Invalid(f"There is no parameter {name[:64]!r}.", hint=f"The parameters are {known}.", field=name[:64])
    return given


def _is_media_type(kind: str) -> bool:
    main, slash, sub = kind.partition("/")
    return bool(slash and main and sub) and not any(char.isspace() for char in kind)
