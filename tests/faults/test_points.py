"""Every named fault point is reached by the code that it is named for, dies there once, and costs no job."""

from __future__ import annotations

import ast
import contextlib
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

import service
from service.clock import utc_now
from service.faults import POINTS
from service.notify.endpoints import FileEndpoints, new_endpoint
from service.testing import Server
from tests.e2e.rig import post, serve, tidy
from tests.receiver import Receiver
from tests.waiting import wait_until


def reached() -> list[str]:
    """Return the points that the source reaches, as often as it does."""
    found = []
    for path in Path(service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.reach":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}: a point is named where it is reached"
                found.append(str(name.value))
    return found


def test_each_point_is_in_the_source() -> None:
    assert set(reached()) == set(POINTS)  # some once in each store


@pytest.mark.soak
def test_at_each_point_a_process_may_die_and_no_job_is_lost(tmp_path: Path) -> None:
    """One service, killed at each point once: whoever reaches it first dies, and makes a file of its name."""
    fired = tmp_path / "fired"
    fired.mkdir()
    armed = ",".join(f"{point}=kill@{fired / point}" for point in POINTS)
    with Receiver() as receiver:
        die_everywhere(tmp_path, armed, fired, receiver)


def die_everywhere(tmp_path: Path, armed: str, fired: Path, receiver: Receiver) -> None:
    server = serve(
        tmp_path, webhook_allow="127.0.0.1/32", faults=armed, max_attempts=50, crash_attempts=50, retry_base="10ms"
    )
    _, endpoint = new_endpoint(receiver.url, utc_now()).rotated(utc_now(), timedelta(0))
    FileEndpoints(server.data_dir).put(endpoint)
    ids: set[str] = set()

    def alive() -> Server:
        assert server.process is not None
        return server if server.process.poll() is None else server.start()

    def has_ended() -> bool:
        """Upload, again with the same key, until there is an answer and its job has ended."""
        with contextlib.suppress(httpx.TransportError):
            answer = post(alive(), "nothing", key="one")
            assert answer.status_code == 202, answer.text
            ids.add(answer.json()["id"])
            return bool(answer.json()["status"] == "succeeded")
        return False

    try:
        server.start()
        wait_until(has_ended, 100, "the end of the job")
        wait_until(lambda: (fired / "notice.sent").exists() and len(receiver.got) > 1, 100, "a notice sent twice")
        wait_until(lambda: not list((alive().data_dir / "outbox").iterdir()), 100, "an empty outbox")
        assert len({got.id for got in receiver.got}) == 1
        assert {path.name for path in fired.iterdir()} == set(POINTS)
        assert len(ids) == 1, "one key, one job"
        tidy(alive())
    finally:
        server.__exit__()
