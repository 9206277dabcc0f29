"""Mutated requests over sockets against a real server: nothing is its fault, nothing stays, and the next request is fine.

A request that once made trouble is a file in ``tests/fuzz/findings`` and is sent first. ``make fuzz`` sends many more, from another
seed with ``SEED=…``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import httpx
import psutil
import pytest

from service.testing import Server
from tests.fuzz.mutations import SEEDS, requests
from tests.http import NO_TLS
from tests.integration.api import accepted
from tests.waiting import wait_until

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*.http"))
MIB = 2**20
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
COUNTED = re.compile(r'(?m)^intake_http_requests_total\{.*status="([0-9]{3})".*\} ([0-9.e+]+)$')
DELIBERATE = {503, 507}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
#: The server's settings: small bounds, so that the mutations meet them, and no syncs, so that the disk is not what is tested.
SETTINGS = {
    "max_upload": "64KiB",
    "durability": "none",
    "log_format": "json",
    "slots": 1,
    "header_timeout": "2s",
    "upload_idle": "2s",
}


async def exchange(url: str, sent: bytes, patience: float) -> bytes:
    """Send bytes and return what comes within ``patience`` seconds of silence."""
    host, port = url.removeprefix("http://").split(":")
    got = bytearray()
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        with contextlib.suppress(TimeoutError):
            while data := await asyncio.wait_for(reader.read(2**16), patience):
                got += data
    writer.transport.abort()
    return bytes(got)


async def fire(url: str, sent: Iterable[bytes], *, patience: float, at_once: int = 16) -> list[bytes]:
    """Send all of it, some at once, and return what was answered with a fault of the server."""
    bad: list[bytes] = []
    source = iter(sent)

    async def work() -> None:
        for data in source:
            found = [int(status) for status in STATUS.findall(await exchange(url, data, patience))]
            if any(status >= 500 and status not in DELIBERATE for status in found):
                bad.append(data)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return bad


def counted(server: Server) -> Counter[int]:
    """Return how often the server has answered with each status, whether or not anybody waited for it."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False, verify=NO_TLS, timeout=30).text
    found: Counter[int] = Counter()
    for status, number in COUNTED.findall(text):
        found[int(status)] += int(float(number))
    return found


def fuzz(server: Server, seed: int, count: int, *, patience: float) -> str:
    """Fuzz a server, check all that must hold, and return a line of figures."""
    assert server.process is not None
    api = psutil.Process(server.process.pid)
    asyncio.run(
        fire(
            server.url, [*(path.read_bytes() for path in FINDINGS), *SEEDS, *requests(seed + 1, 300)], patience=patience
        )
    )
    settled(server)
    descriptors, memory = api.num_fds(), api.memory_info().rss
    began = time.monotonic()
    bad = asyncio.run(fire(server.url, requests(seed, count), patience=patience))
    took = time.monotonic() - began
    assert not bad, f"seed {seed}: {len(bad)} requests were answered with 5xx, such as {bad[0]!r}"
    settled(server)
    statuses = counted(server)
    assert not {status for status in statuses if status >= 500} - DELIBERATE, statuses
    assert sum(statuses.values()) > count / 3, "most of them are answered, with or without somebody who waits for it"
    log = server.log
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert not (found := re.findall(r'.*"level": ?"(?:error|critical)".*', log)), found[:3]
    assert not (found := CONTROL.findall(log)), found[:10]
    wait_until(lambda: api.num_fds() <= descriptors + 2, timeout=30, what=f"descriptors to be {descriptors} again")
    grown = api.memory_info().rss - memory
    assert grown <= 50 * MIB, f"memory has grown by {grown / MIB:.0f} MiB"
    assert len(statuses) >= 5, statuses
    accepted(
        httpx.post(
            f"{server.url}/v1/jobs?pipeline=checksum", content=b"fine\n", trust_env=False, verify=NO_TLS, timeout=30
        )
    )
    shown = ", ".join(f"{status}: {number}" for status, number in sorted(statuses.items()))
    figures = f"memory {grown / MIB:+.1f} MiB, {api.num_fds()} descriptors open ({descriptors} before)"
    return f"seed {seed}: {count} requests in {took:.0f} s, {figures}; answers {shown}"


def settled(server: Server) -> None:
    """Wait until no connection is open and no upload is arriving."""
    assert server.process is not None
    api = psutil.Process(server.process.pid)
    wait_until(
        lambda: all(one.status == psutil.CONN_LISTEN for one in api.net_connections("tcp")),
        timeout=60,
        what="connections to end",
    )
    wait_until(lambda: not list((server.data_dir / "incoming").iterdir()), timeout=30, what="incoming/ to be empty")


def test_mutated_requests_are_nobodys_trouble(tmp_path: Path):
    with Server(tmp_path, queue_limit=1_000_000, **SETTINGS) as server:
        print(fuzz(server, 20261122, 1200, patience=0.05))


@pytest.mark.soak
@pytest.mark.fuzz
def test_r6_a_hundred_thousand_mutated_requests(tmp_path: Path):
    count, seed = (
        int(os.environ.get("INTAKE_TEST_ROUNDS", "100000")),
        int(os.environ.get("INTAKE_TEST_SEED", "20261122")),
    )
    with Server(tmp_path, queue_limit=200, **SETTINGS) as server:
        print("\n" + fuzz(server, seed, count, patience=0.05))


def test_requests_that_once_made_trouble_make_none(tmp_path: Path):
    assert FINDINGS
    with Server(tmp_path, **SETTINGS) as server:
        for path in FINDINGS:
            assert STATUS.match(asyncio.run(exchange(server.url, path.read_bytes(), 0.5))), path.name
        assert not {status for status in counted(server) if status >= 500}
        assert "Traceback" not in server.log
