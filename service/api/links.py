"""``POST /v1/links``: signed, expiring URLs for one download or one upload."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import quote, unquote

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response

from service.access.links import LONGEST, Link, signed
from service.access.model import Scope
from service.api.audited import audited
from service.api.auth import Known, require_scope
from service.api.body import BodyLimits, chunks
from service.api.deps import RootPath
from service.api.openapi import LINK_BODY, LINK_NAME, LINK_TARGET, json_response, problems
from service.api.reply import json_reply
from service.errors import Invalid
from service.fields import require_pipeline
from service.intake import Intake
from service.jobs.value import rfc3339

router = APIRouter(tags=["links"])
_SIZE: Final = 16 * 2**10  #: bytes of a request for a link
_PATH: Final = re.compile(r"/v1/jobs/([^/]+)/(?:source|artifacts/([^/]+)/([^/]+))$")
_LONGEST: Final = int(LONGEST.total_seconds())


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 5.0 is an integer to JSON Schema


Whole = Annotated[int, BeforeValidator(_whole)]


class UploadOptions(BaseModel):
    """What may be uploaded by a link."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_size: Whole = Field(0, ge=1)  # what is left out is empty; what is given is not
    pipeline: str = Field("", min_length=1)
    filename: str = Field("", pattern=LINK_NAME, max_length=255)


class _Expiring(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in: Whole = Field(900, ge=1, le=_LONGEST)


class ForDownload(_Expiring):
    """A request for a link to a download."""

    download: str = Field(pattern=LINK_TARGET)


class ForUpload(_Expiring):
    """A request for a link for an upload."""

    upload: UploadOptions


_REQUEST: Final[TypeAdapter[ForDownload | ForUpload]] = TypeAdapter(ForDownload | ForUpload)


@router.post(
    "/v1/links",
    status_code=201,
    dependencies=[audited("link.create")],
    operation_id="createLink",
    summary="Make a signed link",
    responses={
        201: json_response("LinkView", "The link.", {"Location": {"schema": {"type": "string"}}}),
        **problems(400, 404, 408, 410, 413, 422),
    },
    openapi_extra={"requestBody": LINK_BODY},
)
async def create_link(request: Request, intake: Known, root_path: RootPath) -> Response:
    """Make a URL that whoever has it can use without a token, until it expires: once, if it is for an upload."""
    asked = await _asked(request, intake)
    exp = int((intake.services.clock() + timedelta(seconds=asked.expires_in)).timestamp())
    if isinstance(asked, ForDownload):
        require_scope(intake.by, Scope.READ)
        method, query = "GET", dict[str, str]()
        path = await _of_a_job(intake, asked.download)
        link = Link(sub=intake.by.id, exp=exp)
    else:
        require_scope(intake.by, Scope.WRITE)
        method, path, query = _of_an_upload(intake, asked.upload)
        limit = intake.services.settings.max_upload
        size = min(asked.upload.max_size or limit, limit)
        link = Link(sub=intake.by.id, exp=exp, nonce=secrets.token_hex(16), max_size=size)
    key = await run_sync(intake.services.links.key)
    url = f"{intake.services.settings.public_url}{root_path}{quote(path)}?{signed(key, method, path, query, link)}"
    expires_at = datetime.fromtimestamp(exp, UTC)
    made = {"url": url, "method": method, "expires_at": rfc3339(expires_at), "max_size": link.max_size}
    return json_reply(made, 201, {"Location": url, "Cache-Control": "no-store"})


async def _asked(request: Request, intake: Intake) -> ForDownload | ForUpload:
    settings = intake.services.settings
    limits = BodyLimits(idle=settings.upload_idle.total_seconds(), min_rate=settings.upload_min_rate, size=_SIZE)
    body = b"".join([data async for data in chunks(request, limits)])
    try:
        return _REQUEST.validate_json(body)
    except ValidationError as error:
        found = [
            {
                "detail": item["msg"].removeprefix("Value error, "),
                "pointer": "#" + "".join(f"/{part}" for part in item["loc"][1:]),
            }
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise Invalid("The request for a link is not one.", hint="See POST /v1/links in /docs.", errors=found) from None


async def _of_a_job(intake: Intake, href: str) -> str:
    """Return the path of a download that there is. Raises NotFound for what is not there, or somebody else's."""
    match = _PATH.search(href)
    assert match is not None, "checked by the model"
    job_id, step, name = (part and unquote(part) for part in match.groups())
    await (intake.artifact(job_id, step, name) if step else intake.source(job_id))
    return f"/v1/jobs/{job_id}/artifacts/{step}/{name}" if step else f"/v1/jobs/{job_id}/source"


def _of_an_upload(intake: Intake, asked: UploadOptions) -> tuple[str, str, dict[str, str]]:
    if asked.pipeline:
        require_pipeline(intake.services.catalogue, asked.pipeline)
    query = {"pipeline": asked.pipeline} if asked.pipeline else {}
    if not asked.filename:
        return "POST", "/v1/jobs", query
    return "PUT", f"/v1/files/{asked.filename}", query
