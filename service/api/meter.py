"""Counts requests by method, route and status with their time, as plain ASGI; and uploads with what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.counts import Counts
from service.errors import ClientGone, IntakeError, OutcomeUnknown
from service.figures import REQUEST_DURATION, REQUESTS, UPLOAD_BYTES, UPLOAD_SIZE, UPLOADS

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Meter:
    """Wraps the application. A request that matches no route has the route ``none``, an odd method is ``_OTHER``."""

    def __init__(self, app: ASGIApp, *, counts: Counts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500  # what a server answers for an application that says nothing

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
            route = getattr(scope.get("route"), "path", None) or "none"
            self._counts.add(REQUESTS, method, route, str(status))
            self._counts.add(REQUEST_DURATION, method, route, value=time.perf_counter() - began)


class UploadMeter:
    """Counts one upload, within ``metered``."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.outcome: Literal["accepted", "replayed", "refused", "aborted", "failed"] = "failed"

    def received(self, size: int) -> None:
        """Count bytes of the file."""
        self._counts.add(UPLOAD_BYTES, value=size)

    def taken(self, size: int, *, replayed: bool) -> None:
        """Note that it has led to a job, with a file of ``size`` bytes."""
        self.outcome = "replayed" if replayed else "accepted"
        if not replayed:
            self._counts.add(UPLOAD_SIZE, value=size)


@contextmanager
def metered(counts: Counts, protocol: str) -> Iterator[UploadMeter]:
    """Count the upload that happens inside, as what it ends with."""
    meter = UploadMeter(counts)
    try:
        yield meter
    except (asyncio.CancelledError, ClientGone):
        meter.outcome = "aborted"
        raise
    except OutcomeUnknown:
        raise
    except IntakeError:
        meter.outcome = "refused"
        raise
    finally:
        counts.add(UPLOADS, protocol, meter.outcome)
