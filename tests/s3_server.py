"""A private S3 server for tests, in memory: moto's, and beside its API ``POST /_age?bucket=…&key=…`` to make an object a day older.

Run as ``python -m tests.s3_server PORT``, on the loopback address alone; it ends with whoever holds its standard input open.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_ACCOUNT = "123456789012"
_moto = DomainDispatcherApplication(create_backend_app)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request."""
    if environ["PATH_INFO"] != "/_age":
        return _moto(environ, start_response)
    asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    found = s3_backends[_ACCOUNT]["aws"].buckets[asked["bucket"]].keys[asked["key"]]
    found.last_modified -= timedelta(days=1)
    start_response("204 No Content", [])
    return []


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept
    server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
