"""Jobs: the latency of the 202 while processing is busy (P4), and how many get done a second (P5)."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench import servers
from bench.measure import quantile
from bench.report import Bench, Result
from bench.servers import Missing, Running

_RATE = 50  # uploads a second, whether the last one has been answered or not
_SMALL = b"x" * 10_240


def photo(width: int, height: int) -> bytes:
    """Return a JPEG with the detail of a photo."""
    noise = Image.effect_noise((width // 5, height // 5), 80).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    Image.merge("RGB", [noise, noise.transpose(Image.Transpose.ROTATE_180), noise]).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def latency(bench: Bench) -> Result:
    """P4: 10 KiB at 50 a second in an open loop, at rest and while every slot works at images of 40 megapixels."""
    seconds = 3 if bench.quick else 20
    result = Result("P4: latency of the 202 in milliseconds, 50 uploads a second, at rest and busy")
    image = photo(8000, 5000)
    for _ in range(bench.rounds):
        with ExitStack() as stack:
            us = stack.enter_context(servers.ours(bench.folder / "ours", slots=2, min_free="0"))
            tutorial = stack.enter_context(servers.naive(bench.folder / "naive"))
            _ours(us, 2)  # a start is not what is measured: supervisor and zygote come after the first 202
            for who, server, path, small, big in (
                ("file-intake", us, "/v1/jobs", {"pipeline": "checksum"}, {}),
                ("tutorial", tutorial, "/upload", {}, {}),
            ):
                if who == "file-intake" and bench.quick:
                    small = {}
                at_rest = asyncio.run(_open_loop(server.url + path, seconds, small))
                busy = asyncio.run(_open_loop(server.url + path, seconds, small, image=image, with_image=big))
                for name, taken in (("at rest", at_rest), ("busy", busy)):
                    result.add(f"p50 ms, {name}", who, 1000 * quantile(taken, 0.5))
                    result.add(f"p99 ms, {name}", who, 1000 * quantile(taken, 0.99))
    result.ratio(
        "p99, busy / at rest",
        result.of("p99 ms, busy", "file-intake"),
        result.of("p99 ms, at rest", "file-intake"),
        target=("<=", 2.0),
    )
    tutorial_ratio = result.of("p99 ms, busy", "tutorial") / result.of("p99 ms, at rest", "tutorial")
    result.notes.append(f"the tutorial's p99, busy / at rest: {tutorial_ratio:.1f}")
    return result


async def _open_loop(
    url: str,
    seconds: float,
    fields: dict[str, str],
    *,
    image: bytes | None = None,
    with_image: dict[str, str] | None = None,
) -> list[float]:
    taken: list[float] = []
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:

        async def upload(at: float) -> None:
            response = await http.post(url, files={"file": ("a.bin", _SMALL)}, data=fields)
            response.raise_for_status()
            taken.append(time.perf_counter() - at)

        async def keep_busy() -> None:
            while True:
                files = {"file": ("photo.jpg", image, "image/jpeg")}
                (await http.post(url, files=files, data=with_image)).raise_for_status()
                await asyncio.sleep(0.5)

        busy = [asyncio.create_task(keep_busy()) for _ in range(2 if image else 0)]
        if busy:
            await asyncio.sleep(3)
        began = time.perf_counter()
        tasks = []
        for number in range(int(seconds * _RATE)):
            due = began + number / _RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(upload(due)))
        await asyncio.gather(*tasks)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    return taken


def jobs(bench: Bench) -> Result:
    """P5: jobs a second from the first upload to the last end; hashing alone, two slots or workers for everybody."""
    number = 100 if bench.quick else 1000
    result = Result(f"P5: jobs a second, {number} files of 10 KiB, from the first upload until all are done")
    with ExitStack() as stack:
        us = stack.enter_context(
            servers.ours(bench.folder / "ours", slots=2, min_free="0", default_pipeline="checksum")
        )
        entrants: dict[str, Callable[[int], float]] = {"file-intake, durable": lambda count: _ours(us, count)}
        try:
            broker = stack.enter_context(servers.redis(bench.folder))
            entrants |= _queues(stack, bench.folder, broker)
        except (Missing, ImportError) as missing:
            result.notes.append(f"Celery, RQ and huey left out: {missing}")
        for _ in range(bench.rounds):
            for who, run in entrants.items():
                result.add("jobs/s", who, number / run(number))
    ours = result.of("jobs/s", "file-intake, durable")
    if "tutorial, then Celery" in entrants:
        result.ratio(
            "jobs/s, ours / tutorial with Celery",
            ours,
            result.of("jobs/s", "tutorial, then Celery"),
            target=(">=", 2.0),
        )
        result.ratio(
            "jobs/s, ours / Celery's empty task", ours, result.of("jobs/s", "Celery, empty task"), target=(">=", 1.0)
        )
    result.notes.append(
        "ours has a confined process for 64 such jobs, RQ one for every job; the others run all jobs in one, unconfined"
    )
    return result


def _ours(us: Running, number: int) -> float:
    began = time.perf_counter()
    asyncio.run(_upload_many(f"{us.url}/v1/jobs", number))
    pending = us.folder / "pending"
    while any(pending.iterdir()):
        time.sleep(0.01)
    return time.perf_counter() - began


async def _upload_many(url: str, number: int) -> list[Any]:
    left = iter(range(number))
    answers: list[Any] = []
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:

        async def work() -> None:
            for _ in left:
                response = await http.post(url, files={"file": ("a.bin", _SMALL)})
                response.raise_for_status()
                answers.append(response.json())

        await asyncio.gather(*[work() for _ in range(16)])
    return answers


def _queues(stack: ExitStack, folder: Path, broker: str) -> dict[str, Callable[[int], float]]:
    """Start workers of the peers and return how each of them is run."""
    import redis

    store = redis.Redis.from_url(broker)
    environment = {"PEER_BROKER": broker, "PEER_DIR": str(folder / "queued")}
    celery = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "bench.peers.tasks",
        "worker",
        "-c",
        "2",
        "--without-gossip",
        "-l",
        "WARNING",
    ]
    rq = [sys.executable, "-m", "rq.cli", "worker-pool", "-n", "2", "-u", broker, "-q"]
    huey = [sys.executable, "-m", "huey.bin.huey_consumer", "bench.peers.hueys.huey", "-w", "2", "-k", "process", "-q"]
    for name, command in (("celery", celery), ("rq", rq), ("huey", huey)):
        log = folder / f"{name}.log"
        stack.enter_context(servers.process(*command, environment=environment, log=log, ready=servers.after(3)))
    tutorial = stack.enter_context(servers.naive(folder / "queued", **environment, PEER_QUEUE="celery"))

    def until_ran(number: int, submit: Callable[[], None]) -> float:
        store.delete("ran")
        began = time.perf_counter()
        submit()
        while int(store.get("ran") or 0) < number:
            time.sleep(0.005)
        return time.perf_counter() - began

    def empty_celery(number: int) -> float:
        from celery import Celery

        app = Celery(broker=broker)
        return until_ran(number, lambda: [app.send_task("bench.peers.tasks.nothing") for _ in range(number)] and None)

    def empty_rq(number: int) -> float:
        from rq import Queue

        queue = Queue(connection=store)
        return until_ran(number, lambda: [queue.enqueue("bench.peers.hueys.count") for _ in range(number)] and None)

    def empty_huey(number: int) -> float:
        from huey import RedisHuey
        from huey.api import TaskWrapper

        from bench.peers.hueys import count

        task = TaskWrapper(RedisHuey("peers", url=broker, results=False), count, name="count")
        return until_ran(number, lambda: [task() for _ in range(number)] and None)

    def tutorial_with_celery(number: int) -> float:
        began = time.perf_counter()
        ids = [job["id"] for job in asyncio.run(_upload_many(f"{tutorial.url}/upload", number))]
        for job_id in ids:
            while b'"succeeded"' not in (tutorial.folder / f"{job_id}.json").read_bytes():
                time.sleep(0.005)
        return time.perf_counter() - began

    return {
        "tutorial, then Celery": tutorial_with_celery,
        "Celery, empty task": empty_celery,
        "RQ, empty task": empty_rq,
        "huey, empty task": empty_huey,
    }
