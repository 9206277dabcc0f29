"""HTTP by hand, for what no client library can be made to send."""

from __future__ import annotations

import http.client
import io
import socket
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDARY = "the-boundary"


class Wire:
    """A connection to a server. A context manager."""

    def __init__(self, url: str, *, timeout: float = 20) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._host = f"{address.hostname}:{address.port}"
        self.socket = socket.create_connection((address.hostname, address.port), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def begin(self, method: str, path: str, **headers: str | int) -> None:
        """Send a request's line and headers; ``content_length=3`` is a header's name in Python."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))

    def await_continue(self) -> None:
        """Wait for the 100 that a request with ``expect="100-continue"`` gets when its headers have been judged."""
        expected = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert self.socket.recv(len(expected), socket.MSG_WAITALL) == expected

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, method: str = "POST") -> httpx.Response:
        """Read one answer to its end; an interim 100 is passed over."""
        with http.client.HTTPResponse(self.socket, method=method) as reply:
            reply.begin()
            return httpx.Response(reply.status, headers=reply.getheaders(), content=reply.read())

    def answers(self, count: int = 1) -> list[httpx.Response]:
        """Read this many answers and all that follow them until the server closes, which is told that nothing more comes."""
        with self.socket.makefile("rb") as stream:
            found = [_answer(stream) for _ in range(count)]
            self.socket.shutdown(socket.SHUT_WR)
            while stream.peek(1):
                found.append(_answer(stream))
        return found

    def post_form(self, body: bytes, *, path: str = "/v1/jobs", boundary: str = BOUNDARY) -> httpx.Response:
        """Post a multipart body written by hand and return the answer."""
        self.begin("POST", path, content_type=f"multipart/form-data; boundary={boundary}", content_length=len(body))
        self.send(body)
        return self.answer()


def _answer(stream: io.BufferedReader) -> httpx.Response:
    """Read one answer that has a Content-Length, and no byte more; http.client would read on and drop what it has not asked for."""
    version, status, _ = stream.readline().split(b" ", 2)
    assert version == b"HTTP/1.1", version
    headers = http.client.parse_headers(stream)
    return httpx.Response(int(status), headers=headers.items(), content=stream.read(int(headers["Content-Length"])))


def part(disposition: str | bytes, content: bytes = b"", *more: str) -> bytes:
    """Return one part of a form with its boundary line: the parameters of its Content-Disposition, and more headers."""
    first = disposition.encode("utf-8") if isinstance(disposition, str) else disposition
    head = [b"--" + BOUNDARY.encode(), b"Content-Disposition: form-data; " + first, *(line.encode() for line in more)]
    return b"\r\n".join(head) + b"\r\n\r\n" + content + b"\r\n"


def form(parts: Sequence[bytes]) -> bytes:
    """Return a whole form."""
    return b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"
