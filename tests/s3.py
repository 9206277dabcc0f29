"""An S3 server for tests as a private process, and what can go wrong on the way to it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import quote

import botocore.session
import httpx
from botocore.config import Config

from service.storage.address import BucketAddress
from service.storage.s3 import Bucket
from tests.http import NO_TLS
from tests.waiting import find_free_port, wait_until

ACCESS_KEY: Final = "AKIATESTTESTTEST"
SECRET_KEY: Final = "s3-s3cret-key"  #: tests look for it where it must not be
#: What whoever uses the server needs in its environment.
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class S3Server:
    """One server; ``url`` is its endpoint."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._bucket: Bucket | None = None
        session = botocore.session.Session()
        self.client: Any = session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"t{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return all keys of a bucket, and those of objects that are still sent in parts with a ``+`` behind them."""
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
        parts = self.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", ())
        return sorted([*(one["Key"] for one in found), *(f"{one['Key']}+" for one in parts)])

    def age(self, bucket: str, key: str) -> None:
        """Make an object a day older."""
        url = f"{self.url}/_age?bucket={bucket}&key={quote(key, safe='')}"
        httpx.post(url, trust_env=False, verify=NO_TLS, timeout=30).raise_for_status()

    def bucket(self, name: str, *, endpoint: str | None = None, prefix: str = "") -> Bucket:
        """Return a bucket of this server as the service has it, by way of ``endpoint``."""
        address = BucketAddress.parse(f"s3://{name}/{prefix}?endpoint={endpoint or self.url}")
        if endpoint is not None:
            return Bucket(address)
        if self._bucket is None:
            self._bucket = Bucket(address)
        bucket = copy(self._bucket)  # a client is slow to make, and knows of no bucket
        bucket.address = address
        return bucket


@contextmanager
def running() -> Iterator[S3Server]:
    """Run a server of its own."""
    port = find_free_port()
    command = [sys.executable, "-m", "tests.s3_server", str(port)]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=unmeasured) as process:
        try:
            wait_until(lambda: process.poll() is not None or _answers(port), 60, "moto")
            assert process.poll() is None, "moto has left"
            yield S3Server(port)
        finally:
            process.kill()


@dataclass
class Trouble:
    """What happens to requests on their way, and what has happened."""

    #: Asked of each request (method, path with query): None lets it pass; a number is the status of the answer;
    #: "lost" carries it out and loses the answer; "cut" sends the head of the answer and half of its body.
    judge: Callable[[str, str], int | str | None] = lambda method, path: None
    gate: threading.Event = field(default_factory=threading.Event)  #: requests wait for it
    seen: list[tuple[str, str]] = field(default_factory=list)


class Proxy:
    """A way to a server of HTTP on which things go wrong. It listens on a port of its own; ``stop`` and ``start`` keep that."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.trouble = Trouble()
        self.trouble.gate.set()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Take connections."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                proxy._carry(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - found by these names

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:  # a client that hung up is none
                pass

        self._server = Quiet(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections; those that stand are closed with their next request."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _carry(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.trouble.seen.append((handler.command, handler.path))
        verdict = self.trouble.judge(handler.command, handler.path)
        self.trouble.gate.wait()
        handler.close_connection = self._server is None or verdict in ("lost", "cut")
        if self._server is None:
            return
        if isinstance(verdict, int):
            told = b"<Error><Code>InternalError</Code><Message>a test wants it</Message></Error>"
            _answer(handler, verdict, {"Content-Length": str(len(told))}, told)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if verdict == "lost":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "server")}
        _answer(handler, answer.status, kept, data[: len(data) // 2] if verdict == "cut" else data)


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


@contextmanager
def proxy(server: S3Server) -> Iterator[Proxy]:
    """Run a proxy before a server."""
    way = Proxy(server.port)
    way.start()
    try:
        yield way
    finally:
        way.trouble.gate.set()
        way.stop()


def _answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False
