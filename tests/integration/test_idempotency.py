"""Idempotency-Key: sending an upload again never makes a second job, and never takes another upload for the first one."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from service.testing import Server
from tests.integration.api import accepted, digest, finished, problem, sha256
from tests.integration.conftest import client
from tests.integration.curl import curl
from tests.integration.traces import nothing_left, traces
from tests.integration.wire import Wire, form, part
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

CONTENT = b"one\ntwo\n"
QUERY = {"filename": "a.txt", "pipeline": "checksum"}


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def upload(http: httpx.Client, key: str, content: bytes = CONTENT, **options: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key, **options.pop("headers", {})}
    return http.post("/v1/jobs", content=content, params=QUERY | options, headers=headers)


def test_the_same_upload_again_gets_the_same_job(http: httpx.Client, server: Server, key: str):
    first = accepted(upload(http, key))
    finished(http, first)
    with nothing_left(server):
        again = accepted(upload(http, key), replayed=True)
    assert again["id"] == first["id"]
    assert again["status"] == "succeeded"  # as it is now, not as it was


def test_a_form_and_a_raw_body_with_the_same_file_are_the_same_upload(http: httpx.Client, server: Server, key: str):
    headers = {"Idempotency-Key": key}
    file = {"file": ("a.txt", CONTENT, "text/plain")}
    first = accepted(http.post("/v1/jobs", files=file, data={"pipeline": "checksum"}, headers=headers))
    with nothing_left(server):
        again = http.post("/v1/jobs", files=file, data={"pipeline": "checksum"}, headers=headers)  # another boundary
        assert accepted(again, replayed=True)["id"] == first["id"]
        raw = upload(http, key, headers={"Content-Type": "text/plain"})
        assert accepted(raw, replayed=True)["id"] == first["id"]
        put = http.put(
            "/v1/files/a.txt?pipeline=checksum", content=CONTENT, headers=headers | {"Content-Type": "text/plain"}
        )
        assert accepted(put, replayed=True)["id"] == first["id"]


@pytest.mark.needs("curl")
def test_curl_sends_an_upload_again(server: Server, tmp_path: Path, key: str):
    (tmp_path / "a.txt").write_bytes(CONTENT)
    arguments = ["-F", "file=@a.txt", "-H", f"Idempotency-Key: {key}", f"{server.url}/v1/jobs?pipeline=checksum"]
    first = accepted(curl(*arguments, cwd=tmp_path).answer)
    assert accepted(curl(*arguments, cwd=tmp_path).answer, replayed=True)["id"] == first["id"]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"another file", {}),
        (b"two\none\n", {}),
        (CONTENT, {"filename": "b.txt"}),
        (CONTENT, {"pipeline": "identify"}),
        (CONTENT, {"labels.a": "b"}),
        (CONTENT, {"headers": {"Content-Type": "text/markdown"}}),
    ],
)
def test_the_same_key_with_another_upload_is_refused(
    http: httpx.Client, server: Server, key: str, content: bytes, options: dict[str, Any]
):
    first = accepted(upload(http, key))
    with nothing_left(server):
        problem(upload(http, key, content, **options), 422, "idempotency-key-reused")
    assert accepted(upload(http, key), replayed=True)["id"] == first["id"]


def test_fields_that_say_the_same_make_no_difference(http: httpx.Client, key: str):
    first = accepted(upload(http, key))
    same = {"sha256": sha256(CONTENT), "headers": {"Content-Digest": digest(CONTENT)}}
    assert accepted(upload(http, key, **same), replayed=True)["id"] == first["id"]


@pytest.mark.parametrize("first_quoted", [True, False])
def test_quoted_and_bare_keys_are_the_same(http: httpx.Client, key: str, first_quoted: bool):
    writings = [f'"{key}"', key][:: 1 if first_quoted else -1]
    first = accepted(upload(http, writings[0]))
    assert accepted(upload(http, writings[1]), replayed=True)["id"] == first["id"]


@pytest.mark.parametrize("key", ["a b", '"', '"a', 'a"b', "ä".encode().decode("latin-1"), "x" * 256, '""', "", "a,b"])
def test_a_key_that_is_none_is_refused(server: Server, key: str):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=3, idempotency_key=key)
        assert problem(wire.answer(), 400, "idempotency-key-invalid")["hint"]


def test_the_longest_key_is_fine(http: httpx.Client, key: str):
    long = (key * 8)[:255]
    assert accepted(upload(http, long))["id"] == accepted(upload(http, long), replayed=True)["id"]


def test_different_keys_make_different_jobs(http: httpx.Client, key: str):
    assert accepted(upload(http, key))["id"] != accepted(upload(http, key + "-2"))["id"]


def race(server: Server, key: str, contents: list[bytes]) -> list[httpx.Response]:
    """Upload all contents with one key at the same moment, each over a connection of its own."""
    start = threading.Barrier(len(contents))

    def one(content: bytes) -> httpx.Response:
        with client(server) as http:
            http.get("/livez")
            start.wait(10)
            return upload(http, key, content)

    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(one, contents))


def test_a_race_of_ten_makes_one_job(server: Server, key: str):
    before = traces(server)
    answers = race(server, key, [CONTENT] * 10)
    first = [answer for answer in answers if answer.status_code == 202 and "Idempotency-Replayed" not in answer.headers]
    job = accepted(first[0])
    assert len(first) == 1
    for answer in answers:
        if answer.status_code == 202:
            assert answer.json()["id"] == job["id"]
        else:
            problem(answer, 409, "idempotency-key-in-use")
    assert {name for name in traces(server) - before if name.startswith("jobs/")} == {
        str(server.job_dir(job["id"]).relative_to(server.data_dir))
    }


def test_a_race_of_different_files_makes_one_job(server: Server, key: str):
    before = traces(server)
    answers = race(server, key, [b"file %d" % number for number in range(10)])
    first = [answer for answer in answers if answer.status_code == 202]
    assert len(first) == 1
    for answer in answers:
        if answer is not first[0]:
            assert answer.status_code in (409, 422)
            problem(
                answer,
                *{409: (409, "idempotency-key-in-use"), 422: (422, "idempotency-key-reused")}[answer.status_code],
            )
    assert len([name for name in traces(server) - before if name.startswith("jobs/")]) == 1


@pytest.mark.parametrize(
    ("content", "options", "status", "code"),
    [
        (b"", {}, 422, "empty-file"),
        (CONTENT, {"sha256": "0" * 64}, 400, "digest-mismatch"),
        (CONTENT, {"pipeline": "no-such"}, 422, "unknown-pipeline"),
        (bytes(2**20 + 1), {}, 413, "file-too-large"),
    ],
)
def test_a_key_is_free_again_after_a_refusal(
    http: httpx.Client, key: str, content: bytes, options: dict[str, Any], status: int, code: str
):
    problem(upload(http, key, content, **options), status, code)
    accepted(upload(http, key))


def test_a_key_is_free_again_after_its_client_has_gone(http: httpx.Client, server: Server, key: str):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=1000, idempotency_key=key, expect="100-continue")
        wire.await_continue()
        wire.send(b"x")
        problem(upload(http, key), 409, "idempotency-key-in-use")
    accepted(wait_until(lambda: (got := upload(http, key)).status_code != 409 and got))


def test_a_key_is_free_again_when_its_job_is_deleted(http: httpx.Client, key: str):
    first = finished(http, accepted(upload(http, key)))
    assert http.delete(first["links"]["self"]).status_code == 204
    assert accepted(upload(http, key))["id"] != first["id"]


def test_a_second_upload_while_the_first_is_received_is_told_to_wait(http: httpx.Client, server: Server, key: str):
    with Wire(server.url) as wire:
        path = "/v1/jobs?filename=a.txt&pipeline=checksum"
        wire.begin("POST", path, content_length=8, idempotency_key=key, expect="100-continue")
        wire.await_continue()
        wire.send(CONTENT[:4])
        answer = upload(http, key)
        problem(answer, 409, "idempotency-key-in-use")
        assert answer.headers["Retry-After"] == "1"
        wire.send(CONTENT[4:])
        first = accepted(wire.answer())
    assert accepted(upload(http, key), replayed=True)["id"] == first["id"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("", {"content_length": 9}),
        ("", {"content_length": 8, "content_digest": digest(b"other")}),
        ("", {"transfer_encoding": "chunked", "repr_digest": digest(b"other")}),
        (f"&sha256={sha256(b'other')}", {"transfer_encoding": "chunked"}),
    ],
)
def test_headers_that_contradict_the_first_upload_are_refused_before_the_body(
    http: httpx.Client, server: Server, key: str, path: str, headers: dict[str, Any]
):
    accepted(upload(http, key))
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs?filename=a.txt&pipeline=checksum" + path, idempotency_key=key, **headers)
        problem(wire.answer(), 422, "idempotency-key-reused")


def test_a_field_that_contradicts_the_first_upload_is_refused(http: httpx.Client, server: Server, key: str):
    headers = {"Idempotency-Key": key}
    accepted(http.post("/v1/jobs", files={"file": ("a.txt", CONTENT)}, headers=headers))
    with nothing_left(server), Wire(server.url) as wire:
        body = form([part('name="file"; filename="a.txt"', b"other")])
        wire.begin(
            "POST",
            "/v1/jobs",
            content_type="multipart/form-data; boundary=the-boundary",
            content_length=len(body),
            idempotency_key=key,
        )
        wire.send(body)
        problem(wire.answer(), 422, "idempotency-key-reused")


def test_keys_survive_a_stop_and_a_kill(tmp_path: Path, key: str):
    with Server(tmp_path) as server:
        with client(server) as http:
            first = accepted(upload(http, key))
            finished(http, first)
        server.stop()
        server.start()
        with client(server) as http:
            assert accepted(upload(http, key), replayed=True)["id"] == first["id"]
        with Wire(server.url) as wire:  # an upload under way when the lights go out
            headers = {"idempotency_key": key + "-2", "expect": "100-continue"}
            wire.begin("POST", "/v1/jobs", content_length=2**22, **headers)
            wire.await_continue()
            wire.send(bytes(2**21))
            wait_until(lambda: list((server.data_dir / "incoming").iterdir()), what="the second upload to be on disk")
            server.kill()
        server.start()
        with client(server) as http:
            assert accepted(upload(http, key), replayed=True)["id"] == first["id"]
            accepted(upload(http, key + "-2"))
        wait_until(
            lambda: not list((server.data_dir / "incoming").iterdir()), what="the interrupted upload to be swept"
        )
