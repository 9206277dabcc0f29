"""Webhooks of a real service: whoever ends a job, those who asked are told, and can check who told them."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from service.testing import Server
from tests.e2e.rig import call, ended, get, post, running, serve, submit
from tests.http import NO_TLS
from tests.integration.api import problem
from tests.receiver import Receiver, status
from tests.waiting import wait_until

ALLOW = {"webhook_allow": "127.0.0.1/32"}


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path / "server", **ALLOW) as server:
        yield server


def intake(server: Server, *arguments: str, code: int = 0) -> str:
    """Run ``intake webhooks`` on the server's data directory and return what it prints."""
    command = [sys.executable, "-m", "service.cli", "webhooks", *arguments]
    done = subprocess.run(command, env=server.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


def add(server: Server, url: str) -> str:
    """Add a standing endpoint and return its secret."""
    answer = httpx.post(
        f"{server.url}/v1/webhook-endpoints", json={"url": url}, trust_env=False, verify=NO_TLS, timeout=30
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def delivered(server: Server, job_id: str) -> list[str]:
    """Wait until nothing of a job waits to be sent, and return what became of it."""

    def look():
        states = [d["state"] for n in server.record(job_id)["notices"] for d in n["deliveries"]]
        return states if states and "waiting" not in states else None

    return wait_until(look, 30, "the end of all deliveries")


def test_every_kind_of_end_is_told_by_the_worker_side(server, receiver):
    secret = add(server, receiver.url)
    good, bad = submit(server, "say hello"), submit(server, "reject")
    for job_id in (good, bad):
        ended(server, job_id)
    stuck = submit(server, f"wait {server.folder / 'never'}")
    running(server, stuck)
    call(server, "POST", f"/v1/jobs/{stuck}/cancel")
    ended(server, stuck)
    for job_id in (good, bad, stuck):
        assert delivered(server, job_id) == ["delivered"]
    told = {got.verified(secret)["data"]["id"]: got.verified(secret)["type"] for got in receiver.got}
    assert told == {good: "job.succeeded", bad: "job.failed", stuck: "job.canceled"}
    shown = get(server, f"/v1/jobs/{good}").json()
    assert next(got.verified(secret)["data"] for got in receiver.got if good in got.body.decode()) == shown
    wait_until(lambda: not list((server.data_dir / "outbox").iterdir()), what="an empty outbox")


def test_without_an_endpoint_nothing_is_written_for_the_outbox(server):
    job_id = submit(server, "say hello")
    ended(server, job_id)
    assert server.record(job_id)["notices"] == []
    assert list((server.data_dir / "outbox").iterdir()) == []
    assert not (server.data_dir / "webhooks").exists()


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """A server that makes callbacks, somebody who asks for them, and an administrator. Who adds an endpoint removes it."""
    with serve(tmp_path_factory.mktemp("asking"), callback_hosts="127.0.0.1", **ALLOW) as server:
        token, admin = server.token("jobs:write", "jobs:read"), server.token()
        with client(server, token) as user, client(server, admin) as operator:
            yield server, user, operator


def client(server: Server, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, verify=NO_TLS, timeout=30
    )


def test_the_command_line_and_the_client_name_who_is_told(asking, receiver, tmp_path):
    server, user, _ = asking
    secret, token = user.post("/v1/callback-secret").json()["secret"], user.headers["Authorization"].split()[1]
    (tmp_path / "a.txt").write_text("say hello")
    arguments = ("upload", tmp_path / "a.txt", "--callback-url", f"{receiver.url}?a=1&b=2", "-q", "-o", "id")
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    environment = server.environment() | {"INTAKE_SERVER": server.url, "INTAKE_TOKEN": token}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with server.client(token=token) as ours:
        job = ours.submit(b"say hello", name="b.txt", callback_url=receiver.url)
    told = {got.verified(secret)["data"]["id"]: got.path for got in receiver.wait(2)}
    assert told == {done.stdout.strip(): "/hook?a=1&b=2", job.id: "/hook"}


@pytest.mark.parametrize("form", ["form", "raw", "put"])
def test_an_upload_names_who_is_told_in_every_form_of_it(asking, receiver, form):
    server, user, _ = asking
    secret = user.post("/v1/callback-secret").json()["secret"]
    url, orders = f"{receiver.url}?a=1&b=2", b"say hello"
    if form == "form":
        taken = user.post("/v1/jobs", files={"file": orders}, data={"callback_url": url})
    elif form == "raw":
        taken = user.post("/v1/jobs", params={"filename": "a.txt", "callback_url": url}, content=orders)
    else:
        taken = user.put("/v1/files/a.txt", params={"callback_url": url}, content=orders)
    assert taken.status_code == 202, taken.text
    job_id = taken.json()["id"]
    assert receiver.wait(1)[0].verified(secret)["data"]["id"] == job_id
    assert receiver.got[0].path == "/hook?a=1&b=2"
    assert delivered(server, job_id) == ["delivered"]
    (notice,) = user.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
    assert notice["id"] == receiver.got[0].id
    assert notice["deliveries"][0]["address"] == url
    assert notice["deliveries"][0]["log"][0]["status"] == 204
    assert "callback_url" not in user.get(f"/v1/jobs/{job_id}").json()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://10.0.0.1/", "callback-refused"),
        ("http://hooks.example.org/", "callback-refused"),
        ("ftp://127.0.0.1/", "callback-refused"),
        ("http://127.0.0.1/", "callback-secret-missing"),
    ],
)
def test_a_callback_that_cannot_be_made_is_refused_with_the_reason(asking, url, code):
    server, _, operator = asking  # whose own jobs have no secret
    answer = operator.post("/v1/jobs", params={"filename": "a.txt", "callback_url": url}, content=b"say hello")
    problem(answer, 422, code)
    wait_until(lambda: not list((server.data_dir / "incoming").iterdir()), what="nothing left behind")


def test_without_the_setting_there_are_no_callbacks(server):
    answer = post(server, "say hello", callback_url="https://hooks.example.org/")
    assert "INTAKE_CALLBACK_HOSTS" in problem(answer, 422, "callback-refused")["hint"]
    paths = get(server, "/openapi.json").json()["paths"]
    assert "callback_url" not in str(paths["/v1/jobs"])
    assert "callback_url" not in str(paths["/v1/files/{filename}"])


def test_the_same_key_with_another_callback_is_another_upload(asking, receiver):
    _, user, _ = asking
    user.post("/v1/callback-secret")
    send = {"content": b"say hello", "headers": {"Idempotency-Key": "another-callback"}}
    first = user.post("/v1/jobs", params={"filename": "a", "callback_url": receiver.url}, **send)
    again = user.post("/v1/jobs", params={"filename": "a", "callback_url": receiver.url}, **send)
    assert again.json()["id"] == first.json()["id"]
    problem(user.post("/v1/jobs", params={"filename": "a"}, **send), 422, "idempotency-key-reused")


def test_endpoints_are_managed_over_http_by_administrators(asking, receiver):
    server, user, operator = asking
    problem(user.get("/v1/webhook-endpoints"), 403, "insufficient-scope")
    made = operator.post("/v1/webhook-endpoints", json={"url": receiver.url, "events": ["job.failed"]})
    assert made.status_code == 201
    endpoint = made.json()
    fresh = operator.post(f"/v1/webhook-endpoints/{endpoint['id']}/rotate").json()["secret"]
    (listed,) = operator.get("/v1/webhook-endpoints").json()["items"]
    assert listed["url"] == receiver.url
    assert "secret" not in str(listed)
    assert "whsec_" not in operator.get("/v1/webhook-endpoints").text

    job_id = user.post("/v1/jobs", params={"filename": "a"}, content=b"reject").json()["id"]
    (got,) = receiver.wait(1)
    for secret in (fresh, endpoint["secret"]):
        assert got.verified(secret)["type"] == "job.failed"
    assert delivered(server, job_id) == ["delivered"]
    (notice,) = user.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
    assert notice["deliveries"][0]["to"] == endpoint["id"]
    assert notice["deliveries"][0]["address"] is None  # where an administrator has it sent is his own business

    assert operator.delete(f"/v1/webhook-endpoints/{endpoint['id']}").status_code == 204
    problem(operator.delete(f"/v1/webhook-endpoints/{endpoint['id']}"), 404, "not-found")
    problem(operator.post("/v1/webhook-endpoints/ep_none/rotate"), 404, "not-found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"url": "http://10.0.0.1/"}, "webhook-refused"),
        ({"url": "https://hooks.example.org/", "events": ["job.exploded"]}, "validation-error"),
        ({"url": 1}, "validation-error"),
        ({}, "validation-error"),
        ({"url": "https://hooks.example.org/", "more": 1}, "validation-error"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(asking, body, code):
    _, _, operator = asking
    problem(operator.post("/v1/webhook-endpoints", json=body), 422, code)


def test_what_was_sent_is_replayed_under_its_id(asking, receiver):
    server, user, _ = asking
    user.post("/v1/callback-secret")
    taken = user.post("/v1/jobs", params={"filename": "a", "callback_url": receiver.url}, content=b"say hello")
    job_id = taken.json()["id"]
    assert delivered(server, job_id) == ["delivered"]
    assert user.post(f"/v1/jobs/{job_id}/deliveries/replay").status_code == 202
    first, second = receiver.wait(2)
    assert first.id == second.id
    plain = user.post("/v1/jobs", params={"filename": "a"}, content=b"say hello").json()["id"]
    ended(server, plain)
    assert user.get(f"/v1/jobs/{plain}/deliveries").json() == {"items": []}
    problem(user.post(f"/v1/jobs/{plain}/deliveries/replay"), 409, "nothing-to-replay")


def test_nobody_sees_the_deliveries_of_others(asking, receiver):
    server, user, operator = asking
    endpoint = operator.post("/v1/webhook-endpoints", json={"url": receiver.url}).json()["id"]
    job_id = operator.post("/v1/jobs", params={"filename": "a"}, content=b"say hello").json()["id"]
    delivered(server, job_id)
    problem(user.get(f"/v1/jobs/{job_id}/deliveries"), 404, "job-not-found")
    problem(user.post(f"/v1/jobs/{job_id}/deliveries/replay"), 404, "job-not-found")
    operator.delete(f"/v1/webhook-endpoints/{endpoint}")


def test_the_command_line_adds_tests_rotates_replays_and_removes(server, receiver):
    (secret,) = intake(server, "add", receiver.url, "--events", "job.succeeded", "--description", "mine").splitlines()
    assert secret.startswith("whsec_")
    (listed,) = json.loads(intake(server, "list", "--output", "json"))
    assert (listed["url"], listed["description"], listed["events"]) == (receiver.url, "mine", ["job.succeeded"])
    intake(server, "test", listed["id"])
    assert receiver.got[0].verified(secret)["type"] == "webhook.ping"
    receiver.answer = status(500)
    fresh = intake(server, "rotate", listed["id"], "--keep", "0s").strip()
    intake(server, "test", listed["id"], code=1)
    with pytest.raises(WebhookVerificationError):
        receiver.got[-1].verified(secret)
    receiver.got[-1].verified(fresh)

    receiver.answer = status(410)  # ends the endpoint, and gives up what was to be sent
    job_id = submit(server, "say hello")
    assert delivered(server, job_id) == ["dead"]
    assert intake(server, "replay", "--dead", "--output", "id").split() == [job_id]
    assert delivered(server, job_id) == ["dead"]  # the endpoint is disabled: it is given up again, at once
    intake(server, "callback-secret")
    intake(server, "remove", listed["id"])
    assert intake(server, "list", "--output", "id") == ""

    written = (server.data_dir / "audit" / "audit.jsonl").read_text()
    lines = [line for line in map(json.loads, written.splitlines()) if "user" in line]
    assert [line["action"].partition(".")[2] for line in lines] == [
        *("create", "test", "rotate", "test", "replay", "secret", "delete")
    ]
    assert {line["endpoint"] for line in lines if "endpoint" in line} == {listed["id"], "cb_anybody"}
    assert [line["job_id"] for line in lines if line["action"] == "job.replay"] == [job_id]
    assert "whsec_" not in written


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("add http://10.0.0.1/", 2),
        ("add https://a.example/ --events x", 2),
        ("replay", 2),
        ("callback-secret ../../x", 2),
        ("test ep_none", 7),
        ("rotate ep_none", 7),
        ("remove ep_none", 7),
    ],
)
def test_the_command_line_says_what_is_wrong(tmp_path, arguments, code):
    intake(serve(tmp_path), *arguments.split(), code=code)


def test_secrets_are_readable_by_the_service_alone(tmp_path):
    server = serve(tmp_path)
    assert intake(server, "callback-secret", "0123456789").startswith("whsec_")
    folder = server.data_dir / "webhooks"
    assert folder.stat().st_mode & 0o077 == 0
    assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0]
