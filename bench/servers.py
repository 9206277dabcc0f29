"""Starting everybody as private processes on free loopback ports, below one folder on one file system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from bench.measure import tree
from service.testing import Server

READY_WITHIN = 30.0


class Missing(Exception):
    """A program that a peer needs is not here; the message says which package brings it."""


@dataclass(frozen=True)
class Running:
    """A competitor that serves."""

    name: str
    url: str
    durability: str  #: what its answer promises: ``sync`` or ``page cache``
    pids: Callable[[], list[int]]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)  #: with which commands act on the same data


def need(program: str, package: str) -> str:
    """Return the path of a program. Raises Missing."""
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        raise Missing(f"{program} is not here; Debian's package {package} brings it")
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ours(folder: Path, **settings: object) -> Iterator[Running]:
    """Start this service."""
    with Server(folder, **{"log_level": "warning", **settings}) as server:
        durability = "sync" if server.settings.get("durability", "sync") == "sync" else "page cache"
        yield Running("file-intake", server.url, durability, server.pids, server.data_dir, server.environment())
        server.kill()  # a benchmark waits for no drain


@contextmanager
def workers(us: Running, number: int) -> Iterator[None]:
    """Start so many ``intake worker`` beside this service; they count among its processes."""
    command = [sys.executable, "-P", "-m", "service.cli", "worker"]
    with ExitStack() as stack:
        for each in range(number):
            log = us.folder.parent / f"worker{each}.log"
            stack.enter_context(process(*command, environment=us.environment, log=log, ready=after(3)))
        yield


def after(seconds: float) -> Callable[[], bool]:
    """Return what holds so many seconds from now: for programs that do not say when they are ready."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@contextmanager
def process(
    *command: str, environment: Mapping[str, str] | None = None, log: Path, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program and wait until ``ready``; end it and its group afterwards."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + READY_WITHIN
        while not ready():
            if started.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield started
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(started.pid, number)
            with suppress(subprocess.TimeoutExpired):
                started.wait(5)


def listens(port: int) -> bool:
    """Tell whether somebody takes connections on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Tell whether there is an answer of any status."""
    try:
        urlopen(url, timeout=1).close()
    except URLError as error:
        return hasattr(error, "code")
    except OSError:
        return False
    return True


@contextmanager
def naive(folder: Path, *, workers: int = 1, **environment: str) -> Iterator[Running]:
    """Start the tutorial's service."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.peers.naive:app", "--port", str(port), "--no-access-log"]
    url = f"http://127.0.0.1:{port}"
    with process(
        *command,
        "--workers",
        str(workers),
        environment={"PEER_DIR": str(folder), **environment},
        log=folder.parent / "naive.log",
        ready=lambda: answers(f"{url}/docs"),
    ) as started:
        yield Running("tutorial", url, "page cache", lambda: tree(started.pid), folder)


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/temp; client_body_buffer_size 1m;
  proxy_temp_path {folder}/t1; fastcgi_temp_path {folder}/t2; uwsgi_temp_path {folder}/t3; scgi_temp_path {folder}/t4;
  server {{ listen 127.0.0.1:{port}; location / {{ root {folder}/files; dav_methods PUT; create_full_put_path on; }} }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[Running]:
    """Start nginx taking files by PUT: the limit for taking bytes."""
    program, port = need("nginx", "nginx-light"), free_port()
    (folder / "files").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(
        ("user root;" if os.geteuid() == 0 else "") + NGINX.format(folder=folder, port=port)
    )
    with process(
        program, "-c", str(folder / "nginx.conf"), log=folder / "nginx.log", ready=lambda: listens(port)
    ) as started:
        yield Running("nginx", f"http://127.0.0.1:{port}", "page cache", lambda: tree(started.pid), folder / "files")


@contextmanager
def tusd(folder: Path) -> Iterator[Running]:
    """Start tus' Node server, installed by npm on first use."""
    npm, node = need("npm", "npm"), need("node", "nodejs")
    home = folder / "tus"
    if not (home / "node_modules").exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"type": "module"}')
        subprocess.run([npm, "install", "--silent", "@tus/server", "@tus/file-store"], cwd=home, check=True)
    port = free_port()
    (home / "server.js").write_text(
        "import {Server} from '@tus/server'; import {FileStore} from '@tus/file-store';\n"
        f"new Server({{path: '/files', datastore: new FileStore({{directory: '{folder}/tus-files'}})}})"
        f".listen({{host: '127.0.0.1', port: {port}}});\n"
    )
    (folder / "tus-files").mkdir(exist_ok=True)
    with process(node, str(home / "server.js"), log=folder / "tus.log", ready=lambda: listens(port)) as started:
        url = f"http://127.0.0.1:{port}"
        yield Running("tus", url, "page cache", lambda: tree(started.pid), folder / "tus-files")


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Start a private Redis that keeps nothing on disk, and yield its URL."""
    program, port = need("redis-server", "redis-server"), free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with process(program, *arguments, log=folder / "redis.log", ready=lambda: listens(port)):
        yield f"redis://127.0.0.1:{port}/0"
