"""Around the application, plain ASGI: request ids, headers for browsers, an answer to everything, and a decent end for early ones.

What ``service.protocol`` refuses comes here too, with the error in ``scope["state"]["refusal"]``, and goes no further. An error
that nobody has foreseen is logged and answered here, so that its answer ends as decently as any other.

An answer that begins before the request's body has been read is sent whole, with ``Connection: close``; then what the client still
sends is read and dropped, quickly up to a bound and then hardly at all, for a few seconds. An immediate close would reset the
connection and often destroy the answer on its way (RFC 9112, section 9.6), and proxies would turn it into a 502.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid4

from service.api.browsers import hardened
from service.api.problems import problem_of, unexpected
from service.errors import IntakeError
from service.telemetry import trace_of

log = structlog.get_logger(__name__)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DRAIN_BYTES: Final = 16 * 2**20
_DRAIN_SECONDS: Final = 5.0
_DRAIN_PAUSE: Final = 0.25  #: seconds between two reads beyond the bound
_DRAIN_SILENCE: Final = 2.0  #: seconds after which nothing more is on its way


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        trace = scope["state"]["trace"] = trace_of(scope["headers"])
        ids = {"request_id": request_id, **({"trace_id": trace.id} if trace else {})}
        exchange = _Exchange(scope, headers, receive, send)
        with structlog.contextvars.bound_contextvars(**ids):
            if (refusal := _refusal(scope)) is not None:
                await problem_of(Request(scope), refusal)(scope, exchange.receive, exchange.send)
                return
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception:
                log.exception("unexpected error", method=scope["method"], path=scope["path"])
                if not exchange.answered:
                    await unexpected(Request(scope))(scope, exchange.receive, exchange.send)


def _refusal(scope: Scope) -> IntakeError | None:
    refusal: IntakeError | None = scope["state"].get("refusal")
    return refusal


class _Exchange:
    """One request and its answer, with what is known of the body."""

    def __init__(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send, self._state = scope, receive, send, scope["state"]
        bodiless = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._read = bodiless and _refusal(scope) is None
        self.answered = False  #: an answer has begun
        self._begun = False
        self._waits = "100-continue" in headers.get("expect", "").lower()
        self._drains = False

    async def receive(self) -> Message:
        message = await self._next()
        if not self._read and (refusal := _refusal(self._scope)) is not None:
            raise refusal  # the rest of the body cannot be understood
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._begun = True
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            own = {"x-request-id": self._state["request_id"], **self._state.get("rate_limit", {})}
            if not self._read:
                own["connection"] = "close"
                self._drains = self._begun or not self._waits  # whoever waits for a 100 has sent nothing
            fields = [(name.lower().encode(), value.encode()) for name, value in own.items()]
            await self._send({**message, "headers": hardened([*message["headers"], *fields])})
        elif self._drains and not message.get("more_body", False):
            self._drains = False
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _drain(self) -> None:
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._read:
                    async with asyncio.timeout(_DRAIN_SILENCE):
                        message = await self._next()
                    left -= len(message.get("body", b""))
                    if left <= 0:  # a sender that stalls looks for the answer, one that is cut off may never see it
                        await asyncio.sleep(_DRAIN_PAUSE)
        except TimeoutError:
            return
