"""R23: the wall clock of a whole service jumps, by 30 s and by a year, forward and back, while jobs run, wait and lie there.

``make clock`` waits for housekeeping after each jump, too, which is what would delete.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from service.durable import is_locked
from service.testing import Server
from tests.e2e.rig import call, ended, get, post, processes, reasons, running, serve, submit, supervisor, tidy
from tests.faults.clock import ShiftedClock
from tests.waiting import wait_until

YEAR: Final = timedelta(days=365)
#: One after the other: they leave the clock where it was.
JUMPS: Final = (timedelta(seconds=30), timedelta(seconds=-30), YEAR, -YEAR)
SETTINGS: Final[dict[str, Any]] = {"slots": 3, "retention": "1h", "max_attempts": 2, "deadline": "60s"}


def moments(record: dict[str, Any]) -> list[datetime]:
    """Return what a record says of when, in the order in which it came to be."""
    told = [record["created_at"], *(move["at"] for move in record["moves"]), record["finished_at"]]
    tries = [attempt[name] for attempt in record["attempts"] for name in ("started_at", "ended_at")]
    assert all(datetime.fromisoformat(a) <= datetime.fromisoformat(b) for a, b in pairwise(tries)), tries
    return [datetime.fromisoformat(moment) for moment in told]


def housekeeping(server: Server) -> None:
    """Wait until all was looked at for what has expired, twice: the first look may have begun before the jump."""
    for name in ("one", "two"):
        (server.data_dir / "trash" / name).mkdir()
        wait_until(lambda: not list((server.data_dir / "trash").iterdir()), 90, "housekeeping")


def jump(server: Server, clock: ShiftedClock, by: timedelta, folder: Path, *, patient: bool) -> list[str]:
    """Put the clock by so much while there are jobs of all kinds; return the ids of those that have ended by then."""
    go, key = folder / "go", f"key {by}"
    go.unlink(missing_ok=True)
    done, keyed = submit(server, "nothing"), post(server, "nothing", key=key).json()["id"]
    ended(server, done)
    ended(server, keyed)
    at_work, waiting = submit(server, f"wait {go}"), submit(server, "later 1")
    running(server, at_work)
    wait_until(lambda: server.record(waiting)["retry_at"], what="a job that waits for its retry")
    before = processes(server)

    clock.jump(by)
    new = submit(server, "nothing")
    ended(server, new)
    assert ended(server, waiting)["attempt"] == 2
    assert reasons(server.record(waiting)) == ["retry", "retry"]
    assert post(server, "nothing", key=key).json()["id"] == keyed
    if patient:
        housekeeping(server)
    now = processes(server)
    assert (now.api, now.supervisors, now.attempts) == (before.api, before.supervisors, before.attempts)
    assert is_locked(server.job_dir(at_work) / "lease")
    assert server.record(at_work)["status"] == "running"
    assert get(server, "/readyz").status_code == 200
    go.touch()
    assert reasons(ended(server, at_work)) == ["succeeded"]
    return [done, keyed, at_work, waiting, new]


def jumps(folder: Path, capsys: pytest.CaptureFixture[str], *, patient: bool = False) -> None:
    clock = ShiftedClock(folder)
    jobs: list[str] = []
    with serve(folder, env=clock.environment, **SETTINGS) as server:
        supervisor(server)
        for by in (*JUMPS, -YEAR, YEAR) if patient else JUMPS:
            jobs += jump(server, clock, by, folder, patient=patient)
            stamp = datetime.fromisoformat(server.record(jobs[-1])["created_at"])
            assert abs(clock.now() - stamp) < timedelta(minutes=5), "the shim does nothing"
            gone = [job_id for job_id in jobs if get(server, f"/v1/jobs/{job_id}").status_code != 200]
            assert not gone, f"deleted after {by}"
        for job_id in jobs:
            told = moments(server.record(job_id))
            assert told == sorted(told), told
        assert call(server, "DELETE", f"/v1/jobs/{jobs[0]}").status_code == 204
        tidy(server)
        assert "Traceback" not in server.log
    with capsys.disabled():
        figures = {"jumps": [str(by) for by in JUMPS], "jobs": len(jobs), "deleted early": 0, "leases lost": 0}
        print(f"\nclock: {json.dumps(figures)}")  # noqa: T201 - for who runs it


def test_r23_a_clock_that_jumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jumps(tmp_path, capsys)


@pytest.mark.soak
def test_r23_a_clock_that_jumps_and_housekeeping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jumps(tmp_path, capsys, patient=True)
