"""The crash rig: rounds of uploads in parallel while processes are killed at random, then a look at every promise that was made.

A ledger outside of the data directory holds each id that came with a 202. ``INTAKE_TEST_ROUNDS`` sets the rounds of the long run
and ``INTAKE_TEST_SEED`` repeats one; both print what they found.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest
from PIL import Image

from service.testing import Server
from tests.e2e.rig import ENDS, get, gone, kill, leftovers, processes
from tests.http import NO_TLS
from tests.waiting import wait_until

UPLOADERS: Final = 4
UPLOADS: Final = 9  # of each uploader, in each round
SETTINGS: Final[dict[str, Any]] = {
    "slots": 2,
    "poll": "500ms",
    "retry_base": "200ms",
    "durability": "sync",
    "max_attempts": 100,  # a killed attempt is charged: here it is never the file's fault
    "crash_attempts": 100,
}
TARGETS: Final = ("api", "supervisors", "zygotes", "attempts", "everything")


@dataclass(frozen=True)
class File:
    """What is sent, and how."""

    name: str
    content: bytes
    key: str | None
    way: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Ledger:
    """What was promised: a line for each 202, on disk before anything else happens."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def enter(self, job_id: str, file: File, *, replayed: bool) -> None:
        line = {"id": job_id, "name": file.name, "sha256": file.sha256, "key": file.key, "replayed": replayed}
        with self._lock:
            self._file.write(json.dumps(line).encode() + b"\n")
            os.fsync(self._file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


class Rig:
    """A server, those who upload to it, and the one who kills it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.server = Server(folder / "server", **SETTINGS)
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._moment = threading.Event()  # never set: to wait for a time, which is what this is about

    def round(self, number: int) -> None:
        chance = random.Random(f"{self.seed}.{number}")
        with ThreadPoolExecutor(UPLOADERS) as pool:
            uploads = [pool.submit(self._upload_some, f"{self.seed}.{number}.{n}") for n in range(UPLOADERS)]
            for _ in range(chance.randint(1, 3)):
                self._moment.wait(chance.uniform(0, 0.5))
                self._strike(chance.choice(TARGETS))
            for upload in uploads:
                upload.result()

    def _strike(self, target: str) -> None:
        assert self.server.process is not None
        if target == "everything":
            self.server.kill()
        else:
            victims = self._victims(target)
            kill(*victims)
            if not victims:
                self.counts["found nothing to kill"] += 1
                return
        self.counts[f"killed {target}"] += 1
        if target in ("api", "everything"):
            gone(self.server.process.pid)
            self.server.process.wait()
            self.server.start()

    def _victims(self, target: str) -> list[int]:
        """Return the processes to kill; an attempt is so short that it has to be waited for."""
        give_up = time.monotonic() + 1
        while time.monotonic() < give_up:
            if victims := getattr(processes(self.server), target):
                return list(victims)
        return []

    def _upload_some(self, seed: str) -> None:
        chance = random.Random(seed)
        with httpx.Client(trust_env=False, verify=NO_TLS, timeout=20) as http:
            for number in range(UPLOADS):
                file = _file(chance, f"{seed}.{number}")
                self._upload(http, file)
                if file.key and chance.random() < 0.3:
                    self._upload(http, file)  # the same again: a client that did not believe it

    def _upload(self, http: httpx.Client, file: File) -> None:
        """Send a file; one with a key until there is an answer, one without but once."""
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                answer = http.send(_request(self.server.url, file))
            except httpx.TransportError:
                self._count("no answer")
            else:
                if answer.status_code == 202:
                    replayed = "Idempotency-Replayed" in answer.headers
                    self.ledger.enter(answer.json()["id"], file, replayed=replayed)
                    self._count("replayed" if replayed else "accepted")
                    return
                self._count(f"answered {answer.status_code}")
                assert answer.status_code in (409, 503), answer.text
            if file.key is None:
                return
            self._moment.wait(0.05)
        raise AssertionError(f"no answer for {file.name} in a minute")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def settle(self) -> None:
        """Wait until the queue is empty."""
        wait_until(lambda: get(self.server, "/readyz").json()["status"] == "ok", 30, "a healthy service")
        waiting = len(self._pending())
        wait_until(lambda: not self._pending(), 120 + waiting, f"an empty queue, after one of {waiting}")
        wait_until(lambda: not list((self.server.data_dir / "incoming").iterdir()), 60, "nothing in incoming/")

    def _pending(self) -> list[Path]:
        return list((self.server.data_dir / "pending").iterdir())

    def records(self) -> dict[str, dict[str, Any]]:
        folders = (self.server.data_dir / "jobs").glob("*/*/*/*")
        return {folder.name: self.server.record(folder.name) for folder in folders}


def _file(chance: random.Random, name: str) -> File:
    key = f"key-{name}" if chance.random() < 0.5 else None
    way = chance.choice(["raw", "form", "put"])
    kind = chance.random()
    if kind < 0.7:
        words = [chance.choice(["lorem", "ipsum", "dolor", name]) for _ in range(chance.randint(1, 2_000))]
        return File(f"{name}.txt", " ".join(words).encode(), key, way)
    if kind < 0.9:
        image = Image.effect_noise((chance.randint(40, 400), chance.randint(40, 400)), 60).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, chance.choice(["JPEG", "PNG", "WEBP"]))
        return File(f"{name}.image", buffer.getvalue(), key, way)
    return File(f"{name}.bin", chance.randbytes(chance.randint(1, 4_000_000)), key, way)


def _request(url: str, file: File) -> httpx.Request:
    headers = {"Idempotency-Key": f'"{file.key}"'} if file.key else {}
    if file.way == "form":
        return httpx.Request("POST", f"{url}/v1/jobs", files={"file": (file.name, file.content)}, headers=headers)
    if file.way == "put":
        return httpx.Request("PUT", f"{url}/v1/files/{file.name}", content=file.content, headers=headers)
    return httpx.Request("POST", f"{url}/v1/jobs?filename={file.name}", content=file.content, headers=headers)


def _broken(server: Server, promise: dict[str, Any], record: dict[str, Any] | None) -> str | None:
    """Return what is wrong with a job that was promised; None if nothing is."""
    if record is None:
        return "lost"
    if record["status"] != "succeeded":
        return f"{record['status']}: {record['error']}"
    folder, steps = server.job_dir(record["id"]), {step["name"]: step for step in record["steps"]}
    sums = {promise["sha256"], record["file"]["sha256"], steps["checksum"]["facts"]["sha256"]}
    sums.add(hashlib.sha256((folder / "source").read_bytes()).hexdigest())
    if len(sums) > 1:
        return "another file"
    for name, step in steps.items():
        if step["status"] not in ("succeeded", "skipped"):
            return f"step {name} has {step['status']}"
        for made in step["artifacts"]:
            path = folder / f"attempt-{made['attempt']}" / name / made["name"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != made["sha256"]:
                return f"artifact {name}/{made['name']} is not there"
    if promise["name"].endswith(".image") and not steps["image.previews"]["artifacts"]:
        return "no preview"
    if promise["name"].endswith(".txt") and steps["text.info"]["status"] != "succeeded":
        return "no facts of the text"
    return None


def _strays(server: Server, records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield what a job's folder need not have: it costs space, and goes when the job does."""
    for job_id, record in records.items():
        needed = {f"attempt-{made['attempt']}" for step in record["steps"] for made in step["artifacts"]}
        for path in server.job_dir(job_id).iterdir():
            if path.suffix == ".new" or (path.name.startswith("attempt-") and path.name not in needed):
                yield f"{job_id}/{path.name}"


def crash(folder: Path, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTAKE_TEST_SEED", "") or random.SystemRandom().randrange(10**6))
    began = time.monotonic()
    rig = Rig(folder, seed)
    with capsys.disabled():
        print(f"\ncrash rig: seed {seed}, {rounds} rounds of {UPLOADERS * UPLOADS} uploads")  # noqa: T201 - for who runs it
    with rig.ledger:
        try:
            rig.server.start()
            for number in range(rounds):
                rig.round(number)
            rig.settle()
            promises, records = rig.ledger.lines(), rig.records()
            broken = {p["id"]: what for p in promises if (what := _broken(rig.server, p, records.get(p["id"])))}
            unpromised = [record for job_id, record in records.items() if job_id not in {p["id"] for p in promises}]
            by_key: dict[str, set[str]] = {}
            for promise in promises:
                by_key.setdefault(promise["key"] or promise["id"], set()).add(promise["id"])
            keys = Counter(record["key"] for record in records.values() if record["key"])
            doubles = [key for key, number in keys.items() if number > 1]
            doubles += [key for key, ids in by_key.items() if len(ids) > 1]
            left = leftovers(rig.server)
            strays = list(_strays(rig.server, records))
            reasons = Counter(attempt["reason"] for record in records.values() for attempt in record["attempts"])
            rig.server.stop()
            survivors = rig.server.pids()
            problems = [line for line in rig.server.log.splitlines() if "Traceback" in line]
        finally:
            rig.server.kill()
    figures = {
        "seed": seed,
        "rounds": rounds,
        "promised": len({p["id"] for p in promises}),
        "lost or broken": len(broken),
        "duplicates": len(doubles),
        "left in incoming/, pending/ or without a record": len(left),
        "jobs nobody was told of, all of them whole": len(unpromised),
        "stray files in folders of jobs": len(strays),
        "processes left": len(survivors),
        "tracebacks in the log": len(problems),
        "seconds": round(time.monotonic() - began),
        **dict(sorted(rig.counts.items())),
        "attempts": dict(reasons),
    }
    with capsys.disabled():
        print(json.dumps(figures, indent=2))  # noqa: T201 - as above
    assert not broken
    assert not doubles
    assert not left
    assert not survivors
    assert not list((rig.server.data_dir / "quarantine").iterdir())
    assert all(record["status"] in ENDS for record in records.values())
    assert all(record["status"] == "succeeded" for record in unpromised)
    assert set(reasons) <= {"succeeded", "lost", "crashed", "interrupted"}


def test_no_promise_is_broken_by_kills_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crash(tmp_path, 5, capsys)


@pytest.mark.soak
def test_no_promise_is_broken_by_many_rounds_of_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crash(tmp_path, int(os.environ.get("INTAKE_TEST_ROUNDS", "") or 200), capsys)
