"""Uploads that are refused, cut off, or never end: each costs little, says why to whoever still listens, and leaves nothing."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, finished, holding, problem, sha256, submit
from tests.integration.conftest import CONTROLLED, client
from tests.integration.curl import curl
from tests.integration.traces import nothing_left, traces
from tests.integration.wire import BOUNDARY, Wire, form, part
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 2**20
LARGE = 12 * 2**20
IDLE = 1.0  # seconds
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(bytes(LARGE))
    return path


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("impatient"), max_upload=LIMIT, upload_idle=f"{IDLE}s") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def trickle(impatient: Server) -> Iterator[Trickle]:
    """Begin an upload that is too slow; the rate of an upload counts after 10 s, which pass while other tests run."""
    trickle = Trickle(impatient.url)
    trickle.start()
    yield trickle
    trickle.stopped.set()
    trickle.join()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("full"), queue_limit=1, **CONTROLLED) as running:
        yield running


class Trickle(threading.Thread):
    """An upload of 100 bytes a second, until it is answered."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._wire = Wire(url)
        self.stopped = threading.Event()
        self.answer: httpx.Response | None = None
        self.took = 0.0

    def run(self) -> None:
        began = time.monotonic()
        with self._wire as wire:
            wire.begin("POST", "/v1/jobs", content_length=LIMIT)
            wire.socket.settimeout(0.1)
            while not self.stopped.is_set():
                with suppress(TimeoutError):
                    if wire.socket.recv(1, socket.MSG_PEEK):
                        break
                wire.send(bytes(10))
            self.took = time.monotonic() - began
            wire.socket.settimeout(20)
            if not self.stopped.is_set():
                self.answer = wire.answer()


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    ("path", "arguments", "status", "code"),
    [
        ("/v1/jobs", ["-F", "file=@{}"], 413, "file-too-large"),
        ("/v1/files/", ["-T", "{}"], 413, "file-too-large"),
        ("/v1/jobs", ["--data-binary", "@{}"], 413, "file-too-large"),
        ("/v1/jobs", ["-F", "file=@{}", "-H", "Content-Encoding: gzip"], 415, "content-encoding-not-supported"),
        ("/v1/jobs", ["-T", "{}", "-X", "POST", "-H", "Content-Type: x"], 415, "unsupported-media-type"),
        ("/v1/jobs", ["-F", "file=@{}", "-H", "Idempotency-Key: a b"], 400, "idempotency-key-invalid"),
        ("/v1/jobs", ["-F", "file=@{}", "-H", "Content-Digest: x"], 400, "digest-invalid"),
        ("/v1/elsewhere", ["-F", "file=@{}"], 404, "not-found"),
        ("/v1/limits", ["-F", "file=@{}"], 405, "method-not-allowed"),
    ],
)
def test_curl_sends_no_byte_of_a_file_that_is_refused(
    server: Server, large: Path, path: str, arguments: list[str], status: int, code: str
):
    words = [word.replace("{}", str(large)) for word in arguments]
    with nothing_left(server):
        sent = curl(*words, "-H", "Expect: 100-continue", "--expect100-timeout", "20", server.url + path)
        problem(sent.answer, status, code)
        assert sent.uploaded == 0
        assert sent.answer.headers["Connection"] == "close"


def test_a_file_that_is_too_large_is_told_the_limit_and_its_size(http: httpx.Client):
    found = problem(http.post("/v1/jobs", content=bytes(LIMIT + 1)), 413, "file-too-large")
    assert found["max_size"] == LIMIT
    assert "1MiB" in found["detail"]
    assert "INTAKE_MAX_UPLOAD" in found["hint"]


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 2**16):
        yield bytes(2**16)


def test_requests_gets_the_413_of_an_upload_of_unknown_length(server: Server):
    with nothing_left(server):
        for _ in range(3):
            answer = requests.post(f"{server.url}/v1/jobs", data=pieces(LARGE), timeout=30)
            problem(answer, 413, "file-too-large")


def test_httpx_gets_the_413_of_an_upload_of_unknown_length(server: Server):
    with nothing_left(server), client(server) as http:
        for _ in range(3):
            problem(http.post("/v1/jobs", content=pieces(LARGE)), 413, "file-too-large")


def test_clients_get_the_413_of_a_form_of_known_length(server: Server, large: Path):
    with nothing_left(server), client(server) as http:
        problem(http.post("/v1/jobs", files={"file": large.read_bytes()}), 413, "file-too-large")
        with large.open("rb") as opened:
            answer = requests.post(f"{server.url}/v1/jobs", files={"file": opened}, timeout=30)
        problem(answer, 413, "file-too-large")


def test_a_form_of_unknown_length_is_cut_off_at_the_limit(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_type=FORM, transfer_encoding="chunked")
        wire.chunk(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode())
        for piece in pieces(LIMIT + 2**16):
            wire.chunk(piece)
        answer = wire.answer()
        problem(answer, 413, "file-too-large")
        assert answer.headers["Connection"] == "close"


def test_who_goes_on_sending_after_the_413_is_cut_off(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=2**32)
        buffers = sum(int(Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text().split()[2]) for way in "rw")
        most = 26 * 2**20 + buffers  # the drain's 16 MiB, a little more, and what the kernel holds
        sent = 0
        with suppress(ConnectionError):
            while sent < 2 * most:
                wire.send(bytes(2**18))
                sent += 2**18
        assert 12 * 2**20 <= sent < most


def test_a_connection_goes_on_after_a_refusal_that_has_read_the_whole_body(server: Server):
    with Wire(server.url) as wire:
        for _ in range(2):
            answer = wire.post_form(form([part('name="nonsense"', b"1")]))
            problem(answer, 422, "validation-error")
            assert "Connection" not in answer.headers


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([part(f'name="labels.a{number}"', b"x") for number in range(33)], 422, "validation-error"),
        ([part('name="labels.a"', b"x")] * 2, 422, "validation-error"),
        ([part('name="pipeline"', b"x" * (64 * 2**10 + 1))], 422, "validation-error"),
        ([part('name="file"', b"1", *(f"X-H{number}: x" for number in range(8)))], 400, "malformed-request"),
        ([part('name="file"', b"1", "X-Long: " + "x" * 8192)], 400, "malformed-request"),
        ([part(f'name="{"n" * 101}"', b"1")], 400, "malformed-request"),
        ([part('name=""', b"1")], 400, "malformed-request"),
        ([part('filename="a.txt"', b"1")], 400, "malformed-request"),
        (
            [f"--{BOUNDARY}\r\nContent-Disposition: attachment; name=file\r\n\r\n1\r\n".encode()],
            400,
            "malformed-request",
        ),
        ([f"--{BOUNDARY}\r\n\r\n1\r\n".encode()], 400, "malformed-request"),
        ([f"--{BOUNDARY}\r\nno colon\r\n\r\n1\r\n".encode()], 400, "malformed-request"),
        ([f"--{BOUNDARY}\r\nbad name: x\r\n\r\n1\r\n".encode()], 400, "malformed-request"),
        ([b"what is this\r\n"], 400, "malformed-request"),
    ],
)
def test_a_form_beyond_its_limits_or_against_its_grammar_is_refused(
    server: Server, parts: list[bytes], status: int, code: str
):
    with nothing_left(server), Wire(server.url) as wire:
        problem(wire.post_form(form(parts)), status, code)


def test_limits_of_a_form_are_met_to_the_byte(server: Server):
    labels = [part(f'name="labels.k{number}"', b"x" * 256) for number in range(16)]
    fields = [part('name="pipeline"', b"checksum"), part('name="sha256"', sha256(b"1").encode())]
    file = part('name="file"', b"1", *(f"X-H{number}: {'x' * 8000}" for number in range(7)))
    with Wire(server.url) as wire:
        accepted(wire.post_form(form([*labels, *fields, file])))


@pytest.mark.parametrize("boundary", ["", '""', "b" * 71])
def test_a_boundary_that_cannot_be_one_is_refused_before_the_body(server: Server, boundary: str):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_type=f"multipart/form-data; boundary={boundary}", content_length=100)
        problem(wire.answer(), 400, "malformed-request")


def test_a_form_without_a_boundary_is_refused_before_the_body(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_type="multipart/form-data", content_length=100)
        problem(wire.answer(), 400, "malformed-request")


def test_a_form_that_ends_before_its_last_boundary_is_truncated(server: Server):
    whole = form([part('name="file"; filename="a.txt"', b"one\n")])
    for end in (len(whole) - 4, len(whole) - 10, len(whole) - 30, 60, 30, 1, 0):
        with nothing_left(server), Wire(server.url) as wire:
            problem(wire.post_form(whole[:end]), 400, "truncated-body")


def test_a_form_with_the_boundary_of_another_is_refused(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        body = form([part('name="file"; filename="a.txt"', b"one\n")])
        problem(wire.post_form(body, boundary="another"), 400, "malformed-request")


def test_a_client_that_promised_more_than_it_sends_leaves_nothing(server: Server):
    with nothing_left(server):
        for how in ("close", "half"):
            with Wire(server.url) as wire:
                wire.begin("POST", "/v1/jobs", content_length=1000)
                wire.send(b"x" * 999)
                if how == "half":
                    wire.socket.shutdown(socket.SHUT_WR)
                    assert wire.socket.recv(1) == b""


def test_chunks_that_are_none_leave_nothing(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", transfer_encoding="chunked")
        wire.chunk(b"one\n")
        wire.send(b"nonsense\r\n")
        assert wire.answer().status_code == 400


def test_a_client_that_goes_at_any_of_a_hundred_points_leaves_nothing(server: Server):
    chance = random.Random(7)
    content = chance.randbytes(3 * 2**16)
    before = traces(server)
    for number in range(100):
        whole = _request(chunked=number % 2 == 0, multipart=number % 4 < 2, content=content)
        cut = chance.choice(
            [chance.randrange(len(whole)), chance.randrange(300), len(whole) - 1 - chance.randrange(60)]
        )
        with Wire(server.url) as wire:
            if number % 3 == 0:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
            wire.send(whole[:cut])
    wait_until(lambda: traces(server) <= before, what="the traces of a hundred clients to be gone")
    with client(server) as http:
        finished(http, submit(http))


def _request(*, chunked: bool, multipart: bool, content: bytes) -> bytes:
    body = (
        form([part('name="pipeline"', b"checksum"), part('name="file"; filename="a"', content)])
        if multipart
        else content
    )
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM if multipart else 'text/plain'}\r\n"
    if chunked:
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:70000], body[70000:])) + b"0\r\n\r\n"
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + sent
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("multipart", [True, False])
def test_a_client_that_falls_silent_is_told_and_left(impatient: Server, multipart: bool):
    headers: dict[str, Any] = {"content_type": FORM} if multipart else {}
    with nothing_left(impatient), Wire(impatient.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=1000, **headers)
        began = time.monotonic()
        wire.send(part('name="file"; filename="a"', b"one")[:80])
        answer = wire.answer()
        assert IDLE * 0.9 <= time.monotonic() - began < IDLE + 5
    found = problem(answer, 408, "upload-timeout")
    assert found["received_bytes"] == 80
    assert answer.headers["Connection"] == "close"


def test_a_client_that_sends_no_byte_at_all_is_told_too(impatient: Server):
    with nothing_left(impatient), Wire(impatient.url) as wire:
        wire.begin("POST", "/v1/jobs", transfer_encoding="chunked")
        assert problem(wire.answer(), 408, "upload-timeout")["received_bytes"] == 0


def test_pauses_shorter_than_the_limit_are_fine(impatient: Server):
    with Wire(impatient.url) as wire:
        wire.begin("POST", "/v1/jobs?pipeline=checksum", content_length=6)
        for _ in range(6):
            wire.send(b"x")
            until = time.monotonic() + IDLE / 5
            wait_until(lambda until=until: time.monotonic() > until)
        accepted(wire.answer())


@pytest.fixture(scope="module")
def held(full: Server) -> Iterator[dict[str, Any]]:
    """Have the only place of the queue taken."""
    with client(full) as http:
        job = holding(http)
        wait_until(lambda: http.post("/v1/jobs", content=b"").status_code == 503, what="the queue to be counted")
        yield job


def test_a_full_queue_refuses_before_the_first_byte(full: Server, held: dict[str, Any], large: Path):
    with nothing_left(full):
        with Wire(full.url) as wire:
            wire.begin("POST", "/v1/jobs", content_length=1000)
            answer = wire.answer()
            problem(answer, 503, "queue-full")
            assert answer.headers["Retry-After"] == "10"
        if held:
            sent = curl("-F", f"file=@{large}", f"{full.url}/v1/jobs")
            problem(sent.answer, 503, "queue-full")
            assert sent.uploaded == 0


def test_a_full_queue_is_not_ready(full: Server, held: dict[str, Any]):
    with client(full) as http:
        answer = http.get("/readyz?verbose")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        checks = answer.json()["checks"]
        assert (checks["disk"], checks["queue"], checks["engine"]) == ("ok", "full", "supervisor runs")
        assert http.get("/livez").status_code == 200


def test_a_full_queue_takes_files_again_when_a_job_is_over(full: Server, held: dict[str, Any]):
    with client(full) as http:
        assert http.post(held["links"]["cancel"]).status_code == 202
        finished(http, held, "canceled")
        answer = wait_until(lambda: (got := http.post("/v1/jobs", content=b"1")).status_code != 503 and got)
        accepted(answer)


@pytest.mark.needs("curl")
def test_a_disk_down_to_its_reserve_refuses_before_the_first_byte(tmp_path: Path, large: Path):
    with Server(tmp_path, min_free="1000TiB") as server:
        with nothing_left(server):
            sent = curl("-F", f"file=@{large}", f"{server.url}/v1/jobs")
            problem(sent.answer, 507, "storage-full")
            assert sent.uploaded == 0
            assert sent.answer.headers["Retry-After"] == "60"
            problem(
                httpx.post(f"{server.url}/v1/jobs", content=pieces(2**17), trust_env=False, verify=NO_TLS),
                507,
                "storage-full",
            )
        ready = httpx.get(f"{server.url}/readyz?verbose", trust_env=False, verify=NO_TLS)
        assert (ready.status_code, ready.json()["checks"]["disk"]) == (503, "free space is down to the reserve")


def test_a_client_slower_than_the_minimum_is_told_after_a_fair_time(impatient: Server, trickle: Trickle):
    wait_until(lambda: not trickle.is_alive(), timeout=20, what="the slow upload to be answered")
    assert trickle.answer is not None
    found = problem(trickle.answer, 408, "upload-timeout")
    assert "1024 bytes per second" in found["detail"]
    assert trickle.took >= 10
    assert found["received_bytes"] < 10 * 1024
    wait_until(lambda: not list((impatient.data_dir / "incoming").iterdir()))
