"""Forms that readers take differently, that are cut, or that grow without end: each with its exact status, and nothing left."""

from __future__ import annotations

import pytest

from service.testing import Server
from tests.integration.api import accepted, problem
from tests.integration.traces import nothing_left
from tests.integration.wire import BOUNDARY, Wire, form, part

LINE = f"--{BOUNDARY}".encode()
FILE = part('name="file"; filename="a.txt"', b"one")
CHECK = part('name="pipeline"', b"checksum")
WHOLE = form([CHECK, FILE])
BAD = (400, "malformed-request")
CUT = (400, "truncated-body")
WRONG = (422, "validation-error")


def head(*lines: bytes, content: bytes = b"one") -> bytes:
    """Return a form of one part with these header lines."""
    return LINE + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + content + b"\r\n" + LINE + b"--\r\n"


def disposition(text: bytes) -> bytes:
    return head(b"Content-Disposition: form-data; " + text)


REFUSED = {
    # parameters and headers that are there twice
    "two filenames": (disposition(b'name="file"; filename="a"; filename="b"'), BAD),
    "two filenames in other cases": (disposition(b'name="file"; filename="a"; FILENAME="b"'), BAD),
    "two names": (disposition(b'name="file"; name="pipeline"; filename="a"'), BAD),
    "two names without quotes": (disposition(b"name=file; name=file; filename=a"), BAD),
    "two dispositions": (
        head(b'Content-Disposition: form-data; name="file"', b'Content-Disposition: form-data; name="pipeline"'), BAD),
    "two types": (head(b'Content-Disposition: form-data; name="file"', b"Content-Type: a/b", b"Content-Type: c/d"), BAD),
    # names
    "no name": (disposition(b'filename="a"'), BAD),
    "a name that is another charset's": (disposition(b"name*=utf-8''file"), BAD),
    "an empty name": (disposition(b'name=""; filename="a"'), BAD),
    "a name of 101 bytes": (disposition(b'name="' + b"n" * 101 + b'"'), BAD),
    "a name of a megabyte": (disposition(b'name="' + b"n" * 2**20 + b'"'), BAD),
    "a field nobody knows": (disposition(b'name="nonsense"'), WRONG),
    "a file in another field": (disposition(b'name="photo"; filename="a"'), WRONG),
    "the field file as a list": (disposition(b'name="file[]"; filename="a"'), WRONG),
    # headers of a part
    "no headers": (head(), BAD),
    "no disposition": (head(b"Content-Type: text/plain"), BAD),
    "another disposition": (head(b'Content-Disposition: attachment; name="file"'), BAD),
    "a disposition without its kind": (head(b'Content-Disposition: name="file"'), BAD),
    "a header without a colon": (head(b"nonsense"), BAD),
    "a header with a space in its name": (head(b"X Y: z"), BAD),
    "a header without a name": (head(b": z"), BAD),
    "a NUL in a header's name": (head(b"X\0: z"), BAD),
    "nine headers": (head(b'Content-Disposition: form-data; name="file"', *[b"X-%d: y" % n for n in range(8)]), BAD),
    "a hundred headers": (head(*[b"X-%d: y" % n for n in range(100)]), BAD),
    "a header of 8 KiB and more": (head(b'Content-Disposition: form-data; name="file"', b"X: " + b"y" * 8192), BAD),
    "a header without end": (LINE + b"\r\nX: " + b"y" * 2**20, BAD),
    "a folded header": (head(b"Content-Disposition: form-data;", b' name="file"'), BAD),
    "line feeds alone": (WHOLE.replace(b"\r\n", b"\n"), BAD),
    # parts
    "no part": (LINE + b"--\r\n", WRONG),
    "no file": (form([CHECK]), WRONG),
    "two files": (form([FILE, FILE]), WRONG),
    "a field twice": (form([CHECK, CHECK, FILE]), WRONG),
    "33 parts": (form([part(f'name="labels.k{n}"', b"x") for n in range(33)]), WRONG),
    "ten thousand parts": (form([part('name="labels.k"', b"x")] * 10_000), WRONG),
    "a field of 64 KiB and a byte": (form([part('name="pipeline"', b"x" * (2**16 + 1)), FILE]), WRONG),
    "a field that is not UTF-8": (form([part('name="labels.a"', b"\xff\xfe"), FILE]), WRONG),
    "an empty file": (form([part('name="file"; filename="a"', b"")]), (422, "empty-file")),
    "a file that is too large": (form([part('name="file"; filename="a"', bytes(2**20 + 1))]), (413, "file-too-large")),
    # boundaries and what stands around them
    "another boundary": (WHOLE.replace(BOUNDARY.encode(), b"another"), BAD),
    "text before the first boundary": (b"preamble\r\n" + WHOLE, BAD),
    "text right after a boundary": (WHOLE.replace(LINE + b"\r\n", LINE + b"x\r\n", 1), BAD),
    "a last boundary with one dash": (WHOLE.removesuffix(b"--\r\n") + b"-\r\n", CUT),
    "an epilogue of a megabyte and more": (WHOLE + bytes(2**21), (413, "file-too-large")),
    "empty lines without end before it": (b"\r\n" * 2**20 + WHOLE, (413, "file-too-large")),
    # cut short
    "nothing": (b"", CUT),
    "no last boundary": (WHOLE.removesuffix(LINE + b"--\r\n"), CUT),
    "an ordinary boundary for the last": (WHOLE.removesuffix(b"--\r\n") + b"\r\n", CUT),
    "two files, the second cut": (FILE + FILE[:-5], WRONG),
    "cut in the last boundary": (WHOLE[:-8], CUT),
    "cut before the last dash": (WHOLE[:-3], CUT),
    "cut in a header": (WHOLE[:40], CUT),
}  # fmt: skip
TAKEN = {
    "an extended name, which forms do not have": (disposition(b'name="file"; filename="a"; filename*=utf-8\'\'b'), "a"),
    "an extended name alone": (disposition(b"name=\"file\"; filename*=utf-8''b"), "upload.bin"),
    "a parameter within quotes": (disposition(b'name="file"; filename="a; filename=b"'), "a; filename=b"),
    "an escaped quote": (disposition(b'name="file"; filename="a\\"b"'), 'a"b'),
    "a charset of UTF-7": (
        head(b'Content-Disposition: form-data; name="file"; filename="+ADw-x+AD4-"', b"Content-Type: text/plain; charset=utf-7"),
        "+ADw-x+AD4-",
    ),
    "a file in base64, which nobody decodes": (
        head(b'Content-Disposition: form-data; name="file"; filename="a"', b"Content-Transfer-Encoding: base64"), "a"),
    "an epilogue": (WHOLE + b"epilogue", "a.txt"),
    "no line end at the end": (WHOLE.removesuffix(b"\r\n"), "a.txt"),
    "an empty line before it": (b"\r\n" + WHOLE, "a.txt"),
}  # fmt: skip


@pytest.mark.parametrize("vector", REFUSED)
def test_a_form_that_is_none_is_refused_with_its_exact_status(server: Server, vector: str):
    body, (status, code) = REFUSED[vector]
    with nothing_left(server), Wire(server.url) as wire:
        problem(wire.post_form(body), status, code)


@pytest.mark.parametrize("vector", TAKEN)
def test_a_form_that_is_odd_and_clear_is_taken(server: Server, vector: str):
    body, name = TAKEN[vector]
    with Wire(server.url) as wire:
        job = accepted(wire.post_form(body))
        assert (job["file"]["name"], job["file"]["size"]) == (name, 3)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", f'multipart/form-data; boundary="{"b" * 71}"']
)
def test_a_boundary_that_is_none_is_refused_before_the_body(server: Server, kind: str):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_type=kind, content_length=len(WHOLE))
        problem(wire.answer(), *BAD)


def test_a_charset_beside_the_boundary_has_no_say(server: Server):
    body = disposition('name="file"; filename="na\u00efve"'.encode())
    with Wire(server.url) as wire:
        wire.begin(
            "POST",
            "/v1/jobs",
            content_type=f"multipart/form-data; charset=utf-7; boundary={BOUNDARY}",
            content_length=len(body),
        )
        wire.send(body)
        assert accepted(wire.answer())["file"]["name"] == "na\u00efve"
