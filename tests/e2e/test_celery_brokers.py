"""The engine celery while brokers go, come back, hang and forget, and messages come twice: an API and a worker notice little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.testing import Server
from tests.brokers import PASSWORD, Broker, Rabbit
from tests.e2e.deployment import LONG, api, on, state, succeeded
from tests.e2e.rig import get, reasons, submit, worker
from tests.e2e.rig import running as at_work
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def pair(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give an API with a worker of its own to the tests that end neither."""
    broker.empty()
    with api(broker, tmp_path_factory.mktemp("pair")) as server, worker(server):
        wait_until(lambda: state(server) == "ok", LONG)
        yield server
        assert PASSWORD not in server.log


@on("rabbitmq")
def test_what_rabbitmq_gives_up_is_put_aside_and_its_job_runs(broker: Rabbit, pair: Server) -> None:
    """The first here: a RabbitMQ 3.10 that was killed comes back without a leader of the queue of what it gave up at times."""
    before = broker.dead()
    broker.send("nothing", task="somebody.elses")
    wait_until(lambda: broker.dead() == before + 1, LONG, "a dead message")
    succeeded(pair, submit(pair, "nothing"))


def test_messages_that_come_twice_or_make_no_sense_change_nothing(broker, pair, tmp_path):
    go = tmp_path / "go"
    job_id = submit(pair, f"wait {go}")
    at_work(pair, job_id)
    broker.send(job_id, 10)
    broker.send("nonsense")
    broker.send({"job": job_id})
    wait_until(lambda: pair.log.count("a message holds no id of a job") == 2, LONG)
    go.touch()
    succeeded(pair, job_id)
    broker.send(job_id, 10)
    succeeded(pair, submit(pair, "nothing"))
    assert reasons(pair.record(job_id)) == ["succeeded"]


def test_uploads_are_taken_while_the_broker_is_gone_and_run_once_it_is_back(broker, pair):
    with broker.away():
        ids = [submit(pair, "nothing") for _ in range(4)]
        wait_until(lambda: state(pair) == "degraded", LONG)
        assert get(pair, "/readyz").status_code == 200
    succeeded(pair, *ids)
    wait_until(lambda: state(pair) == "ok", LONG)


def test_uploads_are_taken_while_the_broker_hangs(broker, pair):
    with broker.hung():
        ids = [submit(pair, "nothing") for _ in range(4)]
        wait_until(lambda: state(pair) == "degraded", LONG)
        ids += [submit(pair, "nothing") for _ in range(4)]
    succeeded(pair, *ids)


def test_a_broker_that_is_started_anew_interrupts_no_attempt(broker, pair, tmp_path):
    go = tmp_path / "go"
    job_id = submit(pair, f"wait {go}")
    at_work(pair, job_id)
    with broker.away():
        pass
    succeeded(pair, submit(pair, "nothing"))
    go.touch()
    succeeded(pair, job_id)
