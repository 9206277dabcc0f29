"""R13: processes that run jobs die at random under load, and every job still comes to one end.

Effects are counted by attempt: the line a step logs, which its supervisor writes with the attempt's number, and the artifact.
``make workers KILLS=500`` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.testing import Server
from tests.e2e.rig import ENDS, kill, leftovers, post, processes, serve
from tests.http import NO_TLS
from tests.waiting import wait_until

SETTINGS: Final[dict[str, Any]] = {"slots": 3, "retry_cap": "200ms", "log_format": "json", "queue_limit": 100_000}
AHEAD: Final = 12  #: jobs kept waiting, so that there always is somebody to kill
VICTIMS: Final = ("attempts",) * 15 + ("zygotes",) * 3 + ("supervisors",) * 2
ORDERS: Final = {"good": "say effect; write made.bin 50000; pause 0.1", "poison": "say effect; kill_itself"}


class Load(threading.Thread):
    """Keeps the queue filled, one poisoned file in ten, until it is told to stop."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__()
        self.jobs: dict[str, str] = {}
        self.stop = threading.Event()
        self._server = server
        self._chance = random.Random(seed)

    def run(self) -> None:
        pending = self._server.data_dir / "pending"
        while not self.stop.wait(0.02):
            while len(list(pending.iterdir())) < AHEAD and not self.stop.is_set():
                kind = "poison" if self._chance.random() < 0.1 else "good"
                answer = post(self._server, ORDERS[kind])
                assert answer.status_code == 202, answer.text
                self.jobs[answer.json()["id"]] = kind


def strike(server: Server, target: str, chance: random.Random) -> str:
    """Kill one process of this kind while an attempt is at work, and return the kind."""

    def look() -> list[int]:
        there = processes(server)
        return list(getattr(there, target)) if there.attempts else []

    found: list[int] = wait_until(look, 30, f"{target} at work")
    kill(chance.choice(found))
    return target


def effects(log: str) -> Counter[tuple[str, int]]:
    """Return how often each attempt of each job has told of its effect."""
    lines = [json.loads(line) for line in log.splitlines() if '"line": "effect"' in line or '"line":"effect"' in line]
    return Counter((line["job_id"], line["attempt"]) for line in lines)


def wrong(record: dict[str, Any], kind: str, told: Counter[tuple[str, int]], server: Server) -> str | None:
    """Return what is not as promised of a job; None if nothing is."""
    numbers = [attempt["number"] for attempt in record["attempts"]]
    reasons = Counter(attempt["reason"] for attempt in record["attempts"])
    made = [artifact["attempt"] for step in record["steps"] for artifact in step["artifacts"]]
    on_disk = [path.name for path in server.job_dir(record["id"]).glob("attempt-*/obey/made.bin")]
    charged = reasons["crashed"] + reasons["error"]
    if record["status"] not in ENDS:
        return f"is {record['status']}"
    if numbers != list(range(1, len(numbers) + 1)) or record["attempt"] != len(numbers):
        return f"attempts {numbers}"
    if charged > 2 or reasons["lost"] > 10 or not set(reasons) <= {"succeeded", "crashed", "lost", "interrupted"}:
        return f"ended as {dict(reasons)}"
    if (record["status"] == "failed") != (charged == 2):
        return f"is {record['status']} after {dict(reasons)}"
    if kind == "poison" and record["status"] != "failed":
        return "is poison, and succeeded"
    if any(told[record["id"], number] > 1 for number in numbers):
        return "an attempt has run twice"
    if record["status"] == "succeeded" and (len(made) != 1 or told[record["id"], made[0]] != 1 or len(on_disk) != 1):
        return f"has artifacts of {made}, on disk {on_disk}, told {told[record['id'], made[0]]} times"
    return None


def deaths(folder: Path, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTAKE_TEST_SEED", "") or 13)
    chance, began = random.Random(seed), time.monotonic()
    killed: Counter[str] = Counter()
    with serve(folder, **SETTINGS) as server:
        load = Load(server, seed)
        load.start()
        try:
            while sum(killed.values()) < kills:
                first = ["supervisors", "zygotes"][sum(killed.values()) :]  # however few there are
                killed[strike(server, first[0] if first else chance.choice(VICTIMS), chance)] += 1
                load.stop.wait(chance.uniform(0, 0.2))
        finally:
            load.stop.set()
            load.join()
        pending = server.data_dir / "pending"
        wait_until(lambda: not list(pending.iterdir()), 180, "an empty queue")
        with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
            assert http.get("/readyz").status_code == 200
        records = {job_id: server.record(job_id) for job_id in load.jobs}
        told = effects(server.log)
        broken = {
            job_id: what for job_id, kind in load.jobs.items() if (what := wrong(records[job_id], kind, told, server))
        }
        left, log = leftovers(server), server.log
    figures = {
        "seed": seed,
        "killed": dict(killed),
        "jobs": dict(Counter(load.jobs.values())),
        "ended": dict(Counter(record["status"] for record in records.values())),
        "attempts": dict(Counter(a["reason"] for record in records.values() for a in record["attempts"])),
        "most attempts of a job": max(record["attempt"] for record in records.values()),
        "effects told": sum(told.values()),
        "not as promised": len(broken),
        "seconds": round(time.monotonic() - began),
    }
    with capsys.disabled():
        print(f"\nworker deaths: {json.dumps(figures)}")  # noqa: T201 - for who runs it
    assert not broken, list(broken.items())[:5]
    assert not left
    assert "Traceback" not in log
    assert sum(told.values()) >= Counter(record["status"] for record in records.values())["succeeded"]


def test_r13_workers_that_die_lose_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deaths(tmp_path, 5, capsys)


@pytest.mark.soak
def test_r13_many_workers_die(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deaths(tmp_path, int(os.environ.get("INTAKE_TEST_KILLS", "") or 100), capsys)
