"""Downloads: ranges, conditions, and headers that keep a stranger's file from running in a browser."""

from __future__ import annotations

import email
import email.policy
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from service.testing import Server
from tests.integration.api import digest, finished, problem, sha256, submit
from tests.integration.conftest import CONTROLLED, client
from tests.integration.curl import curl
from tests.integration.wire import Wire
from tests.needs import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from tests.s3 import S3Server

CONTENT = bytes(range(256)) * 4  # 1024 bytes
DIGITS = b"0123456789" * 100


@pytest.fixture(scope="module", params=["local", "s3"])
def server(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Give a server for each place that bytes can be in: nobody can tell them apart."""
    if request.param == "local":
        yield server
        return
    s3: S3Server = request.getfixturevalue("s3")
    storage = f"s3://{s3.create_bucket()}/prefix?endpoint={s3.url}"
    with Server(tmp_path_factory.mktemp("s3"), **CONTROLLED, storage=storage, durability="none", timeout=90) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """Give a client of it."""
    with client(server) as made:
        yield made


@pytest.fixture(scope="module")
def source(http: httpx.Client) -> str:
    """Give the path of a source with CONTENT."""
    path: str = finished(http, submit(http, CONTENT, name="data.bin"))["links"]["source"]
    return path


@pytest.fixture(scope="module")
def made(http: httpx.Client) -> dict[str, dict[str, Any]]:
    """Give the artifacts of the processor ``test.pages`` by name."""
    job = finished(http, submit(http, pipeline="pages"))
    return {artifact["name"]: artifact for artifact in job["steps"][0]["artifacts"]}


@pytest.fixture
def get(http: httpx.Client, source: str) -> Callable[..., httpx.Response]:
    """Give a function that downloads the source with these headers."""
    return lambda **headers: http.get(
        source, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_a_source_comes_back_as_it_was_sent(get: Callable[..., httpx.Response]):
    answer = get()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    headers = answer.headers
    assert headers["Content-Length"] == "1024"
    assert headers["ETag"] == f'"{sha256(CONTENT)}"'
    assert headers["Repr-Digest"] == digest(CONTENT)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment; filename=\"data.bin\"; filename*=UTF-8''data.bin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["X-Request-ID"]


def test_head_says_what_get_says(http: httpx.Client, source: str, get: Callable[..., httpx.Response]):
    head = http.head(source)
    assert (head.status_code, head.content) == (200, b"")
    assert {name: value for name, value in head.headers.items() if name not in ("date", "x-request-id")} == {
        name: value for name, value in get().headers.items() if name not in ("date", "x-request-id")
    }


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1000-", 1000, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=1000-9999", 1000, 1023),
        ("bytes=-9999", 0, 1023),
        ("bytes=0-9,5-14", 0, 14),
        ("bytes = 5-6", 5, 6),
        ("BYTES=5-6", 5, 6),
        ("bytes=0-1,2000-", 0, 1),
        ("bytes=, 0-1 , ,", 0, 1),
    ],
)
def test_a_range_is_cut_out(get: Callable[..., httpx.Response], asked: str, first: int, last: int):
    answer = get(Range=asked)
    assert answer.status_code == 206
    assert answer.content == CONTENT[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["Repr-Digest"] == digest(CONTENT)  # of the whole file, RFC 9530, section 3
    assert answer.headers["ETag"] == f'"{sha256(CONTENT)}"'
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_several_ranges_come_as_parts(get: Callable[..., httpx.Response]):
    answer = get(Range="bytes=0-3,100-104,-2")
    assert answer.status_code == 206
    assert len(answer.content) == int(answer.headers["Content-Length"])
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    parts = list(email.message_from_bytes(head + answer.content, policy=email.policy.HTTP).iter_parts())
    assert [part["Content-Range"] for part in parts] == [
        f"bytes {span}/1024" for span in ("0-3", "100-104", "1022-1023")
    ]
    assert [part.get_payload(decode=True) for part in parts] == [CONTENT[:4], CONTENT[100:105], CONTENT[-2:]]
    assert {part["Content-Type"] for part in parts} == {"application/octet-stream"}


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=2000-,3000-", "bytes=-0"])
def test_a_range_beyond_the_end_is_told_the_size(get: Callable[..., httpx.Response], asked: str):
    answer = get(Range=asked)
    problem(answer, 416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == "bytes */1024"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes",
        "bytes=",
        "bytes=a-b",
        "bytes=--1",
        "bytes=5",
        "bytes=9-5",
        "lines=1-2",
        "nonsense",
        "bytes=,".ljust(50, ","),
    ],
)
def test_a_range_that_cannot_be_read_is_passed_over(get: Callable[..., httpx.Response], asked: str):
    answer = get(Range=asked)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_more_ranges_than_anybody_needs_are_passed_over(get: Callable[..., httpx.Response]):
    answer = get(Range="bytes=" + ",".join(f"{number}-{number}" for number in range(0, 1000, 2)))
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_an_unchanged_source_is_answered_with_304(get: Callable[..., httpx.Response]):
    tag = f'"{sha256(CONTENT)}"'
    for value in (tag, f'"x", W/{tag}', "*"):
        answer = get(If_None_Match=value)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == tag
        assert "Content-Length" not in answer.headers or answer.headers["Content-Length"] == "0"
    assert get(If_None_Match='"x"').status_code == 200
    assert get(If_None_Match=tag, Range="bytes=0-1").status_code == 304


def test_a_range_is_given_only_of_the_version_it_names(get: Callable[..., httpx.Response]):
    tag = f'"{sha256(CONTENT)}"'
    assert get(Range="bytes=0-9", If_Range=tag).status_code == 206
    modified = get().headers["Last-Modified"]
    assert get(Range="bytes=0-9", If_Range=modified).status_code == 206
    for other in ('"x"', f"W/{tag}", "Sun, 06 Nov 1994 08:49:37 GMT", "nonsense"):
        answer = get(Range="bytes=0-9", If_Range=other)
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert get(Range="bytes=5000-", If_Range=other).status_code == 200


def test_a_head_has_no_ranges(http: httpx.Client, source: str):
    for asked in ("bytes=0-9", "bytes=5000-"):  # RFC 9110, section 14.2: defined for GET alone
        answer = http.head(source, headers={"Range": asked})
        assert (answer.status_code, answer.headers["Content-Length"]) == (200, "1024")


@pytest.mark.needs("curl")
def test_curl_resumes_a_download(server: Server, source: str, tmp_path: Path):
    resumed = curl("-C", "1000", server.url + source)
    assert (resumed.answer.status_code, resumed.answer.content) == (206, CONTENT[1000:])


@pytest.mark.needs("curl")
def test_curl_saves_a_download_under_its_name(http: httpx.Client, server: Server, tmp_path: Path):
    job = finished(http, submit(http, CONTENT, name="naïve plan.bin"))
    subprocess.run([need("curl"), "-sS", "-q", "-OJ", server.url + job["links"]["source"]], cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"na_ve plan.bin": CONTENT}


def test_artifacts_are_downloaded_like_sources(http: httpx.Client, made: dict[str, dict[str, Any]]):
    artifact = made["digits.bin"]
    assert (artifact["size"], artifact["sha256"]) == (1000, sha256(DIGITS))
    answer = http.get(artifact["href"])
    assert (answer.status_code, answer.content) == (200, DIGITS)
    assert answer.headers["Repr-Digest"] == digest(DIGITS)
    assert answer.headers["ETag"] == f'"{sha256(DIGITS)}"'
    part = http.get(artifact["href"], headers={"Range": "bytes=995-"})
    assert (part.status_code, part.content) == (206, b"56789")
    assert http.get(artifact["href"], headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    problem(http.get(artifact["href"], headers={"Range": "bytes=1000-"}), 416, "range-not-satisfiable")


def test_an_empty_artifact_is_a_file_too(http: httpx.Client, made: dict[str, dict[str, Any]]):
    answer = http.get(made["nothing.bin"]["href"])
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")
    problem(http.get(made["nothing.bin"]["href"], headers={"Range": "bytes=0-"}), 416, "range-not-satisfiable")
    assert http.get(made["nothing.bin"]["href"], headers={"Range": "bytes=-5"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.html", "application/octet-stream"),
        ("drawing.svg", "application/octet-stream"),
        ("digits.bin", "application/octet-stream"),
        ("list.csv", "text/csv"),
    ],
)
def test_what_a_browser_could_run_has_no_type(
    http: httpx.Client, made: dict[str, dict[str, Any]], name: str, kind: str
):
    answer = http.get(made[name]["href"])
    assert answer.headers["Content-Type"].partition(";")[0] == kind
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_the_type_of_a_source_is_the_one_found_and_never_the_one_claimed(http: httpx.Client):
    sent = http.post(
        "/v1/jobs?filename=a.html&pipeline=identify", content=b"plain\n", headers={"Content-Type": "text/html"}
    )
    job = finished(http, sent.json())
    assert http.get(job["links"]["source"]).headers["Content-Type"] == "text/plain"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ('a"b\\c.txt', "c.txt"),
        ('say "hi".txt', "say _hi_.txt"),
        ("naïve €.txt", "na_ve _.txt"),
        ("100%41.txt", "100_41.txt"),
        ("a;b=c,d.txt", "a;b=c,d.txt"),
        ("日本", "__"),
        ("\u202etxt.exe", "txt.exe"),
        ("x\r\nSet-Cookie: a=b", "x Set-Cookie: a=b"),
    ],
)
def test_no_name_breaks_out_of_its_header(server: Server, http: httpx.Client, name: str, plain: str):
    job = submit(http, name=name)
    with Wire(server.url) as wire:
        wire.begin("GET", job["links"]["source"])
        answer = wire.answer("GET")
    value = answer.headers["Content-Disposition"]
    assert value.isascii()
    kind, quoted, extended = value.split("; filename")
    assert kind == "attachment"
    assert quoted == f'="{plain}"'
    assert unquote(extended.removeprefix("*=UTF-8''")) == job["file"]["name"]
    assert "Set-Cookie" not in answer.headers
