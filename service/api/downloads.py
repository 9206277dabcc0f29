"""Downloads of sources and artifacts: ranges, validators, and headers that keep a stranger's file from running in a browser."""

from __future__ import annotations

import base64
import re
from typing import Any, Final
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from service.api import headers as fields
from service.api.auth import LinkedReads
from service.api.openapi import bytes_response, problems
from service.api.problems import phrase_of, problem
from service.blob import Blob
from service.errors import NotFound

router = APIRouter(tags=["downloads"])
#: Types a browser shows without running anything in them; everything else is served as octet-stream.
_HARMLESS: Final = re.compile(
    r"image/(jpeg|png|gif|webp|avif|bmp|tiff)|text/plain|text/csv|application/(json|pdf)|audio/.+|video/.+"
)
_RANGES: Final = re.compile(r"\s*bytes\s*=([0-9,\s-]*[0-9][0-9,\s-]*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18})")
_RESPONSES: Final[dict[int | str, Any]] = {
    200: bytes_response("The whole file."),
    206: bytes_response("The requested range."),
}


@router.head("/v1/jobs/{job_id}/source", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/source",
    operation_id="getSource",
    summary="Download the file as it arrived",
    responses={**_RESPONSES, 304: {"description": "Unchanged."}, **problems(404, 410, 416)},
    response_class=Response,
)
async def get_source(job_id: str, request: Request, intake: LinkedReads) -> Response:
    """Return the bytes as they were uploaded."""
    return await _download(request, await intake.source(job_id))


@router.head("/v1/jobs/{job_id}/artifacts/{step}/{name}", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/artifacts/{step}/{name}",
    operation_id="getArtifact",
    summary="Download what a step made",
    responses={**_RESPONSES, 304: {"description": "Unchanged."}, **problems(404, 410, 416)},
    response_class=Response,
)
async def get_artifact(job_id: str, step: str, name: str, request: Request, intake: LinkedReads) -> Response:
    """Return an artifact."""
    return await _download(request, await intake.artifact(job_id, step, name))


async def _download(request: Request, blob: Blob) -> Response:
    headers = {
        "ETag": f'"{blob.sha256}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.sha256)).decode()}:",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": attachment(blob.name),
    }
    if fields.is_fresh(request.headers, blob.sha256):
        blob.close()
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    try:
        stat = await anyio.Path(blob.path).stat()
    except FileNotFoundError:
        blob.close()
        raise NotFound("The bytes have just been deleted.", code="bytes-lost") from None
    kind = blob.media_type if _HARMLESS.fullmatch(blob.media_type) else "application/octet-stream"
    return _Download(request, blob, headers=headers, media_type=kind, stat_result=stat)


class _Download(FileResponse):
    """Starlette's file response, with ranges as RFC 9110, section 14.2, has them, and 416 as a problem document."""

    def __init__(self, request: Request, blob: Blob, **options: object) -> None:
        super().__init__(blob.path, **options)  # type: ignore[arg-type]
        self._request = request
        self._blob = blob

    def init_headers(self, headers: object = None) -> None:
        super().init_headers(headers)  # type: ignore[arg-type]
        if self.headers["content-type"].startswith("text/plain"):
            self.headers["content-type"] = "text/plain"  # the file's charset is not ours to claim

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.stat_result is not None, "given by the only caller"
        size = self.stat_result.st_size
        wanted = self._wanted(scope, size)
        if wanted == "":
            refusal = problem(
                self._request,
                status=416,
                code="range-not-satisfiable",
                title=phrase_of(416),
                detail=f"The file has {size} bytes; the range begins after its end.",
                headers={"Content-Range": f"bytes */{size}"},
            )
            await refusal(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if wanted is not None:
            kept.append((b"range", b"bytes=" + wanted.encode("ascii")))
        await super().__call__({**scope, "headers": kept}, receive, send)

    def _wanted(self, scope: Scope, size: int) -> str | None:
        """Return the ranges to send, empty when there is nothing at any of them, None for the whole file."""
        headers = Headers(scope=scope)
        condition = headers.get("if-range")
        if scope["method"] != "GET" or (condition is not None and not self._should_use_range(condition)):
            return None
        return satisfiable(headers.get("range", ""), size)


def satisfiable(asked: str, size: int) -> str | None:
    """Return the ranges of a Range value that a file of ``size`` bytes has; None for a value that cannot be read."""
    match = _RANGES.fullmatch(asked)
    if match is None:
        return None
    kept = []
    for part in filter(None, (part.strip() for part in match[1].split(","))):
        span = _RANGE.fullmatch(part)
        if span is None or (span[2] and int(span[1]) > int(span[2])):
            return None
        if (int(span[1]) if span[1] else size - int(span[3])) < size:
            kept.append(part)
    return ",".join(kept) if size or not kept else None  # the last bytes of nothing are the whole file


def attachment(name: str) -> str:
    """Return a Content-Disposition that saves under ``name``: a plain fallback first, then the full name (RFC 6266, appendix D)."""
    plain = re.sub(r'[^ -~]|["\\%]', "_", name).strip(". ") or "download"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
