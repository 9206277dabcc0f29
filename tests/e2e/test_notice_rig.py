"""Ends of jobs while processes are killed around them: each subscribed end is told, under one id, and verifies.

What was promised is kept outside of the data directory: the ids that came with a 202. ``INTAKE_TEST_ROUNDS`` sets the rounds of
the long run, ``INTAKE_TEST_SEED`` repeats one.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest

from service.clock import utc_now
from service.notify.endpoints import FileEndpoints, new_endpoint
from service.testing import Server
from tests.e2e.rig import call, ended, gone, kill, post, processes, serve
from tests.receiver import Receiver
from tests.waiting import wait_until

TARGETS: Final = ("supervisors", "supervisors", "attempts", "zygotes", "api", "everything")
ORDERS: Final = ("say hello", "reject", "cancel")
EVENTS: Final = {"succeeded": "job.succeeded", "failed": "job.failed", "canceled": "job.canceled"}
LONGEST: Final = 0.5  #: seconds between an upload and a death: about when its job ends and is told


class Rig:
    """A server with one endpoint, and what it owes."""

    def __init__(self, folder: Path, receiver: Receiver, **options: object) -> None:
        settings = {"webhook_allow": "127.0.0.1/32", "max_attempts": 100, "crash_attempts": 100, **options}
        self.server: Server = serve(folder, **settings)
        self.receiver = receiver
        self.secret, endpoint = new_endpoint(receiver.url, utc_now()).rotated(utc_now(), timedelta(0))
        FileEndpoints(self.server.data_dir).put(endpoint)
        self.owed: list[str] = []

    def alive(self) -> Server:
        process = self.server.process
        return self.server if process is not None and process.poll() is None else self.server.start()

    def upload(self, orders: str) -> None:
        with contextlib.suppress(httpx.TransportError):
            answer = post(self.alive(), "say hello" if orders == "cancel" else orders)
            if answer.status_code == 202:
                self.owed.append(answer.json()["id"])
                if orders == "cancel":
                    call(self.server, "POST", f"/v1/jobs/{self.owed[-1]}/cancel")

    def strike(self, target: str) -> None:
        if target == "everything":
            self.server.kill()
            return
        struck = getattr(processes(self.server), target)
        kill(*struck)
        gone(*struck)  # or ``alive`` might take a server that is dying for one that will run the rest

    def settle(self) -> None:
        """Wait until every job has ended and nothing is waiting to be sent."""
        server = self.alive()
        for job_id in self.owed:
            ended(server, job_id, 120)
        outbox = server.data_dir / "outbox"
        pending = server.data_dir / "pending"
        try:
            wait_until(lambda: not list(pending.iterdir()) and not list(outbox.iterdir()), 120, "an empty outbox")
        except AssertionError as error:
            waits = [path.name for folder in (pending, outbox) for path in folder.iterdir()]
            records = {job_id: server.record(job_id) for job_id in waits}
            told = {job_id: (one["status"], one["notices"]) for job_id, one in records.items()}
            raise AssertionError(f"{error}; there are {told}; {server.log[-4000:]}") from None

    def judge(self) -> int:
        """Compare what was received with what is owed; return how many webhooks came more than once."""
        told = defaultdict(list)
        for got in list(self.receiver.got):
            told[got.verified(self.secret)["data"]["id"]].append(got)
        missing = [job_id for job_id in self.owed if job_id not in told]
        assert not missing, f"{len(missing)} of {len(self.owed)} ends were told to nobody"
        for job_id in self.owed:
            record = self.server.record(job_id)
            payloads = [got.verified(self.secret) for got in told[job_id]]
            assert len({got.id for got in told[job_id]}) == 1, job_id
            assert len({got.body for got in told[job_id]}) == 1, job_id
            assert {one["type"] for one in payloads} == {EVENTS[record["status"]]}
            assert [d["state"] for n in record["notices"] for d in n["deliveries"]] == ["delivered"]
        return sum(len(got) - 1 for got in told.values())


def rounds(rig: Rig, count: int, dice: random.Random) -> None:
    for _ in range(count):
        for _ in range(2):
            rig.upload(dice.choice(ORDERS))
        time.sleep(dice.uniform(0, LONGEST))
        rig.strike(dice.choice(TARGETS))
    rig.settle()


@pytest.fixture
def rig(tmp_path):
    with Receiver() as receiver:
        rig = Rig(tmp_path, receiver)
        try:
            yield rig
        finally:
            rig.server.__exit__()


def test_whatever_dies_around_the_end_of_a_job_it_is_told(rig):
    rounds(rig, 4, random.Random(1))
    assert rig.owed
    rig.judge()


@pytest.mark.parametrize("point", ["attempt.ended", "attempt.recorded", "notice.marked", "notice.sent"])
def test_a_death_at_each_point_between_an_end_and_its_delivery_loses_nothing(tmp_path, point):
    died = tmp_path / "died"
    with Receiver() as receiver:
        rig = Rig(tmp_path, receiver, faults=f"{point}=kill@{died}")
        try:
            rig.upload("say hello")
            rig.settle()
            assert died.exists()
            assert rig.judge() == (1 if point == "notice.sent" else 0)
        finally:
            rig.server.__exit__()


@pytest.mark.soak
def test_200_rounds_of_deaths_around_the_ends_of_jobs(rig):
    count = int(os.environ.get("INTAKE_TEST_ROUNDS", "200"))
    seed = int(os.environ.get("INTAKE_TEST_SEED", "20261122"))
    done, dice = 0, random.Random(seed)
    while done < count:  # judged in parts: the verifier takes nothing that is older than five minutes
        rounds(rig, min(20, count - done), dice)
        done += min(20, count - done)
        twice = rig.judge()
        print(f"{done} rounds, {len(rig.owed)} ends, {twice} told more than once, seed {seed}")  # noqa: T201
        rig.owed.clear()
        rig.receiver.got.clear()
