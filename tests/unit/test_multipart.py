"""Forms as events: the same whatever pieces they arrive in, and refused at the first thing that is wrong."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service.api.body import Event, Field, FileStart, multipart_events
from service.errors import BadRequest, IntakeError, Invalid, Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.anyio

CRLF = b"\r\n"
BOUNDARY = "b-1"
WHOLE = (
    b"--b-1\r\n"
    b'Content-Disposition: form-data; name="pipeline"\r\n'
    b"\r\n"
    b"default\r\n"
    b"--b-1\r\n"
    b'content-disposition:form-data; filename="na\xc3\xafve.txt"; name=file\r\n'
    b"Content-Type: text/plain\r\n"
    b"\r\n"
    b"one\r\n--b-\r\n--b-2\r\n\r\ntwo\r\n"
    b"--b-1\r\n"
    b'Content-Disposition: form-data; name="labels.a"\r\n'
    b"\r\n"
    b"\r\n"
    b"--b-1--\r\n"
)
EVENTS = [
    Field("pipeline", "default"),
    FileStart("naïve.txt", "text/plain"),
    b"one\r\n--b-\r\n--b-2\r\n\r\ntwo",
    Field("labels.a", ""),
]


async def body(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def events(*pieces: bytes, boundary: str | None = BOUNDARY) -> list[Event]:
    """Return the events of a body, with the bytes of the file joined."""
    found: list[Event] = []
    async for event in multipart_events(body(pieces), boundary):
        if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += event
        else:
            found.append(event)
    return found


def part(disposition: str, content: bytes = b"x", *more: str) -> bytes:
    head = [f"--{BOUNDARY}", f"Content-Disposition: {disposition}", *more, "", ""]
    return "\r\n".join(head).encode() + content + CRLF


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def test_fields_and_file_come_in_their_order():
    assert await events(WHOLE) == EVENTS


async def test_a_form_may_be_cut_at_any_byte():
    for cut in range(1, len(WHOLE)):
        assert await events(WHOLE[:cut], WHOLE[cut:]) == EVENTS


async def test_a_form_may_come_byte_by_byte():
    assert await events(*(WHOLE[index : index + 1] for index in range(len(WHOLE)))) == EVENTS


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=8))
async def test_a_form_may_be_cut_anywhere(cuts: list[int]):
    edges = [0, *sorted(cuts), len(WHOLE)]
    assert await events(*(WHOLE[start:end] for start, end in pairwise(edges))) == EVENTS


@given(
    content=st.binary(max_size=200) | st.text(alphabet="-b1\r\n", max_size=80).map(str.encode), size=st.integers(1, 40)
)
async def test_any_content_comes_through_as_it_is(content: bytes, size: int):
    boundary = "x" * 30 + "-b-1"
    whole = part('form-data; name="file"', content).replace(b"--b-1", f"--{boundary}".encode(), 1)
    whole += f"--{boundary}--\r\n".encode()
    found = await events(*(whole[start : start + size] for start in range(0, len(whole), size)), boundary=boundary)
    assert found == [FileStart(None, None), *([content] if content else [])]


@pytest.mark.parametrize("library", ["httpx", "requests"])
async def test_what_clients_encode_is_understood(library: str):
    files, data = {"file": ("a b.txt", b"one\r\n", "text/plain")}, {"labels.a": "ü", "pipeline": "x"}
    if library == "httpx":
        request = httpx.Request("POST", "http://x", files=files, data=data)
        sent, kind = request.read(), request.headers["Content-Type"]
    else:
        prepared = requests.Request("POST", "http://x", files=files, data=data).prepare()
        assert isinstance(prepared.body, bytes)
        sent, kind = prepared.body, prepared.headers["Content-Type"]
    assert await events(sent, boundary=kind.partition("boundary=")[2]) == [
        Field("labels.a", "ü"),
        Field("pipeline", "x"),
        FileStart("a b.txt", "text/plain"),
        b"one\r\n",
    ]


async def test_what_stands_around_the_parts_is_passed_over():
    assert await events(CRLF + WHOLE + b"epilogue\r\n--b-1\r\n") == EVENTS
    assert await events(WHOLE.removesuffix(CRLF)) == EVENTS


async def test_a_form_of_nothing_has_no_events():
    assert await events(form()) == []


@pytest.mark.parametrize(
    ("disposition", "start"),
    [
        ('form-data; name="file"', FileStart(None, None)),
        ('form-data; name="file"; filename=""', FileStart("", None)),
        ('FORM-DATA; NAME="file"; FILENAME="a"', FileStart("a", None)),
        ('form-data; name="file"; filename="a;b\\"c"', FileStart('a;b"c', None)),
        ("form-data; name=file; filename*=UTF-8''a", FileStart(None, None)),
    ],
)
async def test_the_name_of_the_file_is_what_its_part_says(disposition: str, start: FileStart):
    assert await events(form(part(disposition))) == [start, b"x"]


@pytest.mark.parametrize("cut", range(1, len(WHOLE) - 3, 7))
async def test_a_form_that_ends_early_is_truncated(cut: int):
    with pytest.raises(Truncated):
        await events(WHOLE[:cut])


async def test_a_body_of_nothing_is_truncated():
    with pytest.raises(Truncated):
        await events()


@pytest.mark.parametrize("boundary", [None, "", "b" * 71])
async def test_a_boundary_that_cannot_be_one_is_refused_before_the_first_byte(boundary: str | None):
    async def untouched() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    with pytest.raises(BadRequest):
        await anext(aiter(multipart_events(untouched(), boundary)))


async def test_the_longest_boundary_is_fine():
    boundary = "b" * 70
    assert await events(f"--{boundary}--\r\n".encode(), boundary=boundary) == []


@pytest.mark.parametrize(
    ("whole", "error"),
    [
        (form(part('form-data; name="a"; filename="b"')), Invalid),
        (form(part('form-data; name="a"', b"\xff\xfe")), Invalid),
        (form(part('form-data; name="a"', b"x" * (2**16 + 1))), Invalid),
        (form(*[part('form-data; name="a"')] * 33), Invalid),
        (form(part('form-data; name="' + "a" * 101 + '"')), BadRequest),
        (form(part('form-data; name=""')), BadRequest),
        (form(part("form-data")), BadRequest),
        (form(part("attachment; name=file")), BadRequest),
        (form(part('form-data; name="a"', b"x", *["X: y"] * 8)), BadRequest),
        (form(part('form-data; name="a"', b"x", "X: " + "y" * 8200)), BadRequest),
        (form(part('form-data; name="a"', b"x", "X y: z")), BadRequest),
        (b"--b-1x\r\n", BadRequest),
        (b"nothing of the kind", BadRequest),
    ],
)
async def test_what_is_wrong_is_refused(whole: bytes, error: type[IntakeError]):
    with pytest.raises(error):
        await events(whole)
    with pytest.raises(error):
        await events(*(whole[index : index + 1] for index in range(len(whole))))


async def test_limits_are_met_to_the_byte():
    parts = [part(f'form-data; name="{"n" * 98}{number:02}"', b"x", *["X: y"] * 7) for number in range(31)]
    found = await events(form(*parts, part('form-data; name="long"', b"x" * 2**16)))
    assert len(found) == 32
    assert found[-1] == Field("long", "x" * 2**16)


@given(junk=st.binary(max_size=120) | st.text(alphabet='-b1\r\n:; =name"file', max_size=120).map(str.encode))
async def test_no_body_is_more_than_refused(junk: bytes):
    for whole in (junk, b"--b-1\r\n" + junk, WHOLE[:60] + junk):
        try:
            await events(whole)
        except (BadRequest, Invalid):
            continue
