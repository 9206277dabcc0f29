"""Many jobs through each fault, on each broker: every 202 ends well, once, and no fault costs a job one of its attempts.

An upload is refused only where records or bytes themselves cannot be had, with 503, and is sent again until it is taken.

Run by ``make brokers``; ``INTAKE_TEST_JOBS`` is the number of jobs for each fault.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from service.testing import Server
from tests.brokers import PASSWORD, Broker
from tests.e2e.deployment import once, records
from tests.e2e.rig import ENDS, at_the_same_time, get, post, serve, worker
from tests.postgres import PostgresServer
from tests.s3 import Proxy, S3Server, proxy
from tests.waiting import wait_until

JOBS: Final = int(os.environ.get("INTAKE_TEST_JOBS", "500"))
SEED: Final = int(os.environ.get("INTAKE_TEST_SEED", "1"))
_WORKERS: Final = 3
_PARTS: Final = 10  #: in which the jobs are sent; each is followed by the fault, or sent within it
pytestmark = [pytest.mark.soak, pytest.mark.needs("postgres")]


class Deployment:
    """An API, its workers and its servers; ``ids`` are those of all jobs it has taken."""

    def __init__(self, server: Server, broker: Broker, postgres: PostgresServer, way: Proxy, stack: ExitStack) -> None:
        self.server = server
        self.broker = broker
        self.postgres = postgres
        self.way = way  #: to the bucket, if bytes are in one
        self.random = random.Random(SEED)
        self.ids: list[str] = []
        self.slowest = 0.0
        self.refused = 0
        self._stack = stack
        self.workers = [self._start() for _ in range(_WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(worker(self.server, drain="100ms"))

    def send(self) -> None:
        """Upload a part of the jobs, some of them at the same time."""

        def one() -> tuple[str, float]:
            key = uuid.uuid4().hex
            while True:
                began = time.monotonic()
                answer = post(self.server, "pause 0.3; write out.txt 5", key=key)
                if answer.status_code == 202:
                    return answer.json()["id"], time.monotonic() - began
                assert (answer.status_code, answer.json()["code"]) in REFUSALS, answer.text
                self.refused += 1
                time.sleep(0.2)

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


def _records_restarted(here: Deployment) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(here.send)
        time.sleep(here.random.uniform(0, 1))
        here.postgres.restart()
        sending.result()


def _bytes_fail(here: Deployment) -> None:
    """Have three requests of ten fail, a third of them after they were done."""
    chance = here.random
    here.way.trouble.judge = lambda method, path: chance.choice((500, 503, "lost")) if chance.random() < 0.3 else None
    here.send()


def _bytes_slow(here: Deployment) -> None:
    """Have each request take up to a second longer."""
    here.way.trouble.judge = lambda method, path: time.sleep(here.random.random())
    here.send()


REFUSALS: Final = {(503, "records-unavailable"), (503, "storage-unavailable"), (503, "outcome-unknown")}
FAULTS: Final[dict[str, tuple[Callable[[Deployment], None], int]]] = {
    "worker killed": (_killed, _PARTS),
    "host killed": (_host_killed, _PARTS),
    "worker drained": (_drained, _PARTS),
    "broker killed": (_broker_killed, _PARTS // 2),
    "broker hung": (_broker_hung, _PARTS),
    "queues purged": (_purged, _PARTS),
    "messages doubled": (_doubled, _PARTS),
    "records restarted": (_records_restarted, _PARTS),
    "bytes fail": (_bytes_fail, _PARTS),
    "bytes slow": (_bytes_slow, _PARTS),
}
_IN_TRUTH: Final = ("records restarted", "bytes fail")  #: those that may have an upload refused


@pytest.mark.parametrize("fault", FAULTS)
def test_every_job_that_was_taken_succeeds_once(
    broker: Broker,
    fault: str,
    postgres: PostgresServer,
    records_url: str,
    s3: S3Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    with ExitStack() as stack:
        way = stack.enter_context(proxy(s3))
        if fault.startswith("bytes"):
            options["storage"] = f"s3://{s3.create_bucket()}?endpoint={way.url}"
        server = stack.enter_context(serve(tmp_path, **options))
        here = Deployment(server, broker, postgres, way, stack)
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
    assert not here.refused or fault in _IN_TRUTH
    again = sum(len(record["attempts"]) - 1 for record in found.values())
    with capsys.disabled():
        print(
            f"\n{broker.kind}, {fault}: {len(found)} jobs, {again} attempts lost or interrupted, "
            f"{here.refused} uploads refused, slowest upload {here.slowest:.2f} s, {time.monotonic() - began:.0f} s in all"
        )
