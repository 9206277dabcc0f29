"""Many jobs through each fault, on each broker: every 202 ends well, once, and no fault costs a job one of its attempts.

Run by ``make brokers``; ``INTAKE_TEST_JOBS`` is the number of jobs for each fault.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from service.testing import Server
from tests.brokers import PASSWORD, Broker
from tests.e2e.deployment import once, records
from tests.e2e.rig import ENDS, at_the_same_time, get, serve, submit, worker
from tests.waiting import wait_until

JOBS: Final = int(os.environ.get("INTAKE_TEST_JOBS", "500"))
SEED: Final = int(os.environ.get("INTAKE_TEST_SEED", "1"))
_WORKERS: Final = 3
_PARTS: Final = 10  #: in which the jobs are sent; each is followed by the fault, or sent within it
pytestmark = [pytest.mark.soak, pytest.mark.needs("postgres")]


class Deployment:
    """An API, its workers and its broker; ``ids`` are those of all jobs it has taken."""

    def __init__(self, server: Server, broker: Broker, stack: ExitStack) -> None:
        self.server = server
        self.broker = broker
        self.random = random.Random(SEED)
        self.ids: list[str] = []
        self.slowest = 0.0
        self._stack = stack
        self.workers = [self._start() for _ in range(_WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(worker(self.server, drain="100ms"))

    def send(self) -> None:
        """Upload a part of the jobs, some of them at the same time."""

        def one() -> tuple[str, float]:
            began = time.monotonic()
            return submit(self.server, "pause 0.3; write out.txt 5"), time.monotonic() - began

        for job_id, took in at_the_same_time([one] * (JOBS // _PARTS), threads=4):
            self.ids.append(job_id)
            self.slowest = max(self.slowest, took)

    def end_worker(self, number: signal.Signals, *, whole: bool) -> None:
        """Signal a worker, or all processes of its group as when its machine is gone, and start another."""
        place = self.random.randrange(_WORKERS)
        process = self.workers[place]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if whole else process.send_signal(number)
        process.wait(60)
        self.workers[place] = self._start()


def _killed(here: Deployment) -> None:
    here.send()
    here.end_worker(signal.SIGKILL, whole=False)


def _host_killed(here: Deployment) -> None:
    here.send()
    here.end_worker(signal.SIGKILL, whole=True)


def _drained(here: Deployment) -> None:
    here.send()
    here.end_worker(signal.SIGTERM, whole=False)


def _broker_killed(here: Deployment) -> None:
    here.send()
    with here.broker.away():
        here.send()


def _broker_hung(here: Deployment) -> None:
    with here.broker.hung():
        here.send()


def _purged(here: Deployment) -> None:
    here.send()
    here.broker.empty()


def _doubled(here: Deployment) -> None:
    here.send()
    for job_id in here.ids[-JOBS // _PARTS :]:
        here.broker.send(job_id, 10)


FAULTS: Final[dict[str, tuple[Callable[[Deployment], None], int]]] = {
    "worker killed": (_killed, _PARTS),
    "host killed": (_host_killed, _PARTS),
    "worker drained": (_drained, _PARTS),
    "broker killed": (_broker_killed, _PARTS // 2),
    "broker hung": (_broker_hung, _PARTS),
    "queues purged": (_purged, _PARTS),
    "messages doubled": (_doubled, _PARTS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_job_that_was_taken_succeeds_once(
    broker: Broker, fault: str, records_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "broker"
    secret.write_text(broker.url)
    broker.empty()
    act, times = FAULTS[fault]
    options = {
        "engine": "celery",
        "broker_url_file": secret,
        "records": records_url,
        "lease": "3s",
        "durability": "none",
    }
    began = time.monotonic()
    with serve(tmp_path, **options) as server, ExitStack() as stack:
        here = Deployment(server, broker, stack)
        wait_until(lambda: get(server, "/readyz").json()["status"] == "ok", 120)
        for _ in range(times):
            act(here)
        wait_until(
            lambda: all(one["status"] in ENDS for one in records(records_url).values()), 600, "the end of all jobs"
        )
        found = records(records_url)
        log = server.log
    assert set(found) == set(here.ids)
    assert len(here.ids) == JOBS // _PARTS * _PARTS
    for record in found.values():
        once(record)
    assert PASSWORD not in log
    again = sum(len(record["attempts"]) - 1 for record in found.values())
    with capsys.disabled():
        print(
            f"\n{broker.kind}, {fault}: {len(found)} jobs, {again} attempts lost or interrupted, "
            f"slowest upload {here.slowest:.2f} s, {time.monotonic() - began:.0f} s in all"
        )
