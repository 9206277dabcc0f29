"""Every storage operation of an accept, of an attempt and of its end, with every fault that a disk or a signal can make of it.

The short form takes a seeded sample; ``make shim`` takes all. ``INTAKE_TEST_SEED`` chooses another sample.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.e2e.rig import ENDS, get, leftovers, post, serve, supervisor
from tests.faults.shim import API, ATTEMPT, FAULTS, SUPERVISOR, Fault, Shim
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("gcc")

ORDERS = b"nothing " + b"x" * 4000 + b"\nwrite result.bin 3000"
ROLES = {"accept": API, "supervisor": SUPERVISOR, "attempt": ATTEMPT}
SETTINGS: dict[str, Any] = {"poll": "100ms", "retry_base": "10ms", "max_attempts": 50, "crash_attempts": 50}


class Trial:
    """One server under the shim, and what was found out."""

    def __init__(self, folder: Path) -> None:
        self.shim = Shim(folder, folder / "uploads")
        self.server = serve(
            folder, durability="sync", env=self.shim.environment, default_pipeline="checked", **SETTINGS
        )
        self.answers: Counter[str] = Counter()
        self.ids: dict[str, str] = {}  # of jobs by key
        self._number = 0

    def __enter__(self) -> Self:
        self.server.start()
        supervisor(self.server)
        self.upload_and_wait(self.key())  # what happens only the first time has happened
        return self

    def __exit__(self, *_: object) -> None:
        self.shim.disarm()
        self.server.__exit__()

    def key(self) -> str:
        self._number += 1
        return f"key-{self._number}"

    def count(self, role: int) -> list[str]:
        """Return the operations of one upload and its job, as far as they are this role's."""
        self.shim.count_only(role)
        self.upload_and_wait(self.key())
        trace = self.shim.trace
        self.shim.disarm()
        return trace

    def upload_and_wait(self, key: str) -> None:
        answer = post(self.server, ORDERS, key=key)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        assert self.ids.setdefault(key, job_id) == job_id, "a second job of the same key"
        self.wait(job_id)

    def wait(self, job_id: str) -> None:
        """Wait for the end of a job by its status, which is readable all the time."""

        def look() -> str | None:
            answer = get(self.server, f"/v1/jobs/{job_id}")
            assert answer.status_code == 200, answer.text
            status: str = answer.json()["status"]
            return status if status in ENDS else None

        assert wait_until(look, 40, f"the end of {job_id}") == "succeeded"

    def accept(self, number: int, fault: Fault) -> bool:
        """Upload a file with this fault in its way; return whether it was met."""
        key = self.key()
        self.shim.arm(API, number, fault)
        try:
            answer = post(self.server, ORDERS, key=key)
        except httpx.TransportError:
            assert fault.kills, "no answer"
            self.answers["killed"] += 1
        else:
            self.answers[str(answer.status_code)] += 1
            assert answer.status_code in (202, 503, 507), answer.text
            if answer.status_code == 202:
                self.ids[key] = answer.json()["id"]
        fired = self.shim.fired > 0
        if fault.kills and fired:
            assert self.server.process is not None
            self.server.process.wait(20)
            self.shim.disarm()
            self.server.start()
        self.shim.disarm()
        self.upload_and_wait(key)
        return fired

    def attempt(self, role: int, number: int, fault: Fault) -> bool:
        """Have a job run with this fault in its way; return whether it was met."""
        key = self.key()
        self.shim.arm(role, number, fault)
        answer = post(self.server, ORDERS, key=key)
        assert answer.status_code == 202, "whatever becomes of its job"
        job_id = self.ids[key] = answer.json()["id"]
        if fault.lasting:
            until = time.monotonic() + 0.5
            while time.monotonic() < until and get(self.server, f"/v1/jobs/{job_id}").json()["status"] not in ENDS:
                time.sleep(0.02)
            fired = self.shim.fired > 0
            self.shim.disarm()
            self.wait(job_id)
        else:
            self.wait(job_id)
            fired = self.shim.fired > 0
            self.shim.disarm()
        return fired

    def aftermath(self) -> None:
        """Require that nothing is left of all of it: no half job, no second one, nothing to sweep."""
        wait_until(lambda: get(self.server, "/readyz").json()["status"] == "ok", what="a healthy service")
        command = [sys.executable, "-P", "-m", "service.cli", "gc", "-q"]
        environment = self.server.environment() | {"LD_PRELOAD": ""}

        def is_tidy() -> bool:
            subprocess.run(command, env=environment, check=True, capture_output=True)
            return not leftovers(self.server)

        wait_until(is_tidy, 40, "a tidy data directory")
        folders = {folder.name: folder for folder in (self.server.data_dir / "jobs").glob("*/*/*/*")}
        assert set(folders) == set(self.ids.values())
        assert all((folder / "source").read_bytes() == ORDERS for folder in folders.values())
        assert not list((self.server.data_dir / "quarantine").iterdir())
        assert not re.findall(r"Traceback[^\n]*\n(?:[^\n]*\n)*?\w*Error[^\n]*", _unexpected(self.server.log))


def _unexpected(log: str) -> str:
    """Return the lines about requests that ended in an error nobody had thought of."""
    return "\n".join(line for line in log.splitlines() if "Exception in ASGI application" in line)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    with Trial(tmp_path) as trial:
        yield trial


def run(trial: Trial, what: str, pairs: list[tuple[int, Fault]]) -> int:
    fired = 0
    for number, fault in pairs:
        try:
            met = trial.accept(number, fault) if what == "accept" else trial.attempt(ROLES[what], number, fault)
        except Exception as error:
            error.add_note(f"operation {number} with {fault}: {trial.shim.trace[number - 1 : number]}")
            raise
        fired += met
    return fired


def test_a_fault_of_the_storage_is_told_as_one_and_harms_nothing(trial: Trial) -> None:
    chance = random.Random(int(os.environ.get("INTAKE_TEST_SEED", "") or 1))
    met = 0
    for what, sample in {"accept": 7, "supervisor": 4, "attempt": 2}.items():
        operations = trial.count(ROLES[what])
        assert len(operations) >= 10, operations
        numbers = range(1, len(operations) + 1)
        pairs = [(number, fault) for number in numbers for fault in FAULTS if not fault.kills]
        met += run(trial, what, chance.sample(pairs, sample))
    met += run(trial, "accept", [(chance.randrange(1, 20), next(fault for fault in FAULTS if fault.kills))])
    assert met >= 5
    trial.aftermath()


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("what", list(ROLES))
def test_every_fault_of_every_operation(trial: Trial, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    operations = trial.count(ROLES[what])
    numbers = range(1, len(operations) + 1)
    pairs = [(number, fault) for fault in FAULTS for number in numbers]
    fired = run(trial, what, pairs)
    trial.aftermath()
    with capsys.disabled():
        print(f"\n{what}: {len(operations)} operations, {len(pairs)} trials, {fired} faults met", end=", ")  # noqa: T201
        print(f"{dict(trial.answers)}, {time.monotonic() - began:.0f} s")  # noqa: T201 - for who runs it
        print("  " + "\n  ".join(operations))  # noqa: T201
