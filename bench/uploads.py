"""Uploads: the bytes of a big file (P1, P2), the rate of small ones (P3), memory (P8)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil

from bench import servers
from bench.measure import machine, measured, payload, run
from bench.report import Bench, Result
from bench.servers import Missing, Running

MIB = 2**20
_TUS = ["-H", "Tus-Resumable: 1.0.0", "-H", "Upload-Offset: 0", "-H", "Content-Type: application/offset+octet-stream"]
LUA = """
local body = {body}
wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
wrk.body = body
local bad = 0
function response(status) if status ~= 202 then bad = bad + 1; if bad < 3 then print("status " .. status) end end end
"""


def big(bench: Bench) -> Result:
    """P1 and P2: one big file at a time, ours durable and hashed, in turns with the others."""
    size = 64 * MIB if bench.quick else 1024 * MIB
    result = Result(f"P1, P2: an upload of {size // MIB} MiB")
    source = payload(bench.folder / "big.bin", size)
    with ExitStack() as stack:
        us = stack.enter_context(servers.ours(bench.folder / "ours", default_pipeline="checksum", min_free="0"))
        tutorial = stack.enter_context(servers.naive(bench.folder / "naive"))
        nginx = _if_there(stack, result, "nginx", servers.nginx(bench.folder / "nginx"))
        tus = _if_there(stack, result, "@tus/server", servers.tusd(bench.folder / "tus"))
        curls = {
            "ours, multipart": (us, ["-F", f"file=@{source}", f"{us.url}/v1/jobs"]),
            "ours, raw": (us, ["-T", str(source), f"{us.url}/v1/files/big.bin"]),
            "tutorial, multipart": (tutorial, ["-F", f"file=@{source}", f"{tutorial.url}/upload"]),
        }

        for number in range(bench.rounds):
            for who, (server, arguments) in curls.items():
                _upload(result, who, server, arguments)
            if nginx is not None:
                _with_nginx(result, nginx, source, number)
            if tus is not None:
                _upload(result, "tus", tus, ["-X", "PATCH", *_TUS, "-T", str(source), _tus_upload(tus, size)])
            for what, seconds in machine(bench.folder, source).items():
                result.add("the machine alone, s", what, seconds)
    for ours in ("ours, multipart", "ours, raw"):
        result.ratio(
            f"CPU, {ours} / tutorial",
            result.of("cpu s", ours),
            result.of("cpu s", "tutorial, multipart"),
            target=("<=", 0.4),
        )
        result.ratio(
            f"wall, {ours} / tutorial",
            result.of("wall s", ours),
            result.of("wall s", "tutorial, multipart"),
            target=("<=", 0.45),
        )
        if nginx is not None:
            limit = "nginx, then sync, then openssl"
            result.ratio(
                f"CPU, {ours} / {limit}", result.of("cpu s", ours), result.of("cpu s", limit), target=("<=", 1.15)
            )
            result.ratio(
                f"wall, {ours} / {limit}", result.of("wall s", ours), result.of("wall s", limit), target=("<=", 1.0)
            )
    result.notes.append(
        "tutorial, tus and nginx alone answer from the page cache and hash nothing; ours syncs and hashes"
    )
    result.notes.append(
        "CPU is that of all server processes until the answer; the job itself is run by the supervisor, later"
    )
    return result


def _if_there(stack: ExitStack, result: Result, name: str, server: AbstractContextManager[Running]) -> Running | None:
    try:
        return stack.enter_context(server)
    except (Missing, subprocess.CalledProcessError) as missing:
        result.notes.append(f"{name} left out: {missing}")
        return None


def _upload(result: Result, who: str, server: Running, arguments: list[str]) -> None:
    _settled(server)
    api = [server.pids()[0]]  # the process that takes the bytes
    with measured(lambda: api if who.startswith("ours") else server.pids()) as cost:
        run("curl", "-sS", "-f", "-o", "/dev/null", "-H", "Expect:", *arguments)
    result.add("wall s", who, cost.wall)
    result.add("cpu s", who, cost.cpu)
    result.add("memory growth MiB", who, cost.growth / MIB)


def _tus_upload(tus: Running, size: int) -> str:
    """Begin an upload by the tus protocol, version 1.0, and return its address."""
    command = ["curl", "-sSfi", "-X", "POST", *_TUS[:2], "-H", f"Upload-Length: {size}", f"{tus.url}/files"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.search(r"(?im)^location: (\S+)", said)[1]  # type: ignore[index]


def _with_nginx(result: Result, nginx: Running, source: Path, number: int) -> None:
    target = nginx.folder / f"{number}.bin"
    with measured(nginx.pids) as cost:
        run("curl", "-sS", "-f", "-o", "/dev/null", "-H", "Expect:", "-T", str(source), f"{nginx.url}/{target.name}")
    synced = run("sync", str(target))
    hashed = run("openssl", "dgst", "-sha256", str(target))
    target.unlink()
    result.add("wall s", "nginx alone", cost.wall)
    result.add("cpu s", "nginx alone", cost.cpu)
    result.add("wall s", "nginx, then sync, then openssl", cost.wall + synced[0] + hashed[0])
    result.add("cpu s", "nginx, then sync, then openssl", cost.cpu + synced[1] + hashed[1])


def _settled(server: Running) -> None:
    """Wait until nothing of the last round is being processed, and make room."""
    pending = server.folder / "pending"
    while pending.exists() and any(pending.iterdir()):
        time.sleep(0.05)
    subprocess.run(["find", str(server.folder), "-size", "+1M", "-delete"], check=False, capture_output=True)
    subprocess.run(["sync"], check=True)


def small(bench: Bench) -> Result:
    """P3: 10 KiB over 32 connections, by wrk; beside them a bare program with the same file operations."""
    seconds = 3 if bench.quick else 10
    result = Result("P3: uploads of 10 KiB over 32 connections, accepted a second")
    wrk = servers.need("wrk", "wrk")
    with ExitStack() as stack:
        settings = {"queue_limit": 10_000_000, "min_free": "0", "slots": 1, "default_pipeline": "checksum"}
        us = stack.enter_context(servers.ours(bench.folder / "ours", poll="1h", **settings))
        quick = stack.enter_context(servers.ours(bench.folder / "unsynced", poll="1h", durability="none", **settings))
        tutorial = stack.enter_context(servers.naive(bench.folder / "naive"))
        both = stack.enter_context(servers.ours(bench.folder / "two", poll="1h", workers=2, **settings))
        for server in (us, quick, both):  # what is measured is taking; processing has a subject of its own
            stack.enter_context(_without_supervisor(server))
        for _ in range(bench.rounds):
            for who, url, multipart in (
                ("ours, raw", f"{us.url}/v1/jobs?filename=a.bin", False),
                ("ours, multipart", f"{us.url}/v1/jobs", True),
                ("ours, multipart, two processes", f"{both.url}/v1/jobs", True),
                ("ours, raw, durability none", f"{quick.url}/v1/jobs?filename=a.bin", False),
                ("tutorial, multipart", f"{tutorial.url}/upload", True),
            ):
                rate, p99 = _wrk(wrk, url, seconds, multipart=multipart, folder=bench.folder)
                result.add("accepted/s", who, rate)
                result.add("p99 ms", who, p99)
            bare = subprocess.run(
                [sys.executable, "-m", "bench.peers.bare", str(bench.folder / "bare"), "32", str(seconds)],
                check=True,
                capture_output=True,
                text=True,
            )
            result.add("accepted/s", "bare file operations, 32 threads", float(bare.stdout))
    rate = result.of("accepted/s", "ours, multipart")
    result.ratio(
        "accepted/s, ours / tutorial", rate, result.of("accepted/s", "tutorial, multipart"), target=(">=", 1.5)
    )
    both_rate = result.of("accepted/s", "ours, multipart, two processes")
    result.ratio(
        "accepted/s, ours with two processes / tutorial",
        both_rate,
        result.of("accepted/s", "tutorial, multipart"),
        target=(">=", 1.5),
    )
    bare_rate = result.of("accepted/s", "bare file operations, 32 threads")
    result.ratio("accepted/s, ours / bare file operations", rate, bare_rate, target=(">=", 0.75))
    result.notes.append("the tutorial syncs nothing, so the same machine's page cache is its limit")
    return result


def _without_supervisor(server: Running) -> ExitStack:
    """Stop the supervisor with all it has, until the block is left."""
    others = [pid for pid in server.pids() if "service.execution" in " ".join(psutil.Process(pid).cmdline())]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    stack = ExitStack()
    stack.callback(lambda: [os.kill(pid, signal.SIGCONT) for pid in others])
    return stack


def _wrk(wrk: str, url: str, seconds: int, *, multipart: bool, folder: Path) -> tuple[float, float]:
    body = '"' + "x" * 10240 + '"'
    kind = "application/octet-stream"
    if multipart:
        kind = "multipart/form-data; boundary=xxBOUNDARYxx"
        head = '--xxBOUNDARYxx\\r\\nContent-Disposition: form-data; name=\\"file\\"; filename=\\"a.bin\\"\\r\\n\\r\\n'
        body = f'"{head}{"x" * 10240}\\r\\n--xxBOUNDARYxx--\\r\\n"'
    with tempfile.NamedTemporaryFile("w", suffix=".lua", dir=folder) as script:
        script.write(LUA.format(body=body, kind=kind))
        script.flush()
        return wrk_figures(wrk, "-t1", "-c32", f"-d{seconds}s", "--timeout", "20s", "--latency", "-s", script.name, url)


def wrk_figures(*command: str) -> tuple[float, float]:
    """Run wrk and return requests a second and the 99th hundredth in milliseconds. Raises on any answer that is not a success."""
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk had refusals:\n{said}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    return rate, float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def memory(bench: Bench) -> Result:
    """P8: resident memory over one file of 4 GiB, and with 300 slow uploads at once."""
    size, many = (128 * MIB, 50) if bench.quick else (4096 * MIB, 300)
    result = Result(f"P8: memory over {size // MIB} MiB, and over {many} slow uploads")
    source = payload(bench.folder / "huge.bin", size)
    for _ in range(bench.rounds):
        with servers.ours(bench.folder / "ours", max_upload="8GiB", min_free="0", default_pipeline="checksum") as us:
            run("curl", "-sS", "-f", "-o", "/dev/null", "-F", f"file=@{__file__}", f"{us.url}/v1/jobs")
            api = us.pids()[:1]
            with measured(lambda api=api: api) as cost:  # type: ignore[misc]
                run("curl", "-sS", "-f", "-o", "/dev/null", "-T", str(source), f"{us.url}/v1/files/huge.bin")
            result.add("growth MiB, one big file", "file-intake", cost.growth / MIB)
            _settled(us)
        with servers.ours(bench.folder / "slow", max_upload="8GiB", min_free="0", upload_min_rate="0") as us:
            with measured(us.pids) as cost:
                _trickle(us.url, many, seconds=4)
            result.add(f"all processes MiB, {many} slow uploads", "file-intake", cost.rss / MIB)
    source.unlink()
    result.bound("growth MiB, one big file", result.of("growth MiB, one big file", "file-intake"), at_most=16)
    name = f"all processes MiB, {many} slow uploads"
    result.bound(name, result.of(name, "file-intake"), at_most=120)
    return result


def _trickle(url: str, number: int, *, seconds: float) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/jobs?filename=s.bin HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000000\r\n\r\n".encode()
    connections = [socket.create_connection((host, int(port))) for _ in range(number)]
    for each in connections:
        each.sendall(head)
    pause, until = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < until:
        for each in connections:
            each.sendall(b"x" * 20_000)
        pause.wait(0.2)
    for each in connections:
        each.close()
