"""The client's decisions, driven by hand: what is sent, when it is sent again, how long is waited. No network, no clock."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    Conflict,
    Corrupt,
    Expired,
    JobFailed,
    NotAllowed,
    NotFound,
    Refused,
    Unreachable,
    WaitTimeout,
)
from service.client.document import JobView, Snapshot
from service.client.following import follow
from service.client.operations import Api
from service.client.wire import Operation, Send, Sleep, Tell
from service.errors import ConfigError

JOB: dict[str, Any] = {
    "id": "0199c1f2-0000-7000-8000-000000000000",
    "status": "queued",
    "done": False,
    "attempt": 0,
    "created_at": "2026-11-22T10:00:00.000Z",
    "file": {"name": "a.txt", "size": 3, "sha256": "00", "media_type": None},
    "pipeline": "default",
    "labels": {},
    "steps": [],
    "error": None,
}
DONE = JOB | {"status": "succeeded", "done": True}


class Wire:
    """Answers requests with what it was given, one after the other, and keeps what was sent. An exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[httpx.Request, bytes]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request, request.content))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def headers(self, name: str) -> list[str | None]:
        return [request.headers.get(name) for request, _ in self.sent]

    def client(self, **options: Any) -> Client:
        client = Client("http://service.test/base/", transport=httpx.MockTransport(self), **options)
        object.__setattr__(client.api, "backoff", 0.0)
        return client


def answer(status: int, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def problem(status: int, code: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"code": code, "detail": "It does not work.", "hint": "Do it well.", "request_id": "r1"} | more
    return httpx.Response(status, json=body, headers=headers)


def drive(operation: Operation[Any], *answers: httpx.Response | Exception) -> tuple[Any, list[Any]]:
    """Carry an operation out with prepared answers and without sleeping; return its result and all its effects."""
    effects: list[Any] = []
    rest, result = list(answers), None
    try:
        effect = next(operation)
        while True:
            effects.append(effect)
            if isinstance(effect, Sleep):
                effect = operation.send(None)
                continue
            assert isinstance(effect, Send)
            step = rest.pop(0)
            effect = operation.throw(step) if isinstance(step, Exception) else operation.send(_of(effect, step))
    except StopIteration as stop:
        result = stop.value
    return result, effects


def _of(effect: Send, response: httpx.Response) -> httpx.Response:
    response.request = effect.request
    return response


def pauses(effects: list[Any]) -> list[float]:
    return [effect.seconds for effect in effects if isinstance(effect, Sleep)]


def test_an_upload_is_a_raw_body_with_name_type_and_a_key() -> None:
    wire = Wire(answer(202, JOB))
    job = wire.client().submit(b"abc", name="a.txt", pipeline="identify", labels={"from": "mail"})
    assert job.id == JOB["id"]
    request, body = wire.sent[0]
    assert body == b"abc"
    assert str(request.url) == "http://service.test/base/v1/jobs?pipeline=identify&labels.from=mail"
    assert request.headers["Host"] == "service.test"
    assert request.headers["Content-Length"] == "3"
    assert request.headers["Content-Type"] == "text/plain"
    assert request.headers["Content-Disposition"] == 'attachment; filename="a.txt"'
    assert len(request.headers["Idempotency-Key"].strip('"')) == 36


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("plain name.pdf", 'attachment; filename="plain name.pdf"'),
        ("naïve.pdf", "attachment; filename*=UTF-8''na%C3%AFve.pdf"),
        ('a"b.pdf', "attachment; filename*=UTF-8''a%22b.pdf"),
        ("50%.pdf", "attachment; filename*=UTF-8''50%25.pdf"),
        ("a\r\nb", "attachment; filename*=UTF-8''a%0D%0Ab"),
    ],
)
def test_a_name_that_is_not_plain_ascii_is_sent_as_utf_8(name: str, header: str) -> None:
    wire = Wire(answer(202, JOB))
    wire.client().submit(b"abc", name=name)
    assert wire.headers("Content-Disposition") == [header]


def test_a_sha256_is_sent_as_repr_digest() -> None:
    wire = Wire(answer(202, JOB))
    wire.client().submit(b'{"hello": "world"}\n', sha256=hashlib.sha256(b'{"hello": "world"}\n').hexdigest())
    assert wire.headers("Repr-Digest") == ["sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"]


@pytest.mark.parametrize(
    "wrong", [{"sha256": "abcd"}, {"sha256": "no hex"}, {"idempotency_key": "a\nb"}, {"idempotency_key": ""}]
)
def test_values_that_cannot_be_sent_are_refused_before_anything_is_sent(wrong: dict[str, str]) -> None:
    wire = Wire()
    with pytest.raises(ValueError, match=r"sha256|hex|printable"):
        wire.client().submit(b"abc", **wrong)  # type: ignore[arg-type]
    assert not wire.sent


def test_who_is_to_be_told_is_passed_on_and_nobody_is_where_nobody_was_named() -> None:
    wire = Wire(answer(202, JOB), answer(202, JOB))
    url = "https://hooks.example.org/?a=1&b=2"
    wire.client().submit(b"abc", callback_url=url, notify_email="me+a@example.org", notify_on="failure")
    wire.client().submit(b"abc")
    named, nobody = (request.url.params for request, _ in wire.sent)
    assert dict(named) == {"callback_url": url, "notify_email": "me+a@example.org", "notify_on": "failure"}
    assert not dict(nobody)


def test_a_key_may_hold_quotes() -> None:
    wire = Wire(answer(202, JOB))
    wire.client().submit(b"abc", idempotency_key='a"b\\c')
    assert wire.headers("Idempotency-Key") == ['"a\\"b\\\\c"']


def test_after_a_lost_connection_the_whole_file_is_sent_again_with_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 300_000)
    wire = Wire(httpx.ReadError("gone"), httpx.ConnectError("refused"), answer(202, JOB))
    moved: list[int] = []
    wire.client().submit(tmp_path / "a.bin", progress=lambda sent, _: moved.append(sent))
    assert [len(body) for _, body in wire.sent] == [300_000] * 3
    assert len(set(wire.headers("Idempotency-Key"))) == 1
    assert moved == [262_144, 300_000] * 3


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (408, "upload-timeout"),
        (429, "slow-down"),
        (502, "x"),
        (503, "queue-full"),
        (504, "x"),
        (409, "idempotency-key-in-use"),
    ],
)
def test_an_answer_that_may_pass_is_asked_for_again(status: int, code: str) -> None:
    wire = Wire(problem(status, code), answer(202, JOB))
    assert wire.client().submit(b"abc").id == JOB["id"]
    assert [body for _, body in wire.sent] == [b"abc", b"abc"]


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422, 500, 507])
def test_an_answer_that_will_not_pass_is_final(status: int) -> None:
    wire = Wire(problem(status, "some-code"))
    with pytest.raises(Refused) as caught:
        wire.client().submit(b"abc")
    assert (caught.value.status, caught.value.code, caught.value.hint) == (status, "some-code", "Do it well.")
    assert caught.value.request_id == "r1"
    assert str(caught.value) == "It does not work."
    assert len(wire.sent) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, NotAllowed), (403, NotAllowed), (404, NotFound), (410, Expired), (409, Conflict), (412, Conflict)],
)
def test_a_refusal_has_a_class_of_its_own(status: int, kind: type[Refused]) -> None:
    with pytest.raises(kind):
        Wire(problem(status, "some-code")).client().job("x")


def test_after_the_last_retry_the_refusal_is_raised() -> None:
    wire = Wire(*[problem(503, "queue-full")] * 3)
    with pytest.raises(Refused) as caught:
        wire.client(retries=2).submit(b"abc")
    assert caught.value.temporary
    assert len(wire.sent) == 3


def test_who_is_told_to_come_back_tomorrow_is_not_made_to_wait() -> None:
    wire = Wire(problem(429, "quota-jobs-exceeded", headers={"Retry-After": "40000"}))
    with pytest.raises(Refused) as caught:
        wire.client(retries=5).submit(b"abc")
    assert caught.value.retry_after == 40000
    assert caught.value.temporary
    assert len(wire.sent) == 1


def test_after_the_last_retry_a_dead_service_is_unreachable() -> None:
    wire = Wire(*[httpx.ConnectError("")] * 2)
    with pytest.raises(Unreachable, match="ConnectError") as caught:
        wire.client(retries=1).job("x")
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


class Pipe(io.RawIOBase):
    """A file that cannot seek, and gives less than it is asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not len(buffer) or not self.pieces:
            return 0
        piece = self.pieces.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_pipe_is_sent_in_chunks_as_they_come_and_never_twice() -> None:
    wire = Wire(problem(503, "queue-full"))
    with pytest.raises(Refused):
        wire.client().submit(Pipe(b"ab", b"c"), name="p")  # type: ignore[arg-type]
    request, body = wire.sent[0]
    assert (body, request.headers["Transfer-Encoding"]) == (b"abc", "chunked")
    assert "Content-Length" not in request.headers


def test_an_open_file_is_sent_from_where_it_stands_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "named.txt").write_bytes(b"skip this, send that")
    wire = Wire(problem(503, "queue-full"), answer(202, JOB))
    with (tmp_path / "named.txt").open("rb") as file:
        file.seek(11)
        wire.client().submit(file)
        assert not file.closed
    assert [body for _, body in wire.sent] == [b"send that"] * 2
    assert wire.headers("Content-Disposition")[0] == 'attachment; filename="named.txt"'


def test_a_named_pipe_is_sent_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=fifo.write_bytes, args=(b"through a fifo",), daemon=True).start()
    wire = Wire(problem(503, "queue-full"))
    with pytest.raises(Refused):
        wire.client().submit(fifo)
    assert [body for _, body in wire.sent] == [b"through a fifo"]


@pytest.mark.parametrize("content", [io.StringIO("text"), 7, None])
def test_what_is_not_bytes_is_refused_with_words(content: Any) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        Wire().client().submit(content)


def test_a_directory_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Wire().client().submit(tmp_path)


def test_a_file_that_shrinks_while_it_is_sent_is_reported_as_that() -> None:
    with pytest.raises(ClientError, match="did not go through") as caught:
        Wire(httpx.LocalProtocolError("Too little data")).client().submit(b"abc")
    assert caught.value.hint == "did the file change while it was sent?"


def test_retry_after_is_the_least_pause_before_a_retry() -> None:
    api = Api("http://service.test", chance=lambda: 1.0)
    _, effects = drive(
        api.job("x"),
        problem(503, "c", headers={"Retry-After": "7"}),
        problem(503, "c", headers={"Retry-After": "soon"}),
        answer(200, JOB),
    )
    assert pauses(effects) == [7.0, 1.0]


def test_whoever_asks_is_told_of_every_retry() -> None:
    told: list[tuple[str, float]] = []
    api = Api("http://service.test", chance=lambda: 1.0, on_retry=lambda error, pause: told.append((str(error), pause)))
    drive(api.job("x"), problem(503, "queue-full"), httpx.ConnectError("refused"), answer(200, JOB))
    assert told == [("It does not work.", 0.5), ("http://service.test does not answer: refused", 1.0)]


def test_pauses_double_up_to_their_cap() -> None:
    api = Api("http://service.test", retries=8, chance=lambda: 1.0)
    _, effects = drive(api.job("x"), *[httpx.ConnectError("")] * 8, answer(200, JOB))
    assert pauses(effects) == [0.5, 1, 2, 4, 8, 16, 20, 20]


def test_chance_takes_at_most_half_of_a_pause() -> None:
    api = Api("http://service.test", chance=lambda: 0.0)
    _, effects = drive(api.job("x"), httpx.ConnectError(""), answer(200, JOB))
    assert pauses(effects) == [0.25]


def sent(effects: list[Any], name: str) -> list[str | None]:
    return [effect.request.headers.get(name) for effect in effects if isinstance(effect, Send)]


def waits(last: Snapshot, *, timeout: float | None = None, api: Api | None = None) -> Operation[Snapshot]:
    """Wait for a job where there are no event streams, and return it at its end."""
    last = Snapshot(last.document, last.etag)
    operation = follow(api or Api("http://service.test"), last, timeout=timeout)
    effect, answer = next(operation, None), None
    assert effect is None or isinstance(effect, Send)
    if effect is not None and effect.request.url.path.endswith("/events"):
        effect = operation.send(httpx.Response(404, request=effect.request))
    while effect is not None:
        try:
            if isinstance(effect, Tell):
                last = effect.value
                effect = next(operation)
                continue
            try:
                answer = yield effect
            except httpx.TransportError as error:
                effect = operation.throw(error)
            else:
                effect = operation.send(answer)
        except StopIteration:
            break
    return last


def test_waiting_leaves_the_waiting_to_the_service() -> None:
    applied = {"Preference_Applied": "wait=15"}
    running = JOB | {"status": "running"}
    result, effects = drive(
        waits(Snapshot(JOB)),
        answer(200, JOB, ETag='"1"', Retry_After="1"),
        answer(304, Retry_After="1", **applied),
        answer(200, running, ETag='"2"', Retry_After="1", **applied),
        answer(200, DONE, ETag='"3"', **applied),
    )
    assert result.document == DONE
    assert pauses(effects) == []
    assert sent(effects, "If-None-Match") == [None, '"1"', '"1"', '"2"']
    assert sent(effects, "Prefer") == [None, "wait=15", "wait=15", "wait=15"]


def test_where_the_service_does_not_wait_it_is_asked_as_often_as_it_says() -> None:
    running = JOB | {"status": "running"}
    result, effects = drive(
        waits(Snapshot(JOB, '"1"')),
        answer(304, Retry_After="2"),
        answer(200, running, ETag='"2"', Retry_After="5"),
        answer(304, Retry_After="5"),
        answer(200, DONE, ETag='"3"'),
    )
    assert result.document == DONE
    assert pauses(effects) == [2, 5]
    assert sent(effects, "If-None-Match") == ['"1"', '"1"', '"2"', '"2"']


def test_without_retry_after_waiting_looks_less_and_less_often() -> None:
    _, effects = drive(waits(Snapshot(JOB)), *[answer(200, JOB) for _ in range(8)], answer(200, DONE))
    assert pauses(effects)[:3] == pytest.approx([0.2, 0.3, 0.45])
    assert pauses(effects)[-1] == 2.0


def test_waiting_for_a_done_job_asks_nothing() -> None:
    assert drive(waits(Snapshot(DONE))) == (Snapshot(DONE), [])


def test_waiting_ends_at_its_deadline_after_a_last_look() -> None:
    now = [100.0]
    api = Api("http://service.test", clock=lambda: now[0])
    operation = waits(Snapshot(JOB, '"1"'), timeout=3.5, api=api)
    look = operation.send(None)
    assert isinstance(look, Send)
    assert look.request.headers["Prefer"] == "wait=3"
    now[0] += 3
    look = operation.send(_of(look, answer(304, Preference_Applied="wait=3")))
    assert isinstance(look, Send)
    assert "Prefer" not in look.request.headers, "half a second cannot be asked for"
    assert operation.send(_of(look, answer(304, Retry_After="10"))) == Sleep(0.5)
    now[0] += 0.5
    look = operation.send(None)
    assert isinstance(look, Send)
    with pytest.raises(WaitTimeout) as caught:
        operation.send(_of(look, answer(304)))
    assert caught.value.job.status == "queued"


def test_a_retry_by_hand_is_not_repeated_when_it_may_have_been_carried_out() -> None:
    wire = Wire(httpx.ReadTimeout("silence"))
    with pytest.raises(Unreachable):
        wire.client().retry("x")
    wire = Wire(httpx.ConnectError("refused"), answer(202, JOB))
    assert wire.client().retry("x").status == "queued"


def test_a_delete_whose_answer_was_lost_counts_as_done() -> None:
    Wire(httpx.ReadError("gone"), problem(404, "not-found")).client().delete("x")
    with pytest.raises(NotFound):
        Wire(problem(404, "not-found")).client().delete("x")


def test_pages_are_followed_with_the_same_filters() -> None:
    wire = Wire(answer(200, {"items": [JOB], "next_cursor": "c2"}), answer(200, {"items": [DONE], "next_cursor": None}))
    found = list(wire.client().jobs(status="failed", type=None, labels={"a": "b"}))
    assert [job.status for job in found] == ["queued", "succeeded"]
    assert [str(request.url.query, "ascii") for request, _ in wire.sent] == [
        "status=failed&label.a=b",
        "status=failed&label.a=b&cursor=c2",
    ]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": 1}'])
def test_an_answer_that_is_no_job_is_not_the_service(body: bytes) -> None:
    with pytest.raises(Unreachable, match="is not"):
        Wire(httpx.Response(200, content=body)).client().job("x")


def test_an_error_page_of_a_proxy_is_told_with_its_status() -> None:
    with pytest.raises(Refused, match="answered 500 Internal Server Error") as caught:
        Wire(httpx.Response(500, text="<html>")).client().job("x")
    assert caught.value.code == "http-500"


def test_a_redirect_names_the_right_address() -> None:
    with pytest.raises(Unreachable, match="redirects to https://elsewhere"):
        Wire(httpx.Response(308, headers={"Location": "https://elsewhere"})).client().job("x")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://a:b"])
def test_what_is_no_address_of_a_service_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url)


def test_the_address_is_that_of_the_settings_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAKE_SERVER", "http://from.settings:1/")
    with Client() as client:
        assert client.api.url == "http://from.settings:1"


def test_an_id_never_leads_to_another_path() -> None:
    wire = Wire(answer(200, JOB))
    wire.client().job("../limits?x#y")
    assert wire.sent[0][0].url.raw_path == b"/base/v1/jobs/..%2Flimits%3Fx%23y"


CONTENT = b"0123456789" * 10
MADE = {"name": "p.webp", "size": 100, "media_type": "image/webp", "sha256": hashlib.sha256(CONTENT).hexdigest()}
WITH_ARTIFACT = DONE | {"steps": [{"name": "image", "status": "succeeded", "facts": {"width": 3}, "artifacts": [MADE]}]}


class Torn(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Any:
        yield self.content
        raise httpx.ReadError("torn")


def ranged(*, honoured: bool, torn_at: int | None = None) -> Callable[[httpx.Request], httpx.Response]:
    def reply(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1]) if honoured else 0
        headers = {"ETag": '"e"'}
        status = 206 if "Range" in request.headers and honoured else 200
        if torn_at is not None:
            return httpx.Response(status, headers=headers, stream=Torn(CONTENT[start:torn_at]))
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(CONTENT[start:]))

    return reply


def test_a_download_goes_to_a_directory_under_its_own_name(tmp_path: Path) -> None:
    wire = Wire(answer(200, WITH_ARTIFACT), ranged(honoured=True))
    job = wire.client().job("x")
    assert job.results["image"].facts == {"width": 3}
    path = job.download("image", to=f"{tmp_path}/new/")
    assert path == tmp_path / "new" / "p.webp"
    assert path.read_bytes() == CONTENT
    assert wire.sent[1][0].url.path.endswith("/artifacts/image/p.webp")


@pytest.mark.parametrize("honoured", [True, False])
def test_a_torn_download_goes_on_where_it_broke_off(tmp_path: Path, honoured: bool) -> None:
    wire = Wire(
        answer(200, WITH_ARTIFACT),
        ranged(honoured=True, torn_at=30),
        ranged(honoured=honoured, torn_at=60),
        ranged(honoured=honoured),
    )
    moved: list[int] = []
    path = (
        wire.client().job("x").download("image", "p.webp", to=tmp_path / "f", progress=lambda got, _: moved.append(got))
    )
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert wire.headers("Range")[1:] == [None, "bytes=30-", "bytes=60-"]
    assert wire.headers("If-Range")[1:] == [None, '"e"', '"e"']
    assert moved == [30, 60, 100]


def test_a_download_torn_again_and_again_is_given_up_and_leaves_nothing(tmp_path: Path) -> None:
    wire = Wire(answer(200, WITH_ARTIFACT), *[ranged(honoured=True, torn_at=30)] * 4)
    with pytest.raises(Unreachable, match="broke off"):
        wire.client(retries=2).job("x").download("image", to=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_wrong_bytes_are_not_put_in_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.webp").write_bytes(b"before")
    wire = Wire(answer(200, WITH_ARTIFACT), httpx.Response(200, stream=httpx.ByteStream(content)))
    with pytest.raises(Corrupt):
        wire.client().job("x").download("image", to=tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_download_to_an_open_file_is_written_there() -> None:
    wire = Wire(answer(200, WITH_ARTIFACT), ranged(honoured=True))
    target = io.BytesIO()
    assert wire.client().job("x").download("image", to=target) is None
    assert target.getvalue() == CONTENT


@pytest.mark.parametrize("name", ["../../evil", "..", "", "a/", "b\\evil"])
def test_a_name_from_the_service_never_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    file = {"name": name, "size": 100, "sha256": MADE["sha256"]}
    job = Wire(answer(200, DONE | {"file": file}), ranged(honoured=True)).client().job("x")
    if name in ("..", ""):
        with pytest.raises(ClientError, match="cannot be a name here"):
            job.source(to=inside)
    else:
        path = job.source(to=inside)
        assert path is not None
        assert path.parent == inside
    assert list(tmp_path.iterdir()) == [inside]


def test_an_artifact_must_be_named_unless_there_is_just_one() -> None:
    other = MADE | {"name": "q.webp"}
    steps = [
        {"name": "one", "status": "succeeded", "artifacts": [MADE]},
        {"name": "two", "status": "succeeded", "artifacts": [MADE, other]},
        {"name": "none", "status": "skipped", "artifacts": []},
    ]
    job = JobView(Snapshot(DONE | {"steps": steps}))
    assert job.artifact("one").name == "p.webp"
    assert job.artifact("two", "q.webp").name == "q.webp"
    for arguments in (("two",), ("two", "x"), ("none",), ("missing",)):
        with pytest.raises(ClientError) as caught:
            job.artifact(*arguments)
        assert caught.value.hint


def test_check_tells_a_failed_job_from_a_good_one() -> None:
    assert JobView(Snapshot(DONE)).check().status == "succeeded"
    assert JobView(Snapshot(JOB)).check().status == "queued"
    error = {"code": "image-broken", "detail": "The image is broken.", "hint": "Send another."}
    with pytest.raises(JobFailed, match="The image is broken") as caught:
        JobView(Snapshot(DONE | {"status": "failed", "error": error})).check()
    assert caught.value.hint == "Send another."
    with pytest.raises(JobFailed, match="no reason given"):
        JobView(Snapshot(DONE | {"status": "canceled"})).check()


def test_a_job_shows_its_document_as_attributes() -> None:
    job = JobView(Snapshot(JOB | {"labels": {"a": "b"}, "attempt": 2}))
    assert (job.labels, job.attempt, job.pipeline, job.file["name"], job.error) == (
        {"a": "b"},
        2,
        "default",
        "a.txt",
        None,
    )
    assert job.created_at.isoformat() == "2026-11-22T10:00:00+00:00"
    assert repr(job) == f"<JobView {JOB['id']} queued>"


@pytest.mark.anyio
async def test_the_asynchronous_client_makes_the_same_requests(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    replies = [
        httpx.ReadError("gone"),
        answer(202, JOB),
        answer(200, WITH_ARTIFACT),
        ranged(honoured=True),
        ranged(honoured=True),
    ]

    async def serve(request: httpx.Request) -> httpx.Response:
        bodies.append(await request.aread())
        reply: Any = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply  # type: ignore[no-any-return]

    async with AsyncClient("http://service.test", transport=httpx.MockTransport(serve)) as client:
        object.__setattr__(client.api, "backoff", 0.0)
        job = await client.submit(b"abc", name="a.txt")
        await job.refresh()
        path = await job.download("image", to=tmp_path)
        target = io.BytesIO()
        await job.download("image", to=target)
    assert bodies[:2] == [b"abc", b"abc"]
    assert path is not None
    assert path.read_bytes() == target.getvalue() == CONTENT
    assert not replies


def test_everything_exported_can_be_imported_and_is_documented() -> None:
    import service.client as package

    assert package.__doc__
    for name in package.__all__:
        assert getattr(package, name).__doc__
    assert json.dumps(sorted(package.__all__)) == json.dumps(list(package.__all__))
