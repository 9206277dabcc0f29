"""Who may do what, over HTTP: credentials, scopes, and jobs that are not there for others."""

from __future__ import annotations

import random
import re
import string
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.ids import new_id
from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, finished, holding, problem, reached, submit
from tests.integration.conftest import CONTROLLED
from tests.integration.traces import nothing_left
from tests.integration.wire import Wire
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The paths of a job and what may be done there: with each of them a stranger learns nothing.
ROUTES = [
    ("GET", "/v1/jobs/{id}"),
    ("HEAD", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/source"),
    ("HEAD", "/v1/jobs/{id}/source"),
    ("GET", "/v1/jobs/{id}/artifacts/test.hold/out.txt"),
    ("GET", "/v1/jobs/{id}/artifacts/checksum/none"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("POST", "/v1/jobs/{id}/retry"),
    ("DELETE", "/v1/jobs/{id}"),
]
CONDITIONS: list[dict[str, str]] = [{}, {"If-Match": '"0-1"'}, {"If-None-Match": "*", "Range": "bytes=0-1"}]
OPEN = {"/livez", "/readyz", "/problems/{code}"}


class Guarded:
    """A server with tokens, and clients that have them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients: list[httpx.Client] = []
        self.alice = self.client("jobs:write", "jobs:read", "jobs:delete")
        self.bob = self.client("jobs:write", "jobs:read", "jobs:delete")
        self.admin = self.client("admin")
        self.nobody = self.with_headers()

    def client(self, *scopes: str) -> httpx.Client:
        return self.with_headers(Authorization=f"Bearer {self.server.token(*scopes)}")

    def with_headers(self, **headers: str) -> httpx.Client:
        made = httpx.Client(base_url=self.server.url, timeout=30, trust_env=False, verify=NO_TLS, headers=headers)
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    settings = CONTROLLED | {"max_attempts": 1, "slots": 2, "retention": "1h"}
    with Server(tmp_path_factory.mktemp("guarded"), **settings) as server:
        made = Guarded(server)
        yield made
        made.close()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def challenge(answer: httpx.Response) -> dict[str, str]:
    """Return the attributes of the one challenge of RFC 6750."""
    value = answer.headers["WWW-Authenticate"]
    assert value.startswith("Bearer ")
    found = re.findall(r'(\w+)="([^"]*)"', value)
    assert value == "Bearer " + ", ".join(f'{name}="{text}"' for name, text in found)
    assert len(dict(found)) == len(found)
    return dict(found)


# credentials


def test_without_credentials_the_challenge_explains_nothing(guarded: Guarded):
    answer = guarded.nobody.get("/v1/jobs")
    problem(answer, 401, "unauthorized")
    assert challenge(answer) == {"realm": "file-intake"}


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Digest x", "", "fik_", "Negotiate"])
def test_credentials_of_another_kind_are_none(guarded: Guarded, value: str):
    answer = guarded.nobody.get("/v1/jobs", headers={"Authorization": value})
    problem(answer, 401, "unauthorized")
    assert challenge(answer) == {"realm": "file-intake"}


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_token_that_is_unknown_mistyped_or_made_up_is_invalid(guarded: Guarded, header: str):
    good = guarded.server.token("jobs:read")
    for text in (
        good[:-1] + ("a" if good[-1] != "a" else "b"),
        "x",
        "fik_",
        good.upper(),
        "é".encode().decode("latin-1"),
    ):
        value = f"Bearer {text}" if header == "Authorization" else text
        answer = guarded.nobody.get("/v1/jobs", headers={header: value.encode("latin-1")})
        problem(answer, 401, "token-invalid")
        assert challenge(answer)["error"] == "invalid_token"
        assert good[15:] not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_good_token_is_taken_in_either_header(guarded: Guarded, scheme: str):
    text = guarded.server.token("jobs:read")
    assert guarded.nobody.get("/v1/jobs", headers={"Authorization": f"{scheme} {text}"}).status_code == 200
    assert guarded.nobody.get("/v1/jobs", headers={"X-API-Key": text}).status_code == 200


@pytest.mark.parametrize("other", ["the same", "another", "nonsense"])
def test_two_ways_at_once_are_one_too_many(guarded: Guarded, other: str):
    text = guarded.server.token("jobs:read")
    second = {"the same": text, "another": guarded.server.token("jobs:read"), "nonsense": "x"}[other]
    for headers in (
        [("Authorization", f"Bearer {text}"), ("X-API-Key", second)],
        [("Authorization", f"Bearer {text}"), ("Authorization", f"Bearer {second}")],
        [("X-API-Key", text), ("X-API-Key", second)],
    ):
        answer = guarded.nobody.get("/v1/jobs", headers=headers)
        problem(answer, 400, "credentials-malformed")
        assert challenge(answer)["error"] == "invalid_request"


@pytest.mark.parametrize("value", ["Bearer", "Bearer a b", "bearer a\tb"])
def test_a_bearer_without_a_token_is_malformed(guarded: Guarded, value: str):
    answer = guarded.nobody.get("/v1/jobs", headers={"Authorization": value})
    problem(answer, 400, "credentials-malformed")
    assert challenge(answer)["error"] == "invalid_request"


def test_every_path_but_the_open_ones_wants_a_token(guarded: Guarded):
    document = guarded.nobody.get("/openapi.json").json()
    wanted = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = guarded.nobody.request(method, re.sub(r"\{\w+\}", "not-found", path))
            if path in OPEN:
                assert answer.status_code == 200, path
                assert "security" not in operation
            else:
                wanted += 1
                problem(answer, 401, "unauthorized")
                assert operation["security"], path
    assert wanted >= 11
    assert guarded.nobody.get("/docs").status_code == 200


def test_the_document_names_the_ways_to_send_a_token(guarded: Guarded):
    schemes = guarded.nobody.get("/openapi.json").json()["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme"), one.get("name")) for one in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    }


# before the body


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files/a.bin"])
@pytest.mark.parametrize(
    ("credentials", "status"),
    [("none", 401), ("wrong", 401), ("twice", 400), ("read", 403)],
)
def test_an_upload_is_refused_before_one_byte_of_it(guarded: Guarded, path: str, credentials: str, status: int):
    text = guarded.server.token("jobs:read")
    headers: dict[str, Any] = {
        "none": {},
        "wrong": {"authorization": "Bearer fik_x"},
        "twice": {"authorization": f"Bearer {text}", "x_api_key": text},
        "read": {"authorization": f"Bearer {text}"},
    }[credentials]
    with nothing_left(guarded.server), Wire(guarded.server.url) as wire:
        method = "POST" if path == "/v1/jobs" else "PUT"
        wire.begin(method, path, content_length=2**20, expect="100-continue", **headers)
        first = wire.socket.recv(12)  # the final status at once, and no 100 before it
        assert first == f"HTTP/1.1 {status}".encode()
        rest = wire.socket.makefile("rb").read()  # the server closes: nothing of the body is waited for
        assert b"Connection: close" in rest or b"connection: close" in rest


def test_who_sends_on_after_a_401_still_gets_it_and_is_cut_off(guarded: Guarded):
    with nothing_left(guarded.server), Wire(guarded.server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=2**32)
        sent = 0
        try:
            while sent < 64 * 2**20:
                wire.send(bytes(2**18))
                sent += 2**18
        except ConnectionError:
            pass
        assert sent < 48 * 2**20
    body = (bytes(2**16) for _ in range(64))
    problem(guarded.nobody.post("/v1/jobs", content=body), 401, "unauthorized")


def test_a_token_comes_before_all_other_refusals(guarded: Guarded):
    head = {"Content-Encoding": "gzip", "Idempotency-Key": "a b", "Content-Type": "nonsense"}
    problem(guarded.nobody.post("/v1/jobs?nonsense=1", content=b"x", headers=head), 401, "unauthorized")
    problem(guarded.nobody.get("/v1/jobs?limit=nonsense"), 401, "unauthorized")


# scopes


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/jobs", "jobs:write"),
        ("PUT", "/v1/files/a.txt", "jobs:write"),
        ("POST", "/v1/jobs/{id}/cancel", "jobs:write"),
        ("POST", "/v1/jobs/{id}/retry", "jobs:write"),
        ("GET", "/v1/jobs", "jobs:read"),
        ("GET", "/v1/jobs/{id}", "jobs:read"),
        ("GET", "/v1/jobs/{id}/source", "jobs:read"),
        ("GET", "/v1/jobs/{id}/artifacts/a/b", "jobs:read"),
        ("DELETE", "/v1/jobs/{id}", "jobs:delete"),
        ("GET", "/readyz?verbose", "admin"),
        ("GET", "/metrics", "admin"),
    ],
)
def test_each_path_takes_its_scope_and_no_other_will_do(guarded: Guarded, method: str, path: str, scope: str):
    path = path.format(id=new_id())
    others = {"jobs:write", "jobs:read", "jobs:delete"} - {scope}
    answer = guarded.client(*others).request(method, path)
    found = problem(answer, 403, "insufficient-scope")
    assert found["scope"] == scope
    given = challenge(answer)
    assert (given["error"], given["scope"]) == ("insufficient_scope", scope)
    for enough in (scope, "admin"):
        assert guarded.client(enough).request(method, path).status_code not in (401, 403)


@pytest.mark.parametrize("scope", ["jobs:write", "jobs:read", "jobs:delete", "admin"])
def test_any_token_may_ask_what_can_be_asked_for(guarded: Guarded, scope: str):
    one = guarded.client(scope)
    assert {one.get(path).status_code for path in ("/v1/pipelines", "/v1/processors", "/v1/limits")} == {200}


# whose job


def same(answer: httpx.Response, other: httpx.Response, its_id: str, other_id: str) -> None:
    """Check that nothing but the ids of job and request tells the answers apart."""

    def plain(one: httpx.Response, job_id: str) -> tuple[int, list[tuple[str, str]], str]:
        request_id = one.headers["X-Request-ID"]
        headers = [(name, value) for name, value in one.headers.multi_items() if name not in ("date", "x-request-id")]
        return one.status_code, headers, one.text.replace(request_id, "REQUEST").replace(job_id, "JOB")

    assert plain(answer, its_id) == plain(other, other_id)


@pytest.fixture(scope="module")
def hers(guarded: Guarded) -> dict[str, str]:
    """Give ids of Alice's jobs: one in each state, one deleted at its end, one whose record is corrupt."""
    done = finished(guarded.alice, submit(guarded.alice))
    failed = finished(guarded.alice, submit(guarded.alice, pipeline="reject"), "failed")
    running = holding(guarded.alice)
    corrupt = finished(guarded.alice, submit(guarded.alice))
    (guarded.server.job_dir(corrupt["id"]) / "job.json").write_bytes(b"{")
    return {
        "succeeded": done["id"],
        "failed": failed["id"],
        "running": running["id"],
        "corrupt": corrupt["id"],
    }


@pytest.mark.parametrize("state", ["succeeded", "failed", "running", "corrupt"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_somebody_elses_job_is_answered_as_one_that_never_was(
    guarded: Guarded, hers: dict[str, str], state: str, method: str, path: str
):
    unknown = new_id()
    for headers in CONDITIONS:
        theirs = guarded.bob.request(method, path.format(id=hers[state]), headers=headers)
        nothing = guarded.bob.request(method, path.format(id=unknown), headers=headers)
        assert nothing.status_code == 404
        same(theirs, nothing, hers[state], unknown)


def test_its_owner_and_admin_see_it(guarded: Guarded, hers: dict[str, str]):
    for one in (guarded.alice, guarded.admin):
        for state in ("succeeded", "failed", "running"):
            assert one.get(f"/v1/jobs/{hers[state]}").json()["status"] == state
        problem(one.get(f"/v1/jobs/{hers['corrupt']}"), 500, "record-corrupt")


def test_a_list_shows_ones_own_jobs(guarded: Guarded, hers: dict[str, str]):
    his = finished(guarded.bob, submit(guarded.bob, mark="his"))["id"]

    def ids(one: httpx.Client, **query: Any) -> set[str]:
        return {item["id"] for item in one.get("/v1/jobs", params=query).json()["items"]}

    assert ids(guarded.bob) == {his}
    assert his not in ids(guarded.alice)
    assert {hers["succeeded"], hers["failed"], hers["running"]} <= ids(guarded.alice)
    assert {his, hers["succeeded"]} <= ids(guarded.admin)
    for query in ({"status": "succeeded"}, {"label.mark": "his"}, {"pipeline": "checksum"}, {"limit": "1"}):
        assert ids(guarded.alice, **query) <= ids(guarded.alice)


def test_a_cursor_of_somebody_else_leads_through_ones_own(guarded: Guarded):
    for _ in range(3):
        submit(guarded.alice)
    cursor = guarded.admin.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    page = guarded.bob.get("/v1/jobs", params={"cursor": cursor}).json()["items"]
    own = {item["id"] for item in guarded.bob.get("/v1/jobs").json()["items"]}
    assert {item["id"] for item in page} <= own


def test_jobs_that_expired_are_gone_for_their_owner_and_never_were_for_others(tmp_path: Path):
    with Server(tmp_path, retention="1ms", **CONTROLLED) as server:
        guarded = Guarded(server)
        job = submit(guarded.alice)
        wait_until(
            lambda: guarded.admin.get(job["links"]["self"]).status_code == 410, what="the job to expire", timeout=60
        )
        unknown = new_id()
        problem(guarded.alice.get(job["links"]["self"]), 410, "job-expired")
        same(guarded.bob.get(job["links"]["self"]), guarded.bob.get(f"/v1/jobs/{unknown}"), job["id"], unknown)
        guarded.close()


def test_the_owner_is_in_no_answer(guarded: Guarded, hers: dict[str, str]):
    owner = guarded.server.record(hers["succeeded"])["owner"]
    assert re.fullmatch(r"[0-9a-z]{10}", owner)
    for one in (guarded.alice, guarded.admin):
        assert owner not in one.get(f"/v1/jobs/{hers['succeeded']}").text + one.get("/v1/jobs").text


def test_an_idempotency_key_is_ones_own(guarded: Guarded):
    key = {"Idempotency-Key": "the-same-key"}
    one = submit(guarded.alice, headers=key)
    other = submit(guarded.bob, b"another file\n", headers=key)
    assert one["id"] != other["id"]
    again = guarded.alice.post(
        "/v1/jobs", content=b"one\n", params={"filename": "a.txt", "pipeline": "checksum"}, headers=key
    )
    assert accepted(again, replayed=True)["id"] == one["id"]


def test_guessed_ids_and_tokens_hit_nothing(guarded: Guarded, hers: dict[str, str]):
    """300 guesses near real ones; the long form below does 10,000."""
    guesses(guarded, hers, 300)


@pytest.mark.soak
def test_ten_thousand_guesses_hit_nothing(guarded: Guarded, hers: dict[str, str]):
    guesses(guarded, hers, 10_000)


def guesses(guarded: Guarded, hers: dict[str, str], count: int) -> None:
    chance = random.Random(17)
    known = list(hers.values())
    good = guarded.server.token("admin")
    letters = string.ascii_letters + string.digits
    for number in range(count):
        if number % 2:
            real = chance.choice(known)
            guess = real[:24] + f"{chance.getrandbits(48):012x}" if number % 4 == 1 else real
            answer = guarded.bob.get(f"/v1/jobs/{guess}")
            assert answer.status_code == 404
        else:
            secret = "".join(chance.choice(letters) for _ in range(36))
            answer = guarded.nobody.get("/v1/jobs", headers=bearer(good[:15] + secret))
            assert answer.status_code == 401


# made, listed, revoked


def test_the_first_token_closes_a_running_service_and_a_revoked_one_opens_it_not(tmp_path: Path):
    with (
        Server(tmp_path, **CONTROLLED) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http,
    ):
        assert "there is no token" in server.log
        old = submit(http)
        assert http.get("/readyz?verbose").status_code == 200
        text = server.token("jobs:read", "jobs:write")
        problem(http.get("/v1/jobs"), 401, "unauthorized")
        problem(http.get("/readyz?verbose"), 401, "unauthorized")
        assert http.get("/readyz").status_code == 200
        assert http.get("/v1/jobs", headers=bearer(text)).json()["items"] == []  # those of nobody are admin's
        problem(http.get(old["links"]["self"], headers=bearer(text)), 404, "job-not-found")
        assert reached_by(http, old, server.token("admin"))
        for path in (server.data_dir / "access" / "tokens").iterdir():
            revoke(server, path.stem)
        problem(http.get("/v1/jobs", headers=bearer(text)), 401, "token-invalid")
        problem(http.get("/v1/jobs"), 401, "unauthorized")


def reached_by(http: httpx.Client, job: dict[str, Any], text: str) -> bool:
    return http.get(job["links"]["self"], headers=bearer(text)).status_code == 200


def revoke(server: Server, token_id: str) -> None:
    from datetime import UTC, datetime

    from service.access.file_store import FileTokenStore

    FileTokenStore(server.data_dir).change(token_id, lambda token: token.revoked(datetime.now(UTC)))


def test_tokens_that_cannot_be_read_close_the_service(tmp_path: Path):
    with Server(tmp_path) as server, httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        folder = server.data_dir / "access" / "tokens"
        folder.rmdir()
        folder.write_text("no folder")
        problem(http.get("/v1/jobs"), 503, "storage-unavailable")


def test_beyond_this_machine_a_start_without_tokens_is_refused(tmp_path: Path):
    with pytest.raises(RuntimeError, match="there is no token yet") as caught, Server(tmp_path, host="0.0.0.0"):
        pass
    assert "exit code 2" in str(caught.value)
    assert "intake tokens create" in str(caught.value)


@pytest.mark.parametrize("settings", [{"open": True}, {}])
def test_beyond_this_machine_it_starts_with_a_token_or_when_told_to(tmp_path: Path, settings: dict[str, Any]):
    server = Server(tmp_path, host="0.0.0.0", **settings)
    text = None if settings else server.token("jobs:read")
    with server, httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        assert http.get("/v1/jobs").status_code == (401 if text else 200)
        assert http.get("/v1/jobs", headers={"Host": "example.org"}).status_code == (401 if text else 200)


# hosts


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "169.254.1.1"])
def test_without_a_token_a_name_made_to_lead_here_is_refused(http: httpx.Client, host: str):
    problem(http.get("/v1/jobs", headers={"Host": host}), 421, "misdirected-request")
    problem(http.post("/v1/jobs", content=b"x", headers={"Host": host}), 421, "misdirected-request")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST", "a.localhost", "intake"]
)
def test_without_a_token_names_of_this_machine_will_do(http: httpx.Client, host: str):
    assert http.get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_with_a_token_any_name_will_do(guarded: Guarded):
    assert guarded.alice.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 200


def test_names_can_be_limited_for_everybody(tmp_path: Path):
    with (
        Server(tmp_path, allowed_hosts="files.example.org, *.example.net", root_path="/in") as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http,
    ):
        for host in ("files.example.org", "FILES.example.org:443", "a.example.net"):
            assert http.get("/v1/jobs", headers={"Host": host}).status_code == 200
        for host in ("127.0.0.1", "example.net", "xfiles.example.org", "files.example.org.evil", "[::1]"):
            answer = http.get("/v1/jobs", headers={"Host": host})
            assert answer.status_code == 421
            assert answer.json()["code"] == "misdirected-request"
        assert http.get("/readyz").status_code == 200


def test_no_answer_repeats_a_hostile_host(http: httpx.Client, guarded: Guarded):
    job = submit(guarded.alice)
    host = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    for path in ("/v1/jobs?limit=1", job["links"]["self"], "/v1/limits", "/docs", "/openapi.json", "/nothing"):
        answer = guarded.alice.get(path, headers=host)
        assert "evil" not in answer.text + str(answer.headers.multi_items()), path
    answer = guarded.alice.post("/v1/jobs", content=b"x", headers=host)
    assert "evil" not in answer.text + str(answer.headers.multi_items())
    assert reached(guarded.alice, answer.json(), "succeeded")
