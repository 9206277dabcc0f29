"""R15: a supervisor that was stopped (SIGSTOP) while another took its jobs over, and goes on, changes nothing of theirs.

Leases are locks that the kernel keeps, so a stopped process loses none by itself: the rig takes them away by removing the files
of both locks. Then it lets the zombie go on before or after its successor has ended. ``make zombies ZOMBIES=100`` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from service.testing import Server
from tests.e2e.rig import (
    ended,
    get,
    gone,
    kill,
    processes,
    reasons,
    running,
    serve,
    stopped,
    submit,
    supervisor,
    tidy,
    worker,
)  # fmt: skip
from tests.waiting import wait_until


def overtaken(server: Server) -> int:
    return server.log.count("the attempt was overtaken")


def zombie(server: Server, folder: Path, *, early: bool) -> str | None:
    """Have one job taken over, let the zombie go on, and return what is wrong then.

    ``early``: the zombie's own attempt has finished before the successor begins, and the zombie tells of it while that runs.
    """
    go, size = folder / "go", 1111
    go.unlink(missing_ok=True)
    job_id = submit(server, f"write made.bin {size}; wait {go}")
    running(server, job_id)
    before, noticed = processes(server), overtaken(server)
    (server.data_dir / "engine" / "supervisor.lock").unlink()
    (server.job_dir(job_id) / "lease").unlink()
    with stopped(before.supervisor):
        if early:
            go.touch()
            gone(before.attempt)
            go.unlink()
        successor = worker(server)
        process = successor.__enter__()
        running(server, job_id, attempt=2)
        if not early:
            go.touch()
            ended(server, job_id)
            gone(before.attempt)
        version = server.record(job_id)["version"]
    wait_until(
        lambda: overtaken(server) > noticed or server.record(job_id)["version"] != version, 30, "the zombie to notice"
    )
    wrong = None
    if early:
        record = server.record(job_id)
        if (record["status"], record["attempt"]) != ("running", 2):
            wrong = f"the zombie has made it {record['status']}, attempt {record['attempt']}"
        go.touch()
        ended(server, job_id)
    elif server.record(job_id)["version"] != version:
        wrong = "the zombie has changed the record"
    kill(before.supervisor)
    gone(before.supervisor)
    record = server.record(job_id)
    [artifact] = record["steps"][0]["artifacts"]
    answer = get(server, f"/v1/jobs/{job_id}/artifacts/obey/made.bin")
    if (reasons(record), artifact["attempt"], len(answer.content)) != (["lost", "succeeded"], 2, size):
        wrong = wrong or f"{reasons(record)}, artifact of {artifact['attempt']}, {len(answer.content)} bytes"
    successor.__exit__(None, None, None)
    assert process.poll() is not None
    return wrong


def zombies(folder: Path, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTAKE_TEST_SEED", "") or 15)
    chance, began = random.Random(seed), time.monotonic()
    counts: Counter[str] = Counter()
    wins = []
    with serve(folder, slots=1) as server:
        for _ in range(rounds):
            supervisor(server)
            early = rounds == 1 or chance.random() < 0.5  # alone, the one that the other tests have not
            counts["before its successor ended" if early else "after"] += 1
            if wrong := zombie(server, folder, early=early):
                wins.append(wrong)
        tidy(server)
    figures = {"seed": seed, "went on": dict(counts), "stale writes that won": len(wins)}
    with capsys.disabled():
        print(f"\nzombies: {json.dumps(figures | {'seconds': round(time.monotonic() - began)})}")  # noqa: T201 - for who runs it
    assert not wins, wins[:5]


def test_r15_a_zombie_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zombies(tmp_path, 1, capsys)


@pytest.mark.soak
def test_r15_many_zombies_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zombies(tmp_path, int(os.environ.get("INTAKE_TEST_ZOMBIES", "") or 20), capsys)
