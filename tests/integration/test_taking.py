"""Taking files: every way a client may send one, and what it is answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
import requests

from tests.integration.api import accepted, finished, problem, sha256
from tests.integration.curl import curl
from tests.integration.traces import nothing_left, traces
from tests.integration.wire import Wire, form, part

if TYPE_CHECKING:
    from pathlib import Path

    from service.testing import Server

CONTENT = b"one\ntwo\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_bytes(CONTENT)
    return path


def said(job: dict[str, object]) -> tuple[object, ...]:
    file = job["file"]
    assert isinstance(file, dict)
    assert file["media_type"] is None
    return file["name"], file["size"], file["sha256"], file["declared_type"]


@pytest.mark.needs("curl")
def test_curl_sends_a_form(server: Server, file: Path):
    job = accepted(curl("-F", f"file=@{file}", f"{server.url}/v1/jobs").answer)
    assert said(job) == ("notes.txt", 8, sha256(CONTENT), "text/plain")


def test_requests_sends_a_form(server: Server, file: Path):
    with requests.Session() as session, file.open("rb") as opened:
        session.trust_env = False
        job = accepted(session.post(f"{server.url}/v1/jobs", files={"file": opened}))
    assert said(job) == ("notes.txt", 8, sha256(CONTENT), None)


def test_httpx_sends_a_form(http: httpx.Client, file: Path):
    with file.open("rb") as opened:
        job = accepted(http.post("/v1/jobs", files={"file": opened}))
    assert said(job) == ("notes.txt", 8, sha256(CONTENT), "text/plain")


@pytest.mark.needs("curl")
def test_curl_sends_a_raw_body_of_unknown_length(server: Server):
    url = f"{server.url}/v1/jobs?filename=notes.md"
    chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Content-Type: text/markdown"]
    job = accepted(curl("--data-binary", "@-", *chunked, url, stdin=CONTENT).answer)
    assert said(job) == ("notes.md", 8, sha256(CONTENT), "text/markdown")


@pytest.mark.needs("curl")
def test_the_type_that_curl_makes_up_for_a_raw_body_is_no_claim(server: Server):
    job = accepted(curl("--data-binary", "@-", f"{server.url}/v1/jobs?filename=notes.md", stdin=CONTENT).answer)
    assert said(job) == ("notes.md", 8, sha256(CONTENT), None)


def test_a_raw_body_without_a_name_gets_one(http: httpx.Client):
    assert accepted(http.post("/v1/jobs", content=CONTENT))["file"]["name"] == "upload.bin"


def test_a_raw_body_is_named_by_its_content_disposition(http: httpx.Client):
    headers = {"Content-Disposition": 'attachment; filename="plain.pdf"'}
    job = accepted(http.post("/v1/jobs?filename=query.pdf", content=CONTENT, headers=headers))
    assert job["file"]["name"] == "plain.pdf"


def test_the_extended_name_wins_over_the_plain_one(http: httpx.Client):
    headers = {"Content-Disposition": "attachment; filename=\"plain.pdf\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.pdf"}
    assert accepted(http.post("/v1/jobs", content=CONTENT, headers=headers))["file"]["name"] == "naïve €.pdf"


def test_a_name_in_the_query_is_percent_encoded_utf8(http: httpx.Client):
    answer = http.post("/v1/jobs?filename=na%C3%AFve+%E2%82%AC.txt", content=CONTENT)
    assert accepted(answer)["file"]["name"] == "naïve €.txt"


@pytest.mark.needs("curl")
@pytest.mark.parametrize("name", ["notes.txt", "naïve €.txt", "100 %.txt", 'a"b#?&.txt'])
def test_curl_puts_a_file_under_its_own_name(server: Server, tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(CONTENT)
    job = accepted(curl("-T", name, f"{server.url}/v1/files/", cwd=tmp_path).answer)
    assert said(job) == (name, 8, sha256(CONTENT), None)


@pytest.mark.needs("curl")
def test_curl_puts_what_it_reads_from_a_pipe(server: Server):
    job = accepted(curl("-T", "-", f"{server.url}/v1/files/piped.txt", stdin=CONTENT).answer)
    assert said(job) == ("piped.txt", 8, sha256(CONTENT), None)


def test_a_put_may_declare_a_type_and_give_fields_in_its_query(http: httpx.Client):
    query = {"pipeline": "checksum", "sha256": sha256(CONTENT), "labels.a": "b"}
    headers = {"Content-Type": "text/markdown"}
    job = accepted(http.put("/v1/files/notes.md", content=CONTENT, params=query, headers=headers))
    assert said(job) == ("notes.md", 8, sha256(CONTENT), "text/markdown")
    assert (job["pipeline"], job["labels"]) == ("checksum", {"a": "b"})


def test_a_form_cannot_be_put(http: httpx.Client, server: Server):
    with nothing_left(server):
        answer = http.put("/v1/files/a.txt", files={"file": CONTENT})
        problem(answer, 415, "unsupported-media-type")
        assert answer.headers["Accept"] == "*/*"


@pytest.mark.parametrize("order", ["before", "after", "around"])
def test_fields_may_come_before_and_after_the_file(server: Server, order: str):
    fields = [
        part('name="pipeline"', b"checksum"),
        part('name="labels.source"', "Käse".encode()),
        part('name="sha256"', sha256(CONTENT).encode()),
    ]
    cut = {"before": 3, "after": 0, "around": 1}[order]
    parts = [*fields[:cut], part('name="file"; filename="a.txt"', CONTENT), *fields[cut:]]
    with Wire(server.url) as wire:
        job = accepted(wire.post_form(form(parts)))
    assert (job["pipeline"], job["labels"]) == ("checksum", {"source": "Käse"})


def test_a_form_may_come_byte_by_byte(server: Server):
    body = form(
        [part('name="pipeline"', b"checksum"), part('name="file"; filename="a.txt"', b"a\r\n--the-boundar\r\n")]
    )
    with Wire(server.url) as wire:
        wire.begin(
            "POST", "/v1/jobs", content_type="multipart/form-data; boundary=the-boundary", transfer_encoding="chunked"
        )
        for index in range(len(body)):
            wire.chunk(body[index : index + 1])
        wire.chunk(b"")
        job = accepted(wire.answer())
    assert job["file"]["sha256"] == sha256(b"a\r\n--the-boundar\r\n")


def test_a_form_may_have_a_preamble_and_an_epilogue(server: Server):
    body = b"\r\n" + form([part('name="file"; filename="a.txt"', CONTENT)]) + b"good bye\r\n"
    with Wire(server.url) as wire:
        assert accepted(wire.post_form(body))["file"]["sha256"] == sha256(CONTENT)


def test_the_last_line_break_of_a_form_may_be_missing(server: Server):
    with Wire(server.url) as wire:
        body = form([part('name="file"; filename="a.txt"', CONTENT)]).removesuffix(b"\r\n")
        assert accepted(wire.post_form(body))["file"]["sha256"] == sha256(CONTENT)


def test_a_boundary_may_be_quoted(server: Server):
    with Wire(server.url) as wire:
        job = accepted(wire.post_form(form([part('name="file"', CONTENT)]), boundary='"the-boundary"'))
    assert job["file"]["sha256"] == sha256(CONTENT)


def test_fields_of_a_form_may_stand_in_the_query_too(http: httpx.Client):
    job = accepted(http.post("/v1/jobs?pipeline=checksum&labels.a=b", files={"file": CONTENT}))
    assert (job["pipeline"], job["labels"]) == ("checksum", {"a": "b"})


def test_a_job_remembers_the_request_that_made_it(http: httpx.Client, server: Server):
    answer = http.post("/v1/jobs", content=CONTENT, headers={"X-Request-ID": "my-request.1"})
    assert answer.headers["X-Request-ID"] == "my-request.1"
    assert server.record(accepted(answer)["id"])["request_id"] == "my-request.1"


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "semi;colon"])
def test_a_request_id_that_is_none_is_replaced(http: httpx.Client, given: str):
    answer = http.get("/livez", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] not in ("", given)


def test_an_upload_goes_through_to_its_end(http: httpx.Client):
    done = finished(http, accepted(http.post("/v1/jobs?filename=notes.txt", content=CONTENT)))
    assert done["file"]["media_type"] == "text/plain"
    assert [step["status"] for step in done["steps"]] == ["succeeded", "succeeded", "skipped", "skipped", "succeeded"]
    assert http.get(done["links"]["source"]).content == CONTENT


def test_the_largest_file_is_taken_and_one_byte_more_is_not(http: httpx.Client, server: Server):
    accepted(http.post("/v1/jobs?pipeline=checksum", content=bytes(2**20)))
    accepted(http.post("/v1/jobs?pipeline=checksum", files={"file": bytes(2**20)}))
    with nothing_left(server):
        problem(http.post("/v1/jobs", content=bytes(2**20 + 1)), 413, "file-too-large")
        problem(http.post("/v1/jobs", files={"file": bytes(2**20 + 1)}), 413, "file-too-large")


@pytest.mark.parametrize(
    ("parts", "status", "code", "field"),
    [
        ([part('name="file"', b"1"), part('name="extra"', b"x")], 422, "validation-error", "extra"),
        ([part('name="file"', b"1"), part('name="label"', b"x")], 422, "validation-error", "label"),
        ([part('name="labels.a b"', b"x"), part('name="file"', b"1")], 422, "validation-error", "labels"),
        ([part('name="labels.a"', b"x" * 257), part('name="file"', b"1")], 422, "validation-error", "labels.a"),
        ([part('name="labels.a"', b"x\x07"), part('name="file"', b"1")], 422, "validation-error", "labels.a"),
        ([part('name="labels.a"', "x\u009b31m".encode()), part('name="file"', b"1")], 422, "validation-error", "labels.a"),
        ([part('name="labels.a"', b"\xff"), part('name="file"', b"1")], 422, "validation-error", "labels.a"),
        ([*(part(f'name="labels.k{n}"', b"x") for n in range(17)), part('name="file"', b"1")], 422, "validation-error", "labels"),
        ([part('name="file"', b"1"), part('name="file"', b"2")], 422, "validation-error", "file"),
        ([part('name="file"; filename="a"', b"1"), part('name="file"; filename="b"', b"")], 422, "validation-error", "file"),
        ([part('name="upload"; filename="a.txt"', b"1")], 422, "validation-error", "upload"),
        ([part('name="pipeline"; filename="a.txt"', b"1")], 422, "validation-error", "pipeline"),
        ([part('name="pipeline"', b"checksum")], 422, "validation-error", "file"),
        ([], 422, "validation-error", "file"),
        ([part('name="file"; filename="a.txt"', b"")], 422, "empty-file", None),
        ([part('name="pipeline"', b"no-such"), part('name="file"', b"1")], 422, "unknown-pipeline", None),
        ([part('name="file"', b"1"), part('name="pipeline"', b"no-such")], 422, "unknown-pipeline", None),
    ],
)  # fmt: skip
def test_a_form_that_asks_for_something_impossible_is_refused(
    server: Server, parts: list[bytes], status: int, code: str, field: str | None
):
    with nothing_left(server), Wire(server.url) as wire:
        assert problem(wire.post_form(form(parts)), status, code).get("field") == field


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("extra=x", "validation-error"),
        ("label.a=x", "validation-error"),
        ("labels.=x", "validation-error"),
        (f"labels.{'k' * 64}=x", "validation-error"),
        ("pipeline=", "unknown-pipeline"),
        ("pipeline=../default", "unknown-pipeline"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_query_that_asks_for_something_impossible_is_refused(
    http: httpx.Client, server: Server, query: str, code: str, method: str
):
    path = {"POST": "/v1/jobs", "PUT": "/v1/files/a.txt"}[method]
    with nothing_left(server):
        assert problem(http.request(method, f"{path}?{query}", content=CONTENT), 422, code)["hint"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files/a.txt"])
def test_an_empty_body_is_no_file(http: httpx.Client, server: Server, path: str):
    with nothing_left(server):
        method = "PUT" if "files" in path else "POST"
        problem(http.request(method, path, content=b""), 422, "empty-file")


def test_sixteen_labels_with_long_values_are_fine(http: httpx.Client):
    labels = {f"{'k' * 61}{number:02}": "ü" * 256 for number in range(16)}
    query = {f"labels.{key}": value for key, value in labels.items()}
    assert accepted(http.post("/v1/jobs", content=CONTENT, params=query))["labels"] == labels


@pytest.mark.parametrize("kind", ["nonsense", "text/", "/plain", "te xt/plain"])
def test_a_content_type_that_is_none_is_refused(http: httpx.Client, server: Server, kind: str):
    with nothing_left(server):
        answer = http.post("/v1/jobs", content=CONTENT, headers={"Content-Type": kind})
        problem(answer, 415, "unsupported-media-type")
        assert answer.headers["Accept"] == "multipart/form-data, */*"


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity", "x"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_content_coding_is_refused(http: httpx.Client, server: Server, coding: str, method: str):
    path = {"POST": "/v1/jobs", "PUT": "/v1/files/a.txt"}[method]
    with nothing_left(server):
        answer = http.request(method, path, content=CONTENT, headers={"Content-Encoding": coding})
        problem(answer, 415, "content-encoding-not-supported")
        assert answer.headers["Accept-Encoding"] == "identity"


def test_the_coding_identity_is_none(http: httpx.Client):
    accepted(http.post("/v1/jobs", content=CONTENT, headers={"Content-Encoding": "Identity"}))


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("image/PNG", "image/png"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("application/octet-stream", "application/octet-stream"),
    ],
)
def test_the_declared_type_of_a_raw_body_is_kept_as_a_claim(http: httpx.Client, sent: str, shown: str):
    job = accepted(http.post("/v1/jobs", content=CONTENT, headers={"Content-Type": sent}))
    assert job["file"]["declared_type"] == shown


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (["Content-Type: image/png"], "image/png"),
        (["content-type:  image/png "], "image/png"),
        (["Content-Transfer-Encoding: binary", "X-Other: 1"], None),
        (["Content-Type: text/x;" + "y" * 400], ("text/x;" + "y" * 400)[:255]),
        (["Content-Type: text/\x1b[31mplain"], None),
        (["Content-Type: text/\u202eplain"], None),
    ],
)
def test_the_declared_type_of_a_part_is_kept_as_a_claim(server: Server, header: list[str], shown: str | None):
    with Wire(server.url) as wire:
        job = accepted(wire.post_form(form([part('name="file"', CONTENT, *header)])))
    assert job["file"]["declared_type"] == shown


def test_an_accepted_file_is_where_its_id_says(http: httpx.Client, server: Server):
    job = accepted(http.post("/v1/jobs?pipeline=checksum", content=CONTENT))
    folder = server.job_dir(job["id"])
    assert (folder / "source").read_bytes() == CONTENT
    assert json.loads((folder / "job.json").read_bytes())["file"]["sha256"] == sha256(CONTENT)
    assert not [name for name in traces(server) if name == f"incoming/{job['id']}"]
