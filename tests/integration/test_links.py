"""Signed links: one download or one upload for whoever has them, until they end, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from service.access.links import FileLinks, Link, signed, verify
from service.errors import Forbidden
from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, finished, problem, submit
from tests.integration.conftest import CONTROLLED
from tests.integration.test_access import Guarded, revoke
from tests.integration.traces import nothing_left
from tests.integration.wire import Wire
from tests.jobs import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPELINE = "checksum"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    settings = CONTROLLED | {"max_upload": "1MiB", "log_level": "debug"}
    with Server(tmp_path_factory.mktemp("links"), **settings) as server:
        made = Guarded(server)
        yield made
        made.close()


def link(http: httpx.Client, status: int = 201, **asked: Any) -> Any:
    answer = http.post("/v1/links", json=asked)
    assert answer.status_code == status, answer.text
    if status == 201:
        assert answer.headers["Location"] == answer.json()["url"]
        assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


def changed(url: str, **parameters: str | None) -> str:
    """Return the URL with parameters replaced, or, with None, left out."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | parameters
    return parts._replace(query=urlencode({name: value for name, value in query.items() if value is not None})).geturl()


def test_whoever_has_the_link_downloads_that_one_file(guarded: Guarded):
    job = finished(guarded.alice, submit(guarded.alice, b"the bytes\n"))
    made = link(guarded.alice, download=job["links"]["source"])
    assert made["method"] == "GET"
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    for _ in range(2):
        answer = guarded.nobody.get(made["url"])
        assert (answer.status_code, answer.content) == (200, b"the bytes\n")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "private" in answer.headers["Cache-Control"]
    assert guarded.nobody.head(made["url"]).status_code == 200
    assert guarded.nobody.get(made["url"], headers={"Range": "bytes=0-2"}).content == b"the"


def test_a_link_opens_nothing_else(guarded: Guarded):
    one, other = (finished(guarded.alice, submit(guarded.alice)) for _ in range(2))
    url = link(guarded.alice, download=one["links"]["source"])["url"]
    query = urlsplit(url).query
    problem(guarded.nobody.get(f"{other['links']['source']}?{query}"), 403, "link-invalid")
    problem(guarded.nobody.post(f"/v1/jobs?{query}", content=b"x"), 403, "link-invalid")
    for path in ("/v1/jobs", one["links"]["self"], "/v1/limits", "/metrics"):
        problem(guarded.nobody.get(f"{path}?{query}"), 401, "unauthorized")
    problem(guarded.nobody.delete(f"{one['links']['self']}?{query}"), 401, "unauthorized")


@pytest.mark.parametrize(
    "parameters",
    [
        {"exp": "99999999999"},
        {"exp": None},
        {"sub": None},
        {"sub": "aaaaaaaaaa"},
        {"kid": "00000000"},
        {"sig": ""},
        {"sig": "a" * 43},
        {"sig": "é"},
        {"more": "1"},
    ],
)
def test_a_link_that_was_changed_is_refused(guarded: Guarded, parameters: dict[str, str | None]):
    job = finished(guarded.alice, submit(guarded.alice))
    url = link(guarded.alice, download=job["links"]["source"])["url"]
    problem(guarded.nobody.get(changed(url, **parameters)), 403, "link-invalid")
    problem(guarded.nobody.get(url + "&sig=x"), 403, "link-invalid")


def test_a_link_ends_at_its_moment_and_cannot_be_made_longer_than_a_week():
    key = b"k" * 32
    made = Link(sub="aaaaaaaaaa", exp=int(NOON.timestamp()))
    query = parse_qsl(signed(key, "GET", "/v1/jobs/x/source", {}, made))
    assert verify(key, "GET", "/v1/jobs/x/source", query, NOON - timedelta(milliseconds=1)) == made
    assert verify(key, "HEAD", "/v1/jobs/x/source", reversed(query), NOON - timedelta(seconds=1)) == made
    for method, moment in (("GET", NOON), ("POST", NOON - timedelta(seconds=1))):
        with pytest.raises(Forbidden) as caught:
            verify(key, method, "/v1/jobs/x/source", query, moment)
        assert caught.value.problem == ("link-expired" if moment == NOON else "link-invalid")


def test_a_link_cannot_be_made_for_longer_than_a_week_or_for_what_is_no_download(guarded: Guarded):
    href = finished(guarded.alice, submit(guarded.alice))["links"]["source"]
    for asked in (
        {"download": href, "expires_in": 7 * 86400 + 1},
        {"download": href, "expires_in": 0},
        {"download": href, "upload": {}},
        {"download": href + "?x=1"},
        {"download": "/etc/passwd"},
        {"download": href + " "},
        {"upload": {"max_size": 0}},
        {"upload": {"filename": "../x"}},
        {"upload": {"filename": "a/b"}},
        {"upload": {"more": 1}},
        {"expires_in": 5},
        {},
    ):
        found = problem(guarded.alice.post("/v1/links", json=asked), 422, "validation-error")
        assert found["errors"]
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 10_000):
        problem(guarded.alice.post("/v1/links", content=body), 422, "validation-error")
    problem(guarded.alice.post("/v1/links", json={"upload": {"pipeline": "none"}}), 422, "unknown-pipeline")
    assert guarded.alice.post("/v1/links", content=bytes(20_000)).status_code == 413


def test_what_the_description_calls_a_download_is_looked_for(guarded: Guarded):
    """U+0085 is white space to Python's patterns, and none to those of JSON Schema."""
    link(guarded.alice, 404, download="/v1/jobs/none/artifacts/step/\x85")


def test_a_link_expires_over_http(guarded: Guarded):
    job = finished(guarded.alice, submit(guarded.alice))
    token_id = guarded.server.record(job["id"])["owner"]
    exp = int(datetime.now(UTC).timestamp()) - 1
    key = FileLinks(guarded.server.data_dir).key()
    query = signed(key, "GET", job["links"]["source"], {}, Link(sub=token_id, exp=exp))
    problem(guarded.nobody.get(f"{job['links']['source']}?{query}"), 403, "link-expired")


def test_only_who_may_do_it_can_give_it_away(guarded: Guarded):
    job = finished(guarded.alice, submit(guarded.alice))
    problem(guarded.nobody.post("/v1/links", json={"download": job["links"]["source"]}), 401, "unauthorized")
    problem(guarded.bob.post("/v1/links", json={"download": job["links"]["source"]}), 404, "job-not-found")
    reads, writes = guarded.client("jobs:read"), guarded.client("jobs:write")
    problem(reads.post("/v1/links", json={"upload": {}}), 403, "insufficient-scope")
    problem(writes.post("/v1/links", json={"download": job["links"]["source"]}), 403, "insufficient-scope")
    assert guarded.nobody.get(link(guarded.admin, download=job["links"]["source"])["url"]).status_code == 200


def test_a_token_and_a_link_at_once_are_one_too_many(guarded: Guarded):
    job = finished(guarded.alice, submit(guarded.alice))
    url = link(guarded.alice, download=job["links"]["source"])["url"]
    problem(guarded.alice.get(url), 400, "credentials-malformed")


def test_the_links_of_a_revoked_token_end_with_it(guarded: Guarded):
    one = guarded.client("jobs:read", "jobs:write")
    job = finished(one, submit(one))
    url = link(one, download=job["links"]["source"])["url"]
    upload = link(one, upload={})["url"]
    revoke(guarded.server, guarded.server.record(job["id"])["owner"])
    problem(guarded.nobody.get(url), 403, "link-invalid")
    problem(guarded.nobody.post(upload, content=b"x"), 403, "link-invalid")


@pytest.mark.parametrize("how", ["raw", "form", "put"])
def test_a_link_takes_one_file_for_whoever_made_it(guarded: Guarded, how: str):
    asked: dict[str, Any] = {"max_size": 100, "pipeline": PIPELINE} | (
        {"filename": "añb c.txt"} if how == "put" else {}
    )
    made = link(guarded.alice, upload=asked)
    assert made["method"] == ("PUT" if how == "put" else "POST")
    assert made["max_size"] == 100
    files = {"file": ("b.txt", b"one\n")}
    body: dict[str, Any] = {"files": files} if how == "form" else {"content": b"one\n"}
    job = accepted(guarded.nobody.request(made["method"], made["url"], **body))
    assert job["pipeline"] == PIPELINE
    if how == "put":
        assert job["file"]["name"] == "añb c.txt"
    assert finished(guarded.alice, job)["id"] == job["id"]
    problem(guarded.nobody.get(job["links"]["self"]), 401, "unauthorized")
    with nothing_left(guarded.server):
        problem(guarded.nobody.request(made["method"], made["url"], **body), 403, "link-used")
    assert guarded.alice.delete(job["links"]["self"]).status_code == 204
    problem(guarded.nobody.request(made["method"], made["url"], **body), 403, "link-used")


@pytest.mark.parametrize("wish", [{"callback_url": "https://a.example/"}, {"notify_email": "a@a.example"}])
def test_a_link_lets_nobody_say_who_is_told(guarded: Guarded, wish: dict[str, str]):
    url = link(guarded.alice, upload={})["url"]
    with nothing_left(guarded.server):
        problem(guarded.nobody.post(url, files={"file": b"x"}, data=wish), 422, "wish-by-link")


def test_an_upload_that_is_refused_leaves_its_link_good(guarded: Guarded):
    url = link(guarded.alice, upload={"max_size": 10, "pipeline": PIPELINE})["url"]
    with nothing_left(guarded.server):
        found = problem(guarded.nobody.post(url, content=bytes(11)), 413, "file-too-large")
        assert found["max_size"] == 10
        problem(guarded.nobody.post(url, content=iter([bytes(11)])), 413, "file-too-large")
        problem(guarded.nobody.post(url, content=b""), 422, "empty-file")
        problem(guarded.nobody.post(url, files={"file": b"x"}, data={"pipeline": "hold"}), 422, "validation-error")
    accepted(guarded.nobody.post(url, content=bytes(10)))


def test_a_link_that_is_no_good_is_refused_before_the_body(guarded: Guarded):
    url = link(guarded.alice, upload={"max_size": 10})["url"]
    wrong = [(changed(url, max_size="1000000"), 5, 403), (url, 11, 413)]
    for path, size, status in wrong:
        with nothing_left(guarded.server), Wire(guarded.server.url) as wire:
            wire.begin("POST", path, content_length=size, expect="100-continue")
            assert wire.socket.recv(12) == f"HTTP/1.1 {status}".encode()


def test_a_link_whose_note_was_lost_still_makes_one_job(guarded: Guarded):
    url = link(guarded.alice, upload={})["url"]
    accepted(guarded.nobody.post(url, content=b"x"))
    for path in (guarded.server.data_dir / "access" / "spent").iterdir():
        path.unlink()
    problem(guarded.nobody.post(url, content=b"x"), 403, "link-used")


def test_no_signature_is_in_the_log_and_the_key_is_private(guarded: Guarded):
    job = finished(guarded.alice, submit(guarded.alice))
    url = link(guarded.alice, download=job["links"]["source"])["url"]
    assert guarded.nobody.get(url).status_code == 200
    signature = dict(parse_qsl(urlsplit(url).query))["sig"]
    assert f"GET {job['links']['source']}" in guarded.server.log  # the access log is on
    assert signature not in guarded.server.log
    key = guarded.server.data_dir / "access" / "links.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}", key.read_text())
    assert key.read_text() not in guarded.server.log


def test_links_are_built_from_the_settings_and_outlive_a_restart(tmp_path: Path):
    settings = {"public_url": "https://files.example.org", "root_path": "/in"}
    with Server(tmp_path, **CONTROLLED, **settings) as server, httpx.Client(trust_env=False, verify=NO_TLS) as http:
        job = finished_under(http, server)
        answer = http.post(
            f"{server.url}/v1/links", json={"download": job["links"]["source"]}, headers={"Host": "localhost"}
        )
        url = answer.json()["url"]
        assert url.startswith(f"https://files.example.org/in/v1/jobs/{job['id']}/source?")
        server.stop()
        server.start()
        here = url.replace("https://files.example.org/in", server.url)
        assert http.get(here).content == b"one\n"
        assert http.get(here.replace("/in/v1", "/v1")).content == b"one\n"  # behind a proxy that takes the prefix off
        server.token("admin")
        assert http.get(here).json()["code"] == "link-invalid"  # nobody made it, and nobody may no longer


def finished_under(http: httpx.Client, server: Server) -> dict[str, Any]:
    """Return a job that is done, on a server below a path."""
    from tests.waiting import wait_until

    origin = server.url.removesuffix("/in")
    job = http.post(f"{server.url}/v1/jobs?pipeline={PIPELINE}", content=b"one\n").json()
    found: dict[str, Any] = wait_until(
        lambda: (now := http.get(origin + job["links"]["self"]).json())["done"] and now, what="the job"
    )
    return found
