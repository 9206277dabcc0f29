"""A receiver of webhooks: a real HTTP server on a loopback port that keeps what it gets and answers as it is told."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks.webhooks import Webhook

from tests.waiting import wait_until

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Got:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """Return the payload, if the library's own verifier is content. It compares the timestamp with the real time."""
        payload: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return payload


def status(code: int, **headers: str) -> Answer:
    """Return the answer of this status."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def cut(request: BaseHTTPRequestHandler) -> None:
    """Answer 200 and close in the middle of what was announced."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    request.close_connection = True


class Receiver:
    """Keeps what it gets in ``got``; answers with ``answer``, 204 unless told otherwise. A context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.answer: Answer = status(204)
        self.released = threading.Event()  # what a slow answer waits for
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                receiver.answer(self)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the sender has given up
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._scheme = "https" if tls else "http"
        self.asked: list[str | None] = []  # names that TLS clients asked for
        if tls is not None:
            tls.sni_callback = lambda _, name, __: self.asked.append(name)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    def slow(self, _: BaseHTTPRequestHandler) -> None:
        """Answer nothing until the test is over."""
        self.released.wait(60)

    def wait(self, count: int = 1, timeout: float = 30) -> list[Got]:
        wait_until(lambda: len(self.got) >= count, timeout, f"{count} webhooks")
        return self.got

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
