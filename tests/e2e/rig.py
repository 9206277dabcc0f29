"""What the tests of the engine share: servers with the obedient processor, uploads, records, and processes by their role."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from service.durable import is_locked
from service.testing import Server
from tests.http import NO_TLS
from tests.waiting import wait_until

HERE: Final = Path(__file__).parent
#: Settings of the servers: quick, and with the pipelines and processors of this folder.
SETTINGS: Final[dict[str, Any]] = {
    "processors_dir": HERE / "processors",
    "pipelines": HERE / "pipelines.toml",
    "default_pipeline": "obey",
    "slots": 2,
    "poll": "200ms",
    "retry_base": "50ms",
}
ENDS: Final = ("succeeded", "failed", "canceled")


def serve(folder: Path | None = None, **options: Any) -> Server:
    """Return a server that is not started yet."""
    return Server(folder, **SETTINGS | options)


def post(server: Server, orders: str | bytes, *, key: str | None = None, **query: str) -> httpx.Response:
    """Upload ``orders``, one a line or separated by semicolons, and return whatever is answered."""
    body = orders if isinstance(orders, bytes) else orders.replace("; ", "\n").encode()
    headers = {"Idempotency-Key": f'"{key}"'} if key else {}
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        params = {"filename": "orders.txt", **query}
        return http.post(f"{server.url}/v1/jobs", params=params, content=body, headers=headers)


def submit(server: Server, orders: str | bytes, *, key: str | None = None, **query: str) -> str:
    """Upload ``orders`` and return the id that came with the 202."""
    response = post(server, orders, key=key, **query)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def get(server: Server, path: str) -> httpx.Response:
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        return http.get(server.url + path)


def call(server: Server, method: str, path: str, **options: Any) -> httpx.Response:
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        return http.request(method, server.url + path, **options)


def ended(server: Server, job_id: str, timeout: float = 30) -> dict[str, Any]:
    """Wait for the end of a job and return its record."""

    def look() -> dict[str, Any] | None:
        record = server.record(job_id)
        return record if record["status"] in ENDS else None

    return wait_until(look, timeout, f"the end of {job_id}")


def running(server: Server, job_id: str, attempt: int = 1, timeout: float = 30) -> dict[str, Any]:
    """Wait until an attempt of the job is at work in its process, and return the document."""

    def look() -> dict[str, Any] | None:
        document: dict[str, Any] = get(server, f"/v1/jobs/{job_id}").json()
        at_work = document["status"] == "running" and document["attempt"] == attempt
        shown = any(step["progress"] for step in document["steps"])
        return document if at_work and shown else None

    return wait_until(look, timeout, f"attempt {attempt} of {job_id}")


def reasons(record: dict[str, Any]) -> list[str]:
    """Return how the attempts of a job ended, in their order."""
    return [attempt["reason"] for attempt in record["attempts"]]


def leftovers(server: Server) -> list[str]:
    """Return what should not be there once no job is waiting or running: names below the data directory."""
    root = server.data_dir
    found = [str(path.relative_to(root)) for name in ("incoming", "pending") for path in (root / name).iterdir()]
    folders = (root / "jobs").glob("*/*/*/*")
    return found + [str(folder.relative_to(root)) for folder in folders if not (folder / "job.json").exists()]


def tidy(server: Server, timeout: float = 15) -> None:
    """Wait until nothing is left over."""
    wait_until(lambda: not leftovers(server), timeout, "a tidy data directory")


@dataclass
class Processes:
    """The processes of a server by their role."""

    api: list[int] = field(default_factory=list)
    supervisors: list[int] = field(default_factory=list)
    zygotes: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)  #: what attempts have left behind

    @property
    def supervisor(self) -> int:
        (pid,) = self.supervisors
        return pid

    @property
    def zygote(self) -> int:
        (pid,) = self.zygotes
        return pid

    @property
    def attempt(self) -> int:
        (pid,) = self.attempts
        return pid


def processes(server: Server) -> Processes:
    """Return what runs for ``server`` at this moment."""
    found = Processes()
    commands: dict[int, str] = {}
    parents: dict[int, int] = {}
    leaders: set[int] = set()
    for pid in server.pids():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process = psutil.Process(pid)
            commands[pid], parents[pid] = " ".join(process.cmdline()), process.ppid()
            leaders |= {pid} if os.getsid(pid) == pid else set()
    runners = {pid for pid, command in commands.items() if "execution.supervisor" in command or "cli worker" in command}
    for pid, command in commands.items():
        if "service.execution.zygote" in command or "service.execution.child" in command:
            if pid in leaders:
                found.attempts.append(pid)  # each has a session of its own
            else:
                (found.zygotes if parents[pid] in runners else found.survivors).append(pid)
        elif pid in runners:
            found.supervisors.append(pid)
        elif "service.cli serve" in command or "multiprocessing" in command:
            found.api.append(pid)
    return found


@contextlib.contextmanager
def worker(server: Server, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``intake worker`` on the data directory of ``server``, logging to the same file; end it by SIGTERM."""
    environment = server.environment() | {f"INTAKE_{name.upper()}": str(value) for name, value in settings.items()}
    with (server.folder / "server.log").open("ab") as log:
        command = [sys.executable, "-P", "-m", "service.cli", "worker"]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def supervisor(server: Server, *, other_than: int = 0, timeout: float = 15) -> int:
    """Wait until a supervisor holds its place, and return its pid."""

    def look() -> int:
        held = is_locked(server.data_dir / "engine" / "supervisor.lock")
        found = [pid for pid in processes(server).supervisors if pid != other_than]
        return found[0] if held and found else 0

    return wait_until(look, timeout, "a supervisor")


def kill(*pids: int, number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def gone(*pids: int, timeout: float = 15) -> None:
    """Wait until none of these processes lives."""
    wait_until(lambda: not any(is_alive(pid) for pid in pids), timeout, f"the end of {pids}")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process (SIGSTOP), and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    try:
        yield
    finally:
        kill(pid, number=signal.SIGCONT)


def at_the_same_time(tasks: list[Callable[[], Any]], threads: int = 8) -> list[Any]:
    """Call all of them from some threads and return what they return, in their order."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]
