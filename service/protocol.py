"""The connection: uvicorn's HTTP protocol with the bounds and the strictness that strangers call for.

uvicorn waits for ever for a request's head, takes one of any size, and answers what it cannot parse in plain text; httptools lets
some ambiguities of framing pass. Here a head has a size and a deadline, framing is what RFC 9112 says and nothing that two readers
could understand differently, a client that does not read is cut, and the number of connections is bounded.

A request that is refused here still goes to the application, with the error in ``scope["state"]["refusal"]``: ``service.api.guard``
answers it like any other refusal, with a request id, a problem document and a decent end. Nothing after it on its connection is
ever parsed: what follows a message that could not be understood is anybody's guess (RFC 9112, section 9.6).

Each request has a future in ``scope["state"]["left"]``, done as soon as its client has left before the answer was complete.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import BadRequest, HeadersTooLarge, IntakeError, RequestTimeout, TooManyConnections, UriTooLong
from service.framing import check_head

#: Bytes of a request's target: room for all labels at their longest, percent-encoded (RFC 9112, section 3, wants 8000 at least).
_MAX_URI: Final = 48 * 2**10
_MAX_PIPELINED: Final = 64  #: requests that may wait for the answer to an earlier one
_MAX_FRAMING: Final = 16 * 2**10  #: bytes of chunk extensions and trailers
_PER_CHUNK: Final = 32  #: bytes of framing that each chunk may add: its size in hexadecimal and two line ends
_LOOK: Final = 5.0  #: seconds between two looks at a connection
_REFUSED_AT_ONCE: Final = 64  #: newcomers over the limit that are still told so; more are cut


@dataclass(frozen=True, kw_only=True)
class Wire:
    """The bounds of an API process's connections, which the application hands over in its lifespan's state as ``wire``."""

    max_header: int  #: bytes of a request's header section
    header_timeout: float  #: seconds until the head of a request must be there
    min_rate: int  #: bytes per second that a client must take of an answer
    max_connections: int
    #: connections without a request at work, the one that has waited longest first
    waiting: dict[IntakeProtocol, None] = field(default_factory=dict)


class IntakeProtocol(HttpToolsProtocol):
    """One connection. uvicorn makes it, by the import string ``service.protocol:IntakeProtocol``."""

    _stage: int = 0  #: grows whenever the parser gets to a head, a body, or the end of a message
    _in_head = False  #: the first byte of a message has come, and the end of its head has not
    _in_body = False
    _seen: int = 0  #: bytes that have come since the stage began, its first read apart
    _delivered: int = 0  #: bytes of the body among them
    _chunks: int = 0
    _trailers: int = 0
    _refused = False
    _running: RequestResponseCycle | None = None
    _left: asyncio.Future[None] | None = None  #: done when the client has left the request at work
    _look_task: asyncio.TimerHandle | None = None
    _unsent: int | None = None  #: bytes that the client had not taken at the last look
    _NEVER: ClassVar[float] = float("inf")
    _due: float = _NEVER  #: when the head that is awaited must be there

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take the connection, in the place of one that waits if there are too many."""
        super().connection_made(transport)
        self._wire: Wire = self.app_state["wire"]
        self._pace = min(_LOOK, self._wire.header_timeout)
        if len(self.connections) > self._wire.max_connections and not self._make_room():
            return
        self._await_head(self._wire.header_timeout)
        self._look_task = self.loop.call_later(self._pace, self._look)

    def _make_room(self) -> bool:
        """End the connection that has waited for a request the longest; without one, refuse this one."""
        if self._wire.waiting:
            oldest = next(iter(self._wire.waiting))
            del self._wire.waiting[oldest]
            oldest.transport.abort()
            return True
        if len(self.connections) > self._wire.max_connections + _REFUSED_AT_ONCE:
            self.transport.abort()
            return False
        self._refuse(
            TooManyConnections("All connections are at work.", hint="Try again a little later.", retry_after=5)
        )
        self.cycle.more_body = False  # nothing has been read and nothing will be
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, and tell the request at work, which is an earlier one than uvicorn's where some wait in line."""
        self._wire.waiting.pop(self, None)
        if self._look_task is not None:
            self._look_task.cancel()
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            if self._left is not None:
                self._left.set_result(None)
        self._running = self._left = None

    def _await_head(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds
        if not self._refused:
            self._wire.waiting[self] = None

    def _look(self) -> None:
        """Cut a connection whose head is overdue, or whose client takes nothing of what was sent."""
        now = self.loop.time()
        if now >= self._due:
            self._due = self._NEVER
            if self._in_head:
                self._refuse(
                    RequestTimeout(f"The request's header did not arrive within {self._wire.header_timeout:g} s.")
                )
            elif self._running is None or self._running.response_complete:
                self.transport.close()
        unsent = self.transport.get_write_buffer_size()
        held = unsent > 0 and (
            self.flow.write_paused or self.transport.is_closing()
        )  # nothing is added to it meanwhile
        if held and self._unsent is not None and self._unsent - unsent < self._wire.min_rate * self._pace:
            self.transport.abort()
            return
        self._unsent = unsent if held else None
        self._look_task = self.loop.call_later(max(0.0, min(self._pace, self._due - now)), self._look)

    # what arrives

    def data_received(self, data: bytes) -> None:
        """Parse what has come, within the bounds."""
        self._unset_keepalive_if_required()
        if self._refused:
            self._take_unparsed(data)
            return
        stage, rest = self._stage, data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as upgrade:  # answered in HTTP/1.1 (RFC 9110, section 7.8)
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(_cause(error, "The body's chunks" if self._in_body else "The request"))
                return
        if self._stage == stage:
            self._seen += len(data)
            self._check_bounds()

    def _check_bounds(self) -> None:
        if self._in_body:
            allowed = _MAX_FRAMING + _PER_CHUNK * self._chunks
            if self._seen - self._delivered > allowed:
                self._refuse(BadRequest(f"The chunks carry more than {_MAX_FRAMING} bytes beside the body."))
        elif self._seen > self._wire.max_header + _MAX_URI:
            self._refuse(self._headers_too_large())

    def _enter(self, *, head: bool = False, body: bool = False) -> None:
        self._stage += 1
        self._in_head, self._in_body = head, body
        self._seen = self._delivered = self._chunks = self._trailers = 0

    # the parser's callbacks; what they raise comes out of feed_data

    def on_message_begin(self) -> None:
        """Start the clock of a head."""
        self._enter(head=True)
        self._due = min(self._due, self.loop.time() + self._wire.header_timeout)
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise BadRequest(f"More than {_MAX_PIPELINED} requests are waiting for the answer to an earlier one.")
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Collect the request's target, which comes in pieces."""
        super().on_url(url)
        if len(self.url) > _MAX_URI:
            raise UriTooLong(f"The address is longer than {_MAX_URI} bytes.", max_size=_MAX_URI)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; trailers are read and dropped (RFC 9110, section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)
            return
        self._trailers += len(name) + len(value) + 4
        if self._trailers > _MAX_FRAMING:
            raise BadRequest(f"The trailer section is longer than {_MAX_FRAMING} bytes.")

    def on_headers_complete(self) -> None:
        """Judge the head, and start the request."""
        check_head(self.parser.get_http_version(), self.url, self.headers, upgrades=self.parser.should_upgrade())
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > self._wire.max_header:
            raise self._headers_too_large()
        self._due = self._NEVER
        self._wire.waiting.pop(self, None)
        self._enter(body=True)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count what is body and not framing. What comes alone is handed on as it is, which spares two copies."""
        self._delivered += len(body)
        cycle: Any = self.cycle  # whose body uvicorn has as a bytearray
        if not cycle.body:
            cycle.body, body = body, b""
        elif isinstance(cycle.body, bytes):
            cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Count the chunks."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """Mark the end of a message: what comes next is another one."""
        self._enter()
        super().on_message_complete()

    def _headers_too_large(self) -> HeadersTooLarge:
        limit = self._wire.max_header
        return HeadersTooLarge(f"The header section is longer than {limit} bytes.", max_size=limit)

    # requests and answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._left = cycle.scope["state"]["left"] = self.loop.create_future()
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request that is there, or wait for one."""
        waits = not self.pipeline
        super().on_response_complete()
        if waits and not self._refused and not self.transport.is_closing():
            self._await_head(self.timeout_keep_alive + self._wire.header_timeout)
            if self._in_head:
                self._unset_keepalive_if_required()
                self._due = self.loop.time() + self._wire.header_timeout

    def _refuse(self, error: IntakeError) -> None:
        """Have this error answered instead of the request that is arriving, after the requests before it."""
        self._refused = True
        self._due = self._NEVER
        self._wire.waiting.pop(self, None)
        if self._in_body:  # its request is at work, or in the line, and hears of it when it reads
            self.cycle.scope["state"]["refusal"] = error
            self.cycle.message_event.set()
            return
        line, known = self.cycle, self.headers if self._in_head else []
        HttpToolsProtocol.on_message_begin(self)
        self.headers.extend(known or ())
        self.scope["method"], self.scope["path"], self.scope["raw_path"] = "GET", "/", b"/"
        self.scope["query_string"] = b""
        self.scope["state"]["refusal"] = error
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        if line is None or line.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def _take_unparsed(self, data: bytes) -> None:
        """Give what still comes to the answer's end, which drops it at its own pace."""
        if self.cycle.response_complete:
            return
        self.cycle.body += data
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()


def _cause(error: httptools.HttpParserError, what: str) -> IntakeError:
    """Return the refusal that a callback raised, or the one for what the parser itself could not read."""
    cause = error.__context__
    if isinstance(cause, IntakeError):
        return cause
    if cause is None or isinstance(cause, UnicodeDecodeError | httptools.HttpParserError):
        return BadRequest(f"{what} cannot be understood.", hint="Send HTTP/1.1 as RFC 9112 has it.")
    raise cause  # a mistake of ours
