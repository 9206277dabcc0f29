"""Probes of a real server: what stands in the way of an upload turns ``/readyz``, and its end turns it back."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx

from service.testing import Server
from tests.e2e.rig import serve, submit
from tests.http import NO_TLS
from tests.waiting import wait_until


def ready(server: Server) -> tuple[int, dict[str, str]]:
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        answer = http.get(f"{server.url}/readyz?verbose")
    return answer.status_code, answer.json()["checks"]


def test_a_service_that_is_told_to_stop_says_so_before_it_closes(tmp_path: Path) -> None:
    for workers in (1, 2):
        with serve(tmp_path / str(workers), workers=workers, shutdown_notice="60s") as server:
            assert ready(server)[0] == 200
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            status, checks = wait_until(lambda: (told := ready(server))[0] == 503 and told, what="503")
            assert (status, checks["draining"]) == (503, "yes")
            with httpx.Client(trust_env=False, verify=NO_TLS) as http:
                assert http.get(f"{server.url}/livez").status_code == 200
            submit(server, "nothing")  # whoever has not looked yet is still served
            began = time.monotonic()
            for pid in api(server):  # the second signal is heard at once
                os.kill(pid, signal.SIGTERM)
            server.process.wait(30)
            assert time.monotonic() - began < 30


def api(server: Server) -> list[int]:
    """Return the processes that serve HTTP."""
    found = []
    for pid in server.pids():
        with suppress(FileNotFoundError):  # an attempt that has ended since
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in command or (server.settings.get("workers") == 1 and b"serve" in command):
                found.append(pid)
    return found


def test_ready_turns_with_the_queue_and_back(tmp_path: Path) -> None:
    with serve(tmp_path, queue_limit=1, slots=1) as server:
        job = submit(server, "hang")
        assert ready(server) == (503, ready(server)[1])
        assert ready(server)[1]["queue"] == "full"
        with httpx.Client(trust_env=False, verify=NO_TLS) as http:
            assert http.get(f"{server.url}/livez").status_code == 200
            http.post(f"{server.url}/v1/jobs/{job}/cancel")
        wait_until(lambda: ready(server)[0] == 200, 10, "readiness within 10 s of the relief")


def test_ready_turns_with_the_disk_and_back(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        incoming = server.data_dir / "incoming"
        aside = incoming.with_name("aside")
        incoming.rename(aside)
        status, checks = ready(server)
        assert (status, checks["disk"]) == (503, "No such file or directory")
        aside.rename(incoming)
        wait_until(lambda: ready(server)[0] == 200, 10, "readiness within 10 s of the relief")


def test_alive_looks_at_nothing_outside(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.data_dir.rename(tmp_path / "gone")
        with httpx.Client(trust_env=False, verify=NO_TLS) as http:
            assert http.get(f"{server.url}/livez").status_code == 200
            assert http.get(f"{server.url}/readyz").status_code == 503
        (tmp_path / "gone").rename(server.data_dir)
