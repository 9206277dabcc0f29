"""Request bodies as they arrive: a silence bound, a minimum rate, a size bound; raw bytes or multipart, as the same events."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import Request

from service.api.headers import text_of
from service.errors import BadRequest, ClientGone, Invalid, TooLarge, TooSlow, Truncated
from service.reception import Digest, digest_mismatch

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_RATE_AFTER: Final = 10.0  #: seconds of an upload before its rate counts
_MAX_PARTS: Final = 32
_MAX_FIELD: Final = 64 * 2**10
_MAX_FIELD_NAME: Final = 100
_MAX_PART_HEADERS: Final = 8
_MAX_PART_HEADER: Final = 8 * 2**10
_MAX_BOUNDARY: Final = 70  # RFC 2046, section 5.1.1
_ONCE: Final = (b"content-disposition", b"content-type")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER: Final = re.compile(r";\s*([^=;\s]+)\s*=")


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """Bounds of one body."""

    idle: float  #: seconds without a byte
    min_rate: int  #: bytes per second, 0 for none
    size: int  #: bytes, envelope included


@dataclass(frozen=True)
class Field:
    """A text field, whole."""

    name: str
    value: str


@dataclass(frozen=True)
class FileStart:
    """The file begins; its bytes follow as ``bytes`` events."""

    name: str | None
    declared_type: str | None


Event = Field | FileStart | bytes


async def chunks(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TooSlow, TooLarge, or ClientGone when the client has left."""
    total, waited = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(limits.idle):
                message = await request.receive()
        except TimeoutError:
            raise _slow(total, f"No byte arrived for {limits.idle:g} s.") from None
        waited += time.monotonic() - began  # only what the client took: a slow disk of ours is not held against it
        if message["type"] == "http.disconnect":
            raise ClientGone("The client closed the connection before its request was whole.")
        data = message.get("body", b"")
        total += len(data)
        if total > limits.size:
            raise TooLarge("The request is larger than any file taken here.", max_size=limits.size)
        if waited > _RATE_AFTER and limits.min_rate and total / waited < limits.min_rate:
            raise _slow(total, f"The upload is slower than {limits.min_rate} bytes per second.")
        if data:
            yield data
        if not message.get("more_body", False):
            return


async def digested(body: AsyncIterator[bytes], announced: list[Digest]) -> AsyncIterator[bytes]:
    """Yield a body unchanged, and raise DigestMismatch at its end if it is not the announced one (RFC 9530: envelope included)."""
    running = [(digest, hashlib.new(digest.algorithm)) for digest in announced]
    async for data in body:
        for _, hashed in running:
            hashed.update(data)
        yield data
    for digest, hashed in running:
        if not hmac.compare_digest(hashed.digest(), digest.value):
            raise digest_mismatch(digest.algorithm)


async def raw_events(body: AsyncIterator[bytes], name: str | None, declared_type: str | None) -> AsyncIterator[Event]:
    """Yield a raw body as one file."""
    yield FileStart(name, declared_type)
    async for data in body:
        yield data


async def multipart_events(body: AsyncIterator[bytes], boundary: str | None) -> AsyncIterator[Event]:
    """Yield the fields and the file of a multipart/form-data body (RFC 7578) in the order they arrive.

    Raises BadRequest for what is not multipart, Truncated when the closing boundary is missing, Invalid for too many parts.
    """
    if not boundary or len(boundary) > _MAX_BOUNDARY:
        raise BadRequest(
            "The Content-Type has no usable boundary.", hint="Let your client write it: curl -F, or files= in Python."
        )
    form = _Form()
    parser = MultipartParser(
        boundary.encode("latin-1", "replace"),
        form.callbacks(),
        max_header_count=_MAX_PART_HEADERS,
        max_header_size=_MAX_PART_HEADER,
    )
    async for data in body:
        try:
            parser.write(data)
        except FormParserError as error:
            raise BadRequest(
                f"The multipart body cannot be read: {error}.", hint="Send it as multipart/form-data."
            ) from error
        for event in form.taken():
            yield event
    if parser.state != MultipartState.END:
        raise Truncated("The multipart body ends before its closing boundary; nothing was kept.", hint="Send it again.")


class _Form:
    """Collects the parser's callbacks into events."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._parts = 0
        self._header: list[bytearray] = []
        self._headers: dict[bytes, bytes] = {}
        self._field: tuple[str, bytearray] | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_begin": self._on_header_begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
        }

    def taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._headers = {}
        if self._parts > _MAX_PARTS:
            raise Invalid(f"The form has more than {_MAX_PARTS} parts.")

    def _on_header_begin(self) -> None:
        self._header = [bytearray(), bytearray()]

    def _on_header_end(self) -> None:
        name = bytes(self._header[0]).lower()
        if name in self._headers and name in _ONCE:
            raise BadRequest("A part of the form has a header twice.", hint="Send each header of a part once.")
        self._headers[name] = bytes(self._header[1])

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        names = [name.lower() for name in _PARAMETER.findall(_QUOTED.sub('""', disposition))]
        if len(names) > len(set(names)):
            raise BadRequest("A part of the form has a parameter twice.", hint="Send one name and one filename.")
        kind, parameters = parse_options_header(disposition)
        name = text_of(parameters.get(b"name", b""))
        if kind != b"form-data" or not name or len(name) > _MAX_FIELD_NAME:
            raise BadRequest(
                "A part of the form has no usable name.",
                hint='Each part needs Content-Disposition: form-data; name="…".',
            )
        filename = parameters.get(b"filename")
        if name == "file":
            declared = self._headers.get(b"content-type")
            self._field = None
            self._events.append(
                FileStart(
                    text_of(filename) if filename is not None else None, text_of(declared).strip() if declared else None
                )
            )
        elif filename is not None:
            raise Invalid(
                f"There is a file in the field {name!r}.", hint="Send the file in the field `file`.", field=name
            )
        else:
            self._field = (name, bytearray())

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._events.append(data[start:end])
            return
        name, value = self._field
        value += data[start:end]
        if len(value) > _MAX_FIELD:
            raise Invalid(f"The field {name} is longer than {_MAX_FIELD} bytes.", field=name)

    def _on_part_end(self) -> None:
        if self._field is not None:
            name, value = self._field
            try:
                self._events.append(Field(name, value.decode("utf-8")))
            except UnicodeDecodeError:
                raise Invalid(f"The field {name} is not UTF-8.", field=name) from None


def _slow(received: int, detail: str) -> TooSlow:
    return TooSlow(detail, hint="Send it again over a faster or steadier line.", received_bytes=received)
