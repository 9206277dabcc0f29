"""Downloads of sources and artifacts: ranges, validators, and headers that keep a stranger's file from running in a browser."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BufferedIOBase
from typing import Any, Final
from urllib.parse import quote

import anyio
import structlog
from anyio import CapacityLimiter
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from service.api import headers as fields
from service.api.auth import LinkedReads
from service.api.openapi import bytes_response, problems
from service.api.problems import phrase_of, problem
from service.blob import Blob
from service.intake import Intake
from service.storage.base import Content, StorageUnreachable

log = structlog.get_logger(__name__)
router = APIRouter(tags=["downloads"])
_READERS: Final = CapacityLimiter(32)  #: for bytes that come from elsewhere, so that nothing else waits for them
_TRIES: Final = 3  #: at opening bytes that come from elsewhere where reading broke off
#: Types a browser shows without running anything in them; everything else is served as octet-stream.
_HARMLESS: Final = re.compile(
    r"image/(jpeg|png|gif|webp|avif|bmp|tiff)|text/plain|text/csv|application/(json|pdf)|audio/.+|video/.+"
)
_RANGES: Final = re.compile(r"\s*bytes\s*=([0-9,\s-]*[0-9][0-9,\s-]*)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18})")
_RESPONSES: Final[dict[int | str, Any]] = {
    200: bytes_response("The whole file."),
    206: bytes_response("The requested range."),
    304: {"description": "Unchanged."},
    307: {"description": "The bytes are behind `Location`, for a short while (`INTAKE_S3_REDIRECT`)."},
}


@router.head("/v1/jobs/{job_id}/source", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/source",
    operation_id="getSource",
    summary="Download the file as it arrived",
    responses={**_RESPONSES, **problems(404, 410, 416)},
    response_class=Response,
)
async def get_source(job_id: str, request: Request, intake: LinkedReads) -> Response:
    """Return the bytes as they were uploaded."""
    return await _download(request, intake, await intake.source(job_id))


@router.head("/v1/jobs/{job_id}/artifacts/{step}/{name}", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/artifacts/{step}/{name}",
    operation_id="getArtifact",
    summary="Download what a step made",
    responses={**_RESPONSES, **problems(404, 410, 416)},
    response_class=Response,
)
async def get_artifact(job_id: str, step: str, name: str, request: Request, intake: LinkedReads) -> Response:
    """Return an artifact."""
    return await _download(request, intake, await intake.artifact(job_id, step, name))


async def _download(request: Request, intake: Intake, blob: Blob) -> Response:
    disposition = attachment(blob.name)
    headers = {
        "ETag": f'"{blob.sha256}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.sha256)).decode()}:",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": disposition,
    }
    if fields.is_fresh(request.headers, blob.sha256):
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    kind = blob.media_type if _HARMLESS.fullmatch(blob.media_type) else "application/octet-stream"
    lifetime = intake.services.settings.s3_redirect
    if lifetime and request.method == "GET":  # what is signed for GET is no answer to HEAD
        seconds = int(lifetime.total_seconds())
        if link := blob.content.link(seconds=seconds, media_type=kind, disposition=disposition):
            told = {"Location": link, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
            return Response(status_code=307, headers=told)
    response = _Download if blob.content.path else _Streamed
    return response(request, blob, headers=headers, media_type=kind)


class _Download(FileResponse):
    """Starlette's file response, with ranges as RFC 9110, section 14.2, has them, and 416 as a problem document."""

    def __init__(self, request: Request, blob: Blob, **options: object) -> None:
        content = blob.content
        stat = os.stat_result((0, 0, 0, 0, 0, 0, content.size, 0, content.changed_at, 0))
        super().__init__(content.path or blob.name, stat_result=stat, **options)  # type: ignore[arg-type]
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


class _Streamed(_Download):
    """The same for bytes that are not a file of this machine: they pass through in pieces."""

    chunk_size = 2**18

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        file = _Distant(self._blob.content)
        try:
            yield file
        finally:
            with anyio.CancelScope(shield=True):
                await file.close()


class _Distant:
    """Bytes of a storage as a file to be read from any position; opened again where reading breaks off."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._at = 0
        self._file: BufferedIOBase | None = None

    async def seek(self, position: int) -> None:
        """Go to a position; nothing is fetched yet."""
        await self.close()
        self._at = position

    async def read(self, size: int) -> bytes:
        """Return the next bytes: ``size`` of them, but at the end. Raises OSError when they cannot be had."""
        return await anyio.to_thread.run_sync(self._read, size, limiter=_READERS)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._file is not None:
            file, self._file = self._file, None
            await anyio.to_thread.run_sync(file.close, limiter=_READERS)

    def _read(self, size: int) -> bytes:
        for failures in range(_TRIES):
            try:
                if self._file is None:
                    self._file = self._content.open(self._at)
                piece = self._file.read(size)
                self._at += len(piece)
            except StorageUnreachable as error:
                log.warning("a download broke off in the storage", error=str(error), failures=failures + 1)
                if self._file is not None:
                    self._file.close()
                self._file = None
                if failures + 1 == _TRIES:
                    raise
            else:
                return piece
        raise AssertionError("the last failure is raised")


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
