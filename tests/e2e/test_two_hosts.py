"""Two hosts without a shared folder: records and access in one database, bytes in one bucket, a data directory each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from service.access.model import Scope, new_token
from service.clock import utc_now
from service.errors import ConfigError
from service.notify.endpoints import new_endpoint
from service.settings import Settings
from service.testing import Server
from service.wiring import build
from tests.e2e.rig import ENDS, processes, running, serve, stopped
from tests.http import NO_TLS
from tests.postgres import PASSWORD
from tests.s3 import SECRET_KEY
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def url(postgres) -> str:
    return postgres.url(postgres.create_database("template"))


@pytest.fixture(scope="module")
def storage(s3) -> str:
    return f"s3://{s3.create_bucket()}/two?endpoint={s3.url}"


@pytest.fixture(scope="module")
def hosts(url, storage, tmp_path_factory) -> Iterator[list[Server]]:
    settings = {"records": url, "storage": storage, "durability": "none", "lease": "2s", "slots": 2, "timeout": 90}
    with ExitStack() as stack:
        yield [stack.enter_context(serve(tmp_path_factory.mktemp(name), **settings)) for name in ("one", "other")]


@pytest.fixture(scope="module")
def clients(hosts) -> Iterator[list[httpx.Client]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(httpx.Client(base_url=host.url, trust_env=False, verify=NO_TLS, timeout=60))
            for host in hosts
        ]


def submit(client: httpx.Client, orders: str) -> str:
    response = client.post("/v1/jobs?filename=orders.txt", content=orders.replace("; ", "\n").encode())
    assert response.status_code == 202, response.text
    return response.json()["id"]


def ended(client: httpx.Client, job_id: str) -> dict:
    def look() -> dict | None:
        document = client.get(f"/v1/jobs/{job_id}").json()
        return document if document["status"] in ENDS else None

    return wait_until(look, 90, f"the end of {job_id}")


def test_either_host_shows_what_the_other_has_taken(hosts, clients, s3):
    """Whoever runs it: each has a supervisor of its own, and both look at the same queue."""
    jobs = [submit(clients[number % 2], f"write out.txt {number + 1}") for number in range(6)]

    for number, job_id in enumerate(jobs):
        other = clients[(number + 1) % 2]
        document = ended(other, job_id)
        assert (document["status"], document["attempt"]) == ("succeeded", 1)
        (step,) = document["steps"]
        assert len(other.get(step["artifacts"][0]["href"]).content) == number + 1
        assert other.get(document["links"]["source"]).text == f"write out.txt {number + 1}"
    listed = [one["id"] for one in clients[0].get("/v1/jobs?limit=100").json()["items"]]
    assert set(jobs) <= set(listed)
    assert clients[1].delete(f"/v1/jobs/{jobs[0]}").status_code == 204
    assert clients[0].get(f"/v1/jobs/{jobs[0]}").status_code == 404
    assert not [path for host in hosts for path in host.data_dir.rglob("source")]


def test_a_host_that_dies_leaves_its_jobs_to_the_other(hosts, clients, tmp_path):
    one, _ = hosts
    gates = [tmp_path / str(number) for number in range(4)]
    jobs = [submit(clients[0], f"wait {gate}; write out.txt 5") for gate in gates]
    wait_until(
        lambda: all(clients[1].get(f"/v1/jobs/{job_id}").json()["status"] == "running" for job_id in jobs),
        90,
        "jobs on both hosts",
    )

    one.kill()
    for gate in gates:
        gate.touch()
    documents = [ended(clients[1], job_id) for job_id in jobs]
    one.start()

    assert [document["status"] for document in documents] == ["succeeded"] * 4
    assert {document["attempt"] for document in documents} == {1, 2}
    assert clients[0].get(f"/v1/jobs/{jobs[0]}").status_code == 200


def test_an_idle_host_leaves_the_attempts_of_the_other_alone(hosts, clients, tmp_path):
    """Also on one machine, where it sees their processes: that they run is no sign that somebody has forgotten them."""
    gates = [tmp_path / str(number) for number in range(2)]
    jobs = [submit(clients[0], f"wait {gate}") for gate in gates]
    wait_until(
        lambda: all(clients[1].get(f"/v1/jobs/{job_id}").json()["status"] == "running" for job_id in jobs), 90, "jobs"
    )
    looks = submit(clients[0], "pause 2")  # meanwhile whoever has a free slot looks at these jobs ten times

    assert ended(clients[1], looks)["status"] == "succeeded"
    for gate in gates:
        gate.touch()
    documents = [ended(clients[0], job_id) for job_id in jobs]
    assert [(one["status"], one["attempt"]) for one in documents] == [("succeeded", 1)] * 2
    assert not [host.log for host in hosts if "an orphaned attempt is ended" in host.log]


def test_a_host_that_was_stopped_for_longer_than_its_lease_changes_nothing_afterwards(hosts, clients, tmp_path):
    """Its job is run by the other, uncharged, and it sees so when it goes on."""
    go = tmp_path / "go"
    job_id = submit(clients[0], f"wait {go}; write out.txt 5")
    running(hosts[0], job_id, timeout=90)
    zombie = next(host for host in hosts if processes(host).attempts)
    noticed = zombie.log.count("the attempt was overtaken")

    with stopped(processes(zombie).supervisor):
        before = running(hosts[0], job_id, attempt=2, timeout=90)
    wait_until(lambda: zombie.log.count("the attempt was overtaken") > noticed, 90, "the zombie to notice")

    after = clients[0].get(f"/v1/jobs/{job_id}").json()
    assert (after["status"], after["attempt"], after["max_attempts"]) == ("running", 2, before["max_attempts"])
    go.touch()
    document = ended(clients[0], job_id)
    assert (document["status"], document["attempt"], document["max_attempts"]) == ("succeeded", 2, 4)
    assert clients[1].get(document["steps"][0]["artifacts"][0]["href"]).content == b"xxxxx"


def test_a_third_host_with_its_bytes_at_home_is_refused(hosts, url, storage, tmp_path):
    """So is one with its records at home, and one with other bytes."""
    common = {"data_dir": tmp_path / "third", "durability": "none"}
    with pytest.raises(ConfigError, match="belong to other bytes, those of s3://"):
        build(Settings.load(**common, records=url))
    with pytest.raises(ConfigError, match="its bytes belong to other records"):
        build(Settings.load(**common, storage=storage))
    with pytest.raises(ConfigError, match="belong to other bytes, those of s3://"):
        build(Settings.load(**common, records=url, storage=storage.replace("/two", "/three")))
    build(Settings.load(**common, records=url, storage=storage)).close()


def test_what_one_host_knows_of_tokens_links_and_webhooks_the_other_does(hosts, clients, url, storage, tmp_path):
    """Last, as the service is closed from its first token on."""
    settings = Settings.load(records=url, storage=storage, durability="none", data_dir=tmp_path / "admin")
    services = build(settings)
    text, kept = new_token("both", frozenset({Scope.ADMIN}), utc_now())
    services.tokens.add(kept)
    services.endpoints.put(new_endpoint("https://hooks.example.org", utc_now()))
    assert [client.get("/v1/jobs").status_code for client in clients] == [401, 401]
    for client in clients:
        client.headers["Authorization"] = f"Bearer {text}"
    assert [client.get("/v1/jobs").status_code for client in clients] == [200, 200]
    shown = [client.get("/v1/webhook-endpoints").json() for client in clients]
    assert shown[0] == shown[1]
    assert "hooks.example.org" in str(shown[0])

    made = clients[0].post("/v1/links", json={"upload": {"filename": "a.txt"}}).json()
    path = httpx.URL(made["url"]).raw_path.decode()
    sent = [
        httpx.put(host.url + path, content=b"nothing", trust_env=False, verify=NO_TLS, timeout=60)
        for host in hosts[::-1]
    ]
    assert [answer.status_code for answer in sent] == [202, 403], sent[1].text
    assert sent[1].json()["code"] == "link-used"
    services.tokens.change(kept.id, lambda token: token.revoked(utc_now()))
    assert [client.get("/v1/jobs").status_code for client in clients] == [401, 401]
    services.close()
    for host in hosts:
        assert PASSWORD not in host.log
        assert SECRET_KEY not in host.log
