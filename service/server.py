"""Running the API: uvicorn with our settings, in one process or several that share a listening socket."""

from __future__ import annotations

import gc
import http.client
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess

from service import logs, telemetry
from service.access.opening import is_open, require_tokens_or_loopback
from service.durable import keep_private
from service.engine import require_engine
from service.kernel import keep_freed
from service.records import build_store
from service.settings import Settings
from service.shared import build_tokens
from service.wiring import load_catalogue

if TYPE_CHECKING:
    from fastapi import FastAPI

log = structlog.get_logger(__name__)
_READY_WITHIN: Final = 60.0
_KEPT: Final = 8 * 2**20  #: freed bytes that are kept: a few pieces of uploads
_FILES: Final = 65_536  #: open files asked for at most; some systems allow a billion, and libraries loop over them


def serve(settings: Settings, *, ready: str = "text") -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    ``ready`` is ``json`` for one line ``{"ready": true, "url": …}`` on stdout as soon as uploads are taken, ``text`` for a line for
    people, ``off`` for none. Raises ConfigError before anything listens.
    """
    logs.configure(settings)
    keep_private()
    _allow_files()
    telemetry.require(settings)
    load_catalogue(settings)  # a mistake stops the start here, with its own words, not within a worker
    require_engine(settings)
    tokens = build_tokens(settings)
    build_store(settings).close()
    require_tokens_or_loopback(settings, tokens)
    if is_open(settings, tokens):
        log.warning("there is no token: whoever reaches the address may do everything", host=settings.host)
    os.environ.update(settings.environment())  # workers and the supervisor are told the same
    config = uvicorn.Config(
        "service.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http="service.protocol:IntakeProtocol",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=settings.log_level == "debug",
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.drain.total_seconds()) + 5,
        backlog=2048,
    )
    try:
        listening = _listen(config)
    except OSError as error:
        log.error("cannot listen", host=settings.host, port=settings.port, error=error.strerror)
        return 1
    url = _url(settings.host, listening.getsockname()[1])
    if ready != "off":
        threading.Thread(target=_announce, args=(url, settings, _TELLERS[ready]), daemon=True).start()
    if settings.workers == 1:
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
        return 0 if server.started else 3
    Multiprocess(config, sockets=[listening]).run()
    return 0


def application() -> FastAPI:
    """Return the application of one API process, which goes by the settings in the environment.

    What is there by now stays: left out of garbage collections, it does not make each of them stop all answers for 0.1 s. And the
    memory in which bytes have arrived is kept for those that arrive next.
    """
    from service.app import create_app

    app = create_app()
    gc.freeze()
    keep_freed(_KEPT)
    return app


def _allow_files() -> None:
    """Raise the soft limit of open files to what the hard one allows: each connection is one, each upload one or two more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    with suppress(OSError, ValueError):  # macOS has a lower limit of its own and does not tell it
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(config: uvicorn.Config) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _announce(url: str, settings: Settings, tell: Callable[[str, Settings], None]) -> None:
    """Wait until the service itself says that it is ready, then say so."""
    until = time.monotonic() + _READY_WITHIN
    while time.monotonic() < until:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
            connection.request("GET", f"{settings.root_path}/livez")
            if connection.getresponse().status == 200:
                tell(url + settings.root_path, settings)
                return
        time.sleep(0.02)


def _tell_machine(url: str, _: Settings) -> None:
    sys.stdout.write(json.dumps({"ready": True, "url": url}) + "\n")
    sys.stdout.flush()


def _tell_people(url: str, settings: Settings) -> None:
    sys.stderr.write(
        f"\nReady at {url}, keeping files in {settings.bucket or settings.data_dir.resolve()}\n"
        f"  curl -F file=@photo.jpg {url}/v1/jobs\n"
        f"{_WHO[is_open(settings, build_tokens(settings))]} API docs: {url}/docs\n\n"
    )


_WHO: Final = {
    True: "Open: there is no token, so whoever reaches this address may do everything (`intake tokens create NAME`).",
    False: "Clients need a token (`intake tokens create NAME`).",
}
_TELLERS: Final = {"json": _tell_machine, "text": _tell_people}
