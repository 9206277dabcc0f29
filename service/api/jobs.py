"""Jobs: look, list, cancel, retry, delete."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Query, Request
from starlette.responses import Response

from service.api import headers as fields
from service.api.audited import audited
from service.api.auth import Deletes, Reads, Writes
from service.api.deps import RootPath
from service.api.filters import LABELS, Filters, require_known
from service.api.openapi import accepted, job_response, page_response, problems
from service.api.presence import while_there
from service.api.reply import etag_of, job_document, job_reply, json_reply
from service.errors import BadRequest
from service.ids import is_id
from service.jobs.store import JobQuery

router = APIRouter(tags=["jobs"])
_MAX_LIMIT: Final = 500
_IF_MATCH: Final = {
    "parameters": [
        {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": "Only if unchanged."}
    ]
}


@router.head("/v1/jobs/{job_id}", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}",
    operation_id="getJob",
    summary="Look at a job",
    responses={200: job_response(), 304: {"description": "Unchanged."}, **problems(404, 410)},
)
async def get_job(
    job_id: str,
    request: Request,
    tasks: BackgroundTasks,
    intake: Reads,
    root_path: RootPath,
    wait: Annotated[int | None, Query(ge=0, description="Seconds, as `Prefer: wait` has them.")] = None,
) -> Response:
    """Return the job. 200 in every status, also when the job has failed; 304 when If-None-Match names its tag.

    With `Prefer: wait=N` or `?wait=N` the answer comes when the job is done, or differs from what If-None-Match names, or after
    N seconds; `Preference-Applied` tells that it was waited for.
    """
    seconds = fields.preferred_wait(request.headers) if wait is None else wait
    headers = {"Cache-Control": "private, no-cache", "Vary": "Prefer"}
    if seconds is None:
        job = await intake.get(job_id)
    else:
        conditional = "if-none-match" in request.headers
        granted = min(seconds, int(intake.services.settings.max_wait.total_seconds()))
        job, waited = await while_there(
            request.scope,
            intake.wait(
                job_id, lambda job: job.done or (conditional and not fields.is_fresh(request.headers, job.tag)), granted
            ),
        )
        headers |= {"Preference-Applied": f"wait={granted}"} if waited else {}
        tasks.add_task(intake.watch.all_told)
    headers["ETag"] = etag_of(job)
    reply = job_reply(job, root_path, headers=headers, clock=intake.services.clock)
    if fields.is_fresh(request.headers, job.tag):
        kept = {name: value for name, value in reply.headers.items() if name not in ("content-type", "content-length")}
        return Response(status_code=304, headers=kept)
    return reply


@router.head("/v1/jobs", include_in_schema=False)
@router.get(
    "/v1/jobs",
    operation_id="listJobs",
    summary="List jobs, newest first",
    responses={200: page_response(), **problems(400, 422)},
    openapi_extra=LABELS,
)
async def list_jobs(
    request: Request,
    intake: Reads,
    root_path: RootPath,
    filters: Filters,
    limit: Annotated[int, Query(ge=1, description=f"Jobs a page, {_MAX_LIMIT} at most.")] = 50,
    cursor: Annotated[str | None, Query(description="From `next_cursor` of the page before.")] = None,
) -> Response:
    """Return one page; `next_cursor` and `Link: rel="next"` lead on, their absence is the end."""
    require_known(request, "limit", "cursor")
    before = _position(cursor, filters) if cursor else None
    page = await intake.page(JobQuery(**filters, before=before, limit=min(limit, _MAX_LIMIT)))
    headers = {"Cache-Control": "private, no-cache"}
    following = _cursor(page.next, filters) if page.next else None
    if following:
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        headers["Link"] = f'<{root_path}/v1/jobs?{urlencode([*rest, ("cursor", following)])}>; rel="next"'
    items = [job_document(job, root_path) for job in page.jobs]
    return json_reply({"items": items, "next_cursor": following}, headers=headers)


@router.post(
    "/v1/jobs/{job_id}/cancel",
    dependencies=[audited("job.cancel")],
    operation_id="cancelJob",
    summary="Cancel a job",
    responses={200: job_response(), 202: accepted(), **problems(404, 409, 410, 412)},
    openapi_extra=_IF_MATCH,
)
async def cancel_job(
    job_id: str, request: Request, tasks: BackgroundTasks, intake: Writes, root_path: RootPath
) -> Response:
    """Cancel a queued job at once (200), or have a running one ended (202, look at the job)."""
    job = await intake.cancel(job_id, tags=fields.tags(request.headers.get("if-match")))
    tasks.add_task(intake.services.engine.notify, job.id)
    if job.done:
        return job_reply(job, root_path)
    return job_reply(job, root_path, status=202, headers={"Location": f"{root_path}/v1/jobs/{job.id}"})


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    dependencies=[audited("job.retry")],
    operation_id="retryJob",
    summary="Retry a failed or canceled job",
    responses={202: accepted(), **problems(404, 409, 410, 412)},
    openapi_extra=_IF_MATCH,
)
async def retry_job(
    job_id: str, request: Request, tasks: BackgroundTasks, intake: Writes, root_path: RootPath
) -> Response:
    """Queue the job again; steps that have succeeded are not run again."""
    job = await intake.retry(job_id, tags=fields.tags(request.headers.get("if-match")))
    tasks.add_task(intake.services.engine.notify, job.id)
    return job_reply(job, root_path, status=202, headers={"Location": f"{root_path}/v1/jobs/{job.id}"})


@router.delete(
    "/v1/jobs/{job_id}",
    status_code=204,
    dependencies=[audited("job.delete")],
    operation_id="deleteJob",
    summary="Delete a job that is done",
    responses={204: {"description": "Record and bytes are deleted."}, **problems(404, 409, 410, 412)},
    openapi_extra=_IF_MATCH,
)
async def delete_job(job_id: str, request: Request, intake: Deletes) -> Response:
    """Delete record, source and artifacts."""
    await intake.delete(job_id, tags=fields.tags(request.headers.get("if-match")))
    return Response(status_code=204)


def _cursor(position: str, filters: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"{position}.{_mark(filters)}".encode()).decode().rstrip("=")


def _position(cursor: str, filters: dict[str, Any]) -> str:
    """Return where a cursor leads. Raises BadRequest for a broken one, and for one of another query."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    position, _, mark = text.partition(".")
    if not is_id(position) or mark != _mark(filters):
        raise BadRequest(
            "The cursor does not belong to this query.",
            code="cursor-invalid",
            hint="Take it from next_cursor, and keep the filters as they were.",
        )
    return position


def _mark(filters: dict[str, Any]) -> str:
    """Return a short mark of the filters, so that a cursor is not used with others."""
    plain = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in filters.items()}
    return f"{binascii.crc32(json.dumps(plain, sort_keys=True, default=str).encode()):08x}"
