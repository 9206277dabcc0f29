"""Very many who wait at one process: all are told, soon, for little memory, and uploads go on beside them.

``make waiting`` runs it at length, with its figures: WAITERS=1000 requests that wait and STREAMS=200 event streams.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import uvloop

from service.testing import Server
from tests.integration.api import finished, go_on, holding, submit
from tests.integration.conftest import CONTROLLED, client
from tests.waiting import wait_until

if TYPE_CHECKING:
    import httpx

_UPLOADS = 200  #: whose answers are measured, idle and beside those who wait


class Crowd:
    """Requests that wait for the end of one job, and streams that follow it; when each was told."""

    def __init__(self, server: Server, path: str) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._address = (host, int(port))
        self._path = path
        self.open = 0
        self.told: list[float] = []

    async def wait(self) -> None:
        await self._ask(f"{self._path}?wait=300", b'"status":"succeeded"')

    async def follow(self) -> None:
        await self._ask(f"{self._path}/events", b"event: job.succeeded")

    async def _ask(self, target: str, mark: bytes) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await writer.drain()
            self.open += 1
            seen = b""
            while mark not in seen:
                piece = await reader.read(65536)
                assert piece, f"{target} ended with {seen[-200:]!r}"
                seen = seen[-100:] + piece
            self.told.append(time.time())
        finally:
            writer.close()


def crowd(server: Server, http: httpx.Client, waiters: int, streams: int) -> dict[str, float]:
    """Let so many wait for a job, upload beside them, end the job; return what was measured."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    job = holding(http)
    beforehand = uploaded(http)
    idle = process.memory_info().rss
    ends = Crowd(server, job["links"]["self"])

    async def scenario() -> tuple[int, list[float], float, float]:
        tasks = [asyncio.create_task(ends.wait()) for _ in range(waiters)]
        tasks += [asyncio.create_task(ends.follow()) for _ in range(streams)]
        while ends.open < waiters + streams:  # noqa: ASYNC110 - a test looks until a deadline of its own
            await asyncio.sleep(0.05)
        answers = await asyncio.to_thread(uploaded, http)  # by now all of them have been taken in
        crowded = process.memory_info().rss
        looking = sum(process.cpu_times()[:2])
        began = time.monotonic()
        await asyncio.sleep(2)
        share = (sum(process.cpu_times()[:2]) - looking) / (time.monotonic() - began)
        telling = sum(process.cpu_times()[:2])
        go_on(server, job)
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        return crowded, answers, share * 100, (sum(process.cpu_times()[:2]) - telling) * 1000

    crowded, beside, share, telling = uvloop.run(scenario())
    committed = (server.job_dir(job["id"]) / "job.json").stat().st_ctime  # when it took its name, and could be seen
    return {
        "waiters": waiters,
        "streams": streams,
        "rss_idle_mib": idle / 2**20,
        "rss_crowded_mib": crowded / 2**20,
        "kib_each": (crowded - idle) / 1024 / (waiters + streams),
        "p99_idle_ms": p99(beforehand),
        "p99_beside_ms": p99(beside),
        "median_idle_ms": statistics.median(beforehand) * 1000,
        "median_beside_ms": statistics.median(beside) * 1000,
        "cpu_percent": share,
        "cpu_telling_ms": telling,
        "first_told_ms": (min(ends.told) - committed) * 1000,
        "all_told_ms": (max(ends.told) - committed) * 1000,
        "told": len(ends.told),
    }


def uploaded(http: httpx.Client) -> list[float]:
    """Upload small files one after the other and return the seconds each 202 took."""
    seconds = []
    for number in range(_UPLOADS):
        began = time.perf_counter()
        submit(http, b"%d" % number)
        seconds.append(time.perf_counter() - began)
    wait_until(
        lambda: not http.get("/v1/jobs?status=queued").json()["items"], timeout=120, what="the queue to be empty"
    )
    return seconds


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99) - 1] * 1000


def test_all_who_wait_are_told_while_uploads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.test_many_waiting._UPLOADS", 5)
    with Server(tmp_path, **CONTROLLED, slots=2, max_wait="10m") as server, client(server) as http:
        found = crowd(server, http, 60, 20)
        assert found["told"] == 80
        assert found["kib_each"] < 1024
        finished(http, submit(http))


@pytest.mark.soak
def test_a_thousand_who_wait_are_told(tmp_path: Path) -> None:
    waiters, streams = (
        int(os.environ.get("INTAKE_TEST_WAITERS", "1000")),
        int(os.environ.get("INTAKE_TEST_STREAMS", "200")),
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    try:
        with Server(tmp_path, **CONTROLLED, slots=2, max_wait="10m") as server, client(server) as http:
            found = crowd(server, http, waiters, streams)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print("\n" + "\n".join(f"{name:18} {value:10.1f}" for name, value in found.items()))
    assert found["told"] == waiters + streams
    assert found["all_told_ms"] < float(os.environ.get("INTAKE_TEST_TOLD_WITHIN", "1000"))
    assert found["kib_each"] < 200
