"""Requests that two readers could understand differently, or that grow without end: each has one answer, and nothing after it."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from service.testing import Server
from tests.integration.api import accepted, problem
from tests.integration.traces import nothing_left
from tests.integration.wire import Wire
from tests.waiting import wait_until

LINE = b"POST /v1/jobs?pipeline=checksum HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 3\r\n"
GET = b"GET /livez HTTP/1.1\r\n"
#: What a smuggler hides behind a message: it must never be answered as a request of its own.
HIDDEN = b"GET /livez HTTP/1.1\r\nHost: hidden\r\n\r\n"
LAST = b"0\r\n\r\n"
HEADER_LIMIT = 16 * 2**10


def post(*headers: bytes, body: bytes = b"") -> bytes:
    return LINE + b"".join(headers) + b"\r\n" + body


def get(*headers: bytes) -> bytes:
    return GET + b"".join(headers) + b"\r\n"


def chunks(body: bytes) -> bytes:
    return post(HOST, CHUNKED, body=body)


#: Vectors of request smuggling: the lengths of a body, said twice, oddly, or in a way that some readers overlook.
SMUGGLING = {
    "length and chunks": post(HOST, LENGTH, CHUNKED, body=LAST),
    "chunks and length": post(HOST, CHUNKED, LENGTH, body=LAST),
    "length zero and chunks": post(HOST, b"Content-Length: 0\r\n", CHUNKED, body=LAST),
    "two equal lengths": post(HOST, LENGTH, LENGTH, body=b"abc"),
    "a list of equal lengths": post(HOST, b"Content-Length: 3, 3\r\n", body=b"abc"),
    "two different lengths": post(HOST, LENGTH, b"Content-Length: 4\r\n", body=b"abc"),
    "a length with a plus": post(HOST, b"Content-Length: +3\r\n", body=b"abc"),
    "a negative length": post(HOST, b"Content-Length: -3\r\n", body=b"abc"),
    "a hexadecimal length": post(HOST, b"Content-Length: 0x3\r\n", body=b"abc"),
    "a length of 23 digits": post(HOST, b"Content-Length: 00000000000000000000003\r\n", body=b"abc"),
    "a length beyond 64 bits": post(HOST, b"Content-Length: 18446744073709551619\r\n", body=b"abc"),
    "an empty length": post(HOST, b"Content-Length: \r\n", body=b"abc"),
    "a length with a space inside": post(HOST, b"Content-Length: 3 0\r\n", body=b"abc"),
    "a length with a fraction": post(HOST, b"Content-Length: 3.0\r\n", body=b"abc"),
    "a coding before chunked": post(HOST, b"Transfer-Encoding: gzip, chunked\r\n", body=LAST),
    "a coding after chunked": post(HOST, b"Transfer-Encoding: chunked, identity\r\n", body=LAST),
    "identity": post(HOST, b"Transfer-Encoding: identity\r\n", LENGTH, body=b"abc"),
    "almost chunked": post(HOST, b"Transfer-Encoding: xchunked\r\n", body=LAST),
    "chunked in quotes": post(HOST, b'Transfer-Encoding: "chunked"\r\n', body=LAST),
    "chunked after a vertical tab": post(HOST, b"Transfer-Encoding:\x0bchunked\r\n", body=LAST),
    "chunked with a comma": post(HOST, b"Transfer-Encoding: chunked,\r\n", body=LAST),
    "chunked twice": post(HOST, CHUNKED, CHUNKED, body=LAST),
    "chunked twice in one": post(HOST, b"Transfer-Encoding: chunked, chunked\r\n", body=LAST),
    "two codings": post(HOST, b"Transfer-Encoding: identity\r\n", CHUNKED, body=LAST),
    "a space before the colon": post(HOST, b"Transfer-Encoding : chunked\r\n", body=LAST),
    "a space before the name": post(HOST, b" Transfer-Encoding: chunked\r\n", LENGTH, body=LAST),
    "a folded coding": post(HOST, b"Transfer-Encoding:\r\n chunked\r\n", body=LAST),
    "a coding after a bare line feed": post(HOST, b"X: y\nTransfer-Encoding: chunked\r\n", body=LAST),
    "a coding after a bare carriage return": post(HOST, b"X: y\rTransfer-Encoding: chunked\r\n", body=LAST),
    "chunks in HTTP/1.0": chunks(LAST).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a body and another protocol": post(HOST, LENGTH, b"Connection: Upgrade\r\nUpgrade: h2c\r\n", body=b"abc"),
    "chunks and another protocol": post(HOST, CHUNKED, b"Connection: Upgrade\r\nUpgrade: x\r\n", body=LAST),
    "line feeds alone": chunks(LAST).replace(b"\r\n", b"\n"),
}
#: Bodies in chunks that are none.
BAD_CHUNKS = {
    "no line end after a chunk": b"3\r\nabcXX0\r\n\r\n",
    "line feeds alone": b"3\nabc\n0\n\n",
    "a line feed after the size": b"3\nabc\r\n0\r\n\r\n",
    "a line feed after an extension": b"3;x\nabc\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "a size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a size with a plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "a size after a space": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size before a space": b"3 \r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "a control character in an extension": b"3;\x01\r\nabc\r\n0\r\n\r\n",
    "a trailer that is a length": b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "a trailer that is a coding": b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer without a colon": b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n",
    "a megabyte of extension": b"3;" + b"x" * 2**20 + b"\r\nabc\r\n0\r\n\r\n",
    "extensions that add up": b"1;%b\r\na\r\n" % (b"x" * 500) * 2000 + LAST,
    "a hundred kilobytes of trailers": b"3\r\nabc\r\n0\r\n" + b"X: %b\r\n" % (b"y" * 1000) * 100 + b"\r\n",
    "trailers without end": b"3\r\nabc\r\n0\r\nX: " + b"y" * 2**20,
}
#: Heads that are not what RFC 9112 calls one.
BAD_HEADS = {
    "no Host": get(),
    "two equal Hosts": get(HOST, HOST),
    "two Hosts": get(HOST, b"Host: y\r\n"),
    "two Hosts in HTTP/1.0": get(HOST, HOST).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an empty Host": get(b"Host:\r\n"),
    "a Host with a path": get(b"Host: x/y\r\n"),
    "a Host with a user": get(b"Host: a@x\r\n"),
    "a Host with a space": get(b"Host: x y\r\n"),
    "a list of Hosts": get(b"Host: x, y\r\n"),
    "a NUL in a value": get(HOST, b"X: a\0b\r\n"),
    "a NUL in a name": get(HOST, b"X\0: a\r\n"),
    "an ESC in a value": get(HOST, b"X: \x1b[31m\r\n"),
    "a DEL in a value": get(HOST, b"X: \x7f\r\n"),
    "a bare line feed": get(HOST, b"X: a\nY: b\r\n"),
    "a bare carriage return": get(HOST, b"X: a\rY: b\r\n"),
    "an empty name": get(HOST, b": a\r\n"),
    "a name with a space": get(HOST, b"X Y: a\r\n"),
    "a name that is not ASCII": get(HOST, b"\xc3\xbc: a\r\n"),
    "a folded value": get(HOST, b"X: a\r\n b\r\n"),
    "a line without a colon": get(HOST, b"X\r\n"),
    "a NUL in the path": b"GET /live\0z HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that is not ASCII": b"GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the path": b"GET /live z HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fragment": b"GET /livez#top HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path without its slash": b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a whole address": b"GET http://x/livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "the whole server": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space before the method": b" GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/0.9 by number": b"GET /livez HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET /livez HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/11": b"GET /livez HTTP/11\r\nHost: x\r\n\r\n",
    "http in lower case": b"GET /livez http/1.1\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)),
    "another protocol": b"EHLO x\r\n",
}
#: What is unusual and fine.
GOOD = {
    "no Host in HTTP/1.0": (get().replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
    "a Host with a port": (get(b"Host: x:8000\r\n"), 200),
    "a Host that is an IPv6 address": (get(b"Host: [::1]:8000\r\n"), 200),
    "empty lines before the request": (b"\r\n\r\n" + get(HOST), 200),
    "bytes beyond ASCII in a value": (get(HOST, b"X: \xc3\xbc\xe9\r\n"), 200),
    "a tab in a value": (get(HOST, b"X: a\tb\r\n"), 200),
    "a path of two slashes": (b"GET //x/livez HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "another protocol is offered": (get(HOST, b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), 200),
    "chunked in capitals": (post(HOST, b"Transfer-Encoding: CHUNKED\r\n", body=b"1\r\nx\r\n" + LAST), 202),
    "chunked after a tab": (post(HOST, b"Transfer-Encoding:\tchunked\r\n", body=b"1\r\nx\r\n" + LAST), 202),
    "a chunk's extension": (chunks(b'3;a=b;c="d"\r\nabc\r\n' + LAST), 202),
    "a chunk's size with zeros": (chunks(b"0003\r\nabc\r\n" + LAST), 202),
    "a thousand chunks of a byte": (chunks(b"1\r\nx\r\n" * 1000 + LAST), 202),
    "a trailer": (chunks(b"3\r\nabc\r\n0\r\nX-Checksum: y\r\n\r\n"), 202),
}


def refused(server: Server, sent: bytes, status: int = 400, code: str = "malformed-request") -> dict[str, Any]:
    """Check that this is answered once, with this problem, and that the connection ends with it."""
    with nothing_left(server), Wire(server.url) as wire:
        try:
            wire.send(sent + HIDDEN)
        except ConnectionError:
            pytest.fail("the server has cut the connection before it was told all")
        [answer] = wire.answers()
        assert answer.headers["Connection"] == "close"
        return problem(answer, status, code)


@pytest.mark.parametrize("vector", SMUGGLING)
def test_a_body_whose_length_could_be_misunderstood_is_refused(server: Server, vector: str):
    refused(server, SMUGGLING[vector])


@pytest.mark.parametrize("vector", BAD_CHUNKS)
def test_chunks_that_are_none_are_refused(server: Server, vector: str):
    refused(server, chunks(BAD_CHUNKS[vector]))


@pytest.mark.parametrize("vector", BAD_HEADS)
def test_a_head_that_is_none_is_refused(server: Server, vector: str):
    refused(server, BAD_HEADS[vector])


@pytest.mark.parametrize("vector", GOOD)
def test_what_is_unusual_and_clear_is_taken(server: Server, vector: str):
    sent, status = GOOD[vector]
    with Wire(server.url) as wire:
        wire.send(sent)
        answer = wire.answer()
        assert answer.status_code == status, answer.text
        if status == 202:
            accepted(answer)


def test_a_request_id_is_kept_by_a_refusal(server: Server):
    assert refused(server, get(b"X-Request-ID: mine\r\n"))["request_id"] == "mine"


@pytest.mark.parametrize("fields", [1, 100])
def test_the_header_section_is_bounded_to_the_byte(server: Server, fields: int):
    room = HEADER_LIMIT - len("host") - len("x") - 4
    each = room // fields - 4 - len("x-000")
    padding = [b"X-%03d: %b\r\n" % (number, b"y" * each) for number in range(fields)]
    rest = room - fields * (each + 4 + len("x-000"))
    padding[-1] = padding[-1].replace(b"\r\n", b"z" * rest + b"\r\n")
    with Wire(server.url) as wire:
        wire.send(get(HOST, *padding))
        assert wire.answer("GET").status_code == 200
    padding[-1] = padding[-1].replace(b"\r\n", b"!\r\n")
    assert refused(server, get(HOST, *padding), 431, "headers-too-large")["max_size"] == HEADER_LIMIT


@pytest.mark.parametrize(
    "endless", [b"X: " + b"y" * 2**20, b"X: y\r\n" * 2**17, b"X" * 2**20, b"X:" + b" " * 2**20],
    ids=["a value", "fields", "a name", "spaces"],
)  # fmt: skip
def test_a_head_without_end_is_refused_while_it_grows(server: Server, endless: bytes):
    refused(server, GET + HOST + endless, 431, "headers-too-large")


def test_empty_lines_without_end_are_refused(server: Server):
    refused(server, b"\r\n" * 2**19, 431, "headers-too-large")


@pytest.mark.parametrize("size", [49152, 49153, 2**20])
def test_the_address_is_bounded_to_the_byte(server: Server, size: int):
    sent = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"y" * (size - 1))
    if size > 49152:
        refused(server, sent, 414, "uri-too-long")
    else:
        with Wire(server.url) as wire:
            wire.send(sent)
            problem(wire.answer("GET"), 404, "not-found")


def test_requests_in_one_go_are_answered_in_their_order(server: Server):
    with Wire(server.url) as wire:
        wire.send(
            post(HOST, LENGTH, body=b"abc")
            + get(HOST, b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
            + chunks(b"3\r\nabc\r\n" + LAST)
            + HIDDEN
        )
        assert [answer.status_code for answer in wire.answers(4)] == [202, 200, 202, 200]


def test_a_refusal_waits_for_the_answers_before_it(server: Server):
    with Wire(server.url) as wire:
        wire.send(post(HOST, LENGTH, body=b"abc") + get(HOST) + get(HOST, HOST) + HIDDEN)
        got = wire.answers(3)
        assert [answer.status_code for answer in got] == [202, 200, 400]
        problem(got[-1], 400, "malformed-request")


def test_requests_without_end_that_wait_in_line_are_refused(server: Server):
    with Wire(server.url) as wire:
        wire.send(get(HOST) * 1000)
        got = wire.answers(66)
        assert [answer.status_code for answer in got] == [200] * 65 + [400]
        problem(got[-1], 400, "malformed-request")


def test_a_client_that_leaves_a_line_of_requests_leaves_nothing(server: Server):
    with nothing_left(server):
        for _ in range(5):
            with Wire(server.url) as wire:
                wire.send(get(HOST) * 20 + post(HOST, LENGTH, body=b"a"))
    wait_until(lambda: "Traceback" not in server.log)


def test_a_body_that_breaks_off_in_nonsense_is_told_although_nobody_reads_it(server: Server):
    with Wire(server.url) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        [answer] = wire.answers()
        assert (answer.status_code, answer.headers["Connection"]) in [(200, "close"), (400, "close")]


def test_the_answer_to_head_has_no_body_when_it_is_refused_by_the_application(server: Server):
    with Wire(server.url) as wire:
        wire.send(b"HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        with http.client.HTTPResponse(wire.socket, method="HEAD") as reply:
            reply.begin()
            assert (reply.status, reply.read()) == (404, b"")


def test_nothing_of_it_is_an_error_in_the_log(server: Server):
    assert "Traceback" not in server.log
    assert "[error" not in server.log
