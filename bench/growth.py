"""What grows: polls and lists (P7), start and recovery (P9), jobs a second (P10), deleting what has expired (P11)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bench import servers
from bench.jobs import _ours, _upload_many
from bench.measure import cpu_seconds, quantile
from bench.report import Bench, Result
from bench.servers import Missing, Running
from bench.uploads import wrk_figures
from service.durable import Disk
from service.jobs.file_store import FileJobStore
from service.jobs.folders import job_folder
from service.jobs.model import FileInfo, Job, JobStatus, Step, StepStatus
from service.jobs.record import encode

_FEW: Final = 1000
_SHA: Final = "ab" * 32


def fill(root: Path, number: int, *, queued: bool = False, expires_at: datetime | None = None) -> list[str]:
    """Put so many jobs on disk without syncing, with their rows in the index; return the last ids. They are a second apart."""
    store = FileJobStore(root, disk=Disk(sync=False))
    made: list[str] = []

    def written() -> Iterator[Job]:
        folders: set[Path] = set()
        for job in _make(number, queued=queued, expires_at=expires_at):
            folder = job_folder(root, job.id)
            if folder.parent not in folders:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folders.add(folder.parent)
            folder.mkdir()
            (folder / "job.json").write_bytes(encode(job))
            (folder / "source").write_bytes(b"small\n")
            if queued:
                (root / "pending" / job.id).touch()
            made.append(job.id)
            yield job

    store.listing._index.put(written())
    store.listing._index.set_complete()
    store.close()
    return made[-100:]


def _make(number: int, *, queued: bool, expires_at: datetime | None) -> Iterator[Job]:
    now = datetime.now(UTC)
    steps = (
        Step(name="checksum", processor="checksum", status=StepStatus.WAITING if queued else StepStatus.SUCCEEDED),
    )
    file = FileInfo(name="a.txt", size=6, sha256=_SHA, media_type=None if queued else "text/plain")
    for count in range(number):
        created = now - timedelta(seconds=number - count)
        milliseconds = int(created.timestamp() * 1000)
        digits = f"{milliseconds:012x}7{count & 0xFFF:03x}8{count:015x}"
        job_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        yield Job(
            id=job_id,
            status=JobStatus.QUEUED if queued else JobStatus.SUCCEEDED if count % 10 else JobStatus.FAILED,
            created_at=created,
            finished_at=None if queued else created,
            expires_at=expires_at,
            file=file,
            pipeline="checksum",
            labels={"box": str(count % 20)},  # of each thousand 50 have failed and are in box 0
            steps=steps,
        )


def polls(bench: Bench) -> Result:
    """P7: polls of one job, the first page and a filtered page, by wrk over 16 connections."""
    many, seconds = (5000, 2) if bench.quick else (1_000_000, 8)
    result = Result(f"P7: status polls and lists, with {_FEW} and with {many} jobs on disk")
    wrk = servers.need("wrk", "wrk")
    with ExitStack() as stack:
        urls: dict[str, dict[str, str]] = {}
        for count in (_FEW, many):
            folder = bench.folder / str(count) / "uploads"
            ids = fill(folder, count)
            us = stack.enter_context(servers.ours(folder.parent, data_dir=folder, min_free="0"))
            urls[f"file-intake, {count} jobs"] = {
                "status poll": f"{us.url}/v1/jobs/{ids[50]}",
                "first page": f"{us.url}/v1/jobs?limit=50",
                "filtered page": f"{us.url}/v1/jobs?limit=50&status=failed&label.box=0",
            }
            if count == _FEW:
                two = stack.enter_context(servers.ours(folder.parent / "two", data_dir=folder, workers=2, min_free="0"))
                urls[f"file-intake, {count} jobs, two processes"] = {"status poll": f"{two.url}/v1/jobs/{ids[50]}"}
        tutorial = stack.enter_context(servers.naive(bench.folder / "naive"))
        (job,) = asyncio.run(_upload_many(f"{tutorial.url}/upload", 1))
        urls["tutorial"] = {"status poll": f"{tutorial.url}/status/{job['id']}"}
        for _ in range(bench.rounds):
            for who, pages in urls.items():
                for page, url in pages.items():
                    rate, p99 = wrk_figures(wrk, "-t1", "-c16", f"-d{seconds}s", "--timeout", "20s", "--latency", url)
                    result.add(f"{page}, requests/s", who, rate)
                    result.add(f"{page}, p99 ms", who, p99)
    few, lots = f"file-intake, {_FEW} jobs", f"file-intake, {many} jobs"
    rate = "status poll, requests/s"
    result.ratio("polls/s, ours / tutorial", result.of(rate, few), result.of(rate, "tutorial"), target=(">=", 2.0))
    two_rate = result.of(rate, f"{few}, two processes")
    result.ratio(
        "polls/s, ours with two processes / tutorial", two_rate, result.of(rate, "tutorial"), target=(">=", 2.0)
    )
    for page in ("status poll", "first page", "filtered page"):
        rates = result.of(f"{page}, requests/s", lots), result.of(f"{page}, requests/s", few)
        result.ratio(f"{page}/s, many / few", *rates, target=(">=", 0.9))
    return result


def start(bench: Bench) -> Result:
    """P9: from the command to the first 202; and with many jobs pending, until all have been claimable, 202s meanwhile."""
    pending = 2000 if bench.quick else 100_000
    result = Result(f"P9: start, and recovery with {pending} pending jobs")
    for number in range(bench.rounds):
        began = time.perf_counter()
        with servers.ours(bench.folder / f"empty{number}", min_free="0", default_pipeline="checksum") as us:
            asyncio.run(_upload_many(f"{us.url}/v1/jobs", 1))
            result.add("s to the first 202", "nothing pending", time.perf_counter() - began)
        root = bench.folder / f"full{number}" / "uploads"
        fill(root, pending, queued=True)
        began = time.perf_counter()
        settings = {"data_dir": root, "min_free": "0", "default_pipeline": "checksum", "queue_limit": 10 * pending}
        with servers.ours(root.parent, **settings) as us:
            asyncio.run(_upload_many(f"{us.url}/v1/jobs", 1))
            result.add("s to the first 202", f"{pending} pending", time.perf_counter() - began)
            while len(list((root / "pending").iterdir())) > pending - 20:
                time.sleep(0.01)
            result.add("s until jobs of the backlog have ended", f"{pending} pending", time.perf_counter() - began)
            result.add("p99 ms of a 202 meanwhile", f"{pending} pending", _p99(us, 50 if bench.quick else 300))
    result.bound("s to the first 202", result.of("s to the first 202", "nothing pending"), at_most=1.2)
    waited = result.of("s until jobs of the backlog have ended", f"{pending} pending")
    result.bound("s until jobs of the backlog have ended", waited, at_most=5)
    return result


def _p99(us: Running, number: int) -> float:
    import httpx

    taken = []
    with httpx.Client(trust_env=False, timeout=60) as http:
        for _ in range(number):
            began = time.perf_counter()
            http.post(f"{us.url}/v1/jobs?filename=a.txt", content=b"small\n").raise_for_status()
            taken.append(1000 * (time.perf_counter() - began))
    return quantile(taken, 0.99)


def growth(bench: Bench) -> Result:
    """P10: the same jobs with more and more finished ones on disk, by slots, and by workers of Celery."""
    counts, number = ((100, 1000), 50) if bench.quick else ((100, 10_000, 1_000_000), 500)
    result = Result("P10: jobs a second with finished jobs on disk, by slots, and by workers of Celery")
    with ExitStack() as stack:
        entrants = {}
        for finished, slots in [*((count, 2) for count in counts), (counts[0], 1)]:
            root = bench.folder / f"{finished}-{slots}" / "uploads"
            fill(root, finished)
            settings = {"data_dir": root, "slots": slots, "min_free": "0", "default_pipeline": "checksum"}
            entrants[finished, slots] = stack.enter_context(servers.ours(root.parent, **settings))
        for _ in range(bench.rounds):
            for (finished, slots), us in entrants.items():
                _run(result, us, f"{finished} finished, {slots} slots", number)
    try:
        _with_celery(result, bench, number)
    except Missing as missing:
        result.notes.append(f"Celery left out: {missing}")
    first = result.of("jobs/s", f"{counts[0]} finished, 2 slots")
    for count in counts[1:]:
        here = result.of("jobs/s", f"{count} finished, 2 slots")
        result.ratio(f"jobs/s, {count} finished / {counts[0]} finished", here, first, target=(">=", 0.9))
    one = result.of("jobs/s", f"{counts[0]} finished, 1 slots")
    result.ratio("jobs/s, two slots / one", first, one, target=(">=", 1.6))
    return result


def _run(result: Result, us: Running, who: str, number: int) -> None:
    before = cpu_seconds(us.pids())
    result.add("jobs/s", who, number / _ours(us, number))
    result.add("cpu ms a job", who, 1000 * (cpu_seconds(us.pids()) - before) / number)


def _with_celery(result: Result, bench: Bench, number: int) -> None:
    with servers.redis(bench.folder) as broker:
        settings = {"engine": "celery", "broker_url": broker, "data_shared": True, "slots": 1, "min_free": "0"}
        for _ in range(bench.rounds):
            for count in (1, 2, 4):
                folder = bench.folder / f"celery{count}"
                with servers.ours(folder, default_pipeline="checksum", **settings) as us, servers.workers(us, count):
                    _run(result, us, f"Celery, workers: {count}", number)
    one, two = (result.of("jobs/s", f"Celery, workers: {count}") for count in (1, 2))
    result.ratio("jobs/s, Celery, two workers / one", two, one, target=(">=", 1.6))


def gc(bench: Bench) -> Result:
    """P11: ``intake gc`` over expired jobs, and the latency of the 202 beside it."""
    number, within = (2000, 15) if bench.quick else (100_000, 150)
    result = Result(f"P11: deleting {number} expired jobs")
    for count in range(bench.rounds):
        root = bench.folder / f"gc{count}" / "uploads"
        until = datetime.now(UTC) + timedelta(seconds=within)  # housekeeping leaves them alone before that
        fill(root, number, expires_at=until)
        with servers.ours(root.parent, data_dir=root, min_free="0", retention="30d", default_pipeline="checksum") as us:
            _ours(us, 2)  # the start is over
            result.add("p99 ms of a 202, at rest", "file-intake", _p99(us, 200))
            time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()))
            began = time.perf_counter()
            environment = {**os.environ, "INTAKE_DATA_DIR": str(root), "INTAKE_RETENTION": "30d"}
            command = [sys.executable, "-m", "service.cli", "gc"]
            deleting = subprocess.Popen(  # in a session of its own, as cron and systemd would
                command, env=environment, stdout=subprocess.PIPE, start_new_session=True
            )
            result.add("p99 ms of a 202, meanwhile", "file-intake", _p99(us, 200))
            said, _ = deleting.communicate()
            assert deleting.returncode == 0, said
            seconds = time.perf_counter() - began
            result.add("jobs/s", "file-intake", number / seconds)
            result.notes.append(f"gc said: {said.decode().strip()}")
    result.ratio("jobs/s, of 2,000", result.of("jobs/s", "file-intake"), 2000, target=(">=", 1.0))
    meanwhile, at_rest = (result.of(f"p99 ms of a 202, {when}", "file-intake") for when in ("meanwhile", "at rest"))
    result.ratio("p99 of a 202, meanwhile / at rest", meanwhile, at_rest, target=("<=", 1.5))
    return result
