"""Requests that were sound once: seeds of every route, and what a seeded chance makes of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

from tests.integration.wire import BOUNDARY, form, part

_HEAD: Final = b"Host: x\r\nX-Request-ID: fuzz\r\n"
_JOB: Final = b"/v1/jobs/01a204d8-c3fa-7168-9fb1-adb5294c50d9"
_FORM: Final = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
_FILE: Final = part('name="file"; filename="a.txt"', b"one\ntwo\n", "Content-Type: text/plain")


def _get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, _HEAD, b"".join(header + b"\r\n" for header in headers))


def _post(path: bytes, body: bytes, *headers: bytes, method: bytes = b"POST") -> bytes:
    return _get(path, b"Content-Length: %d" % len(body), *headers, method=method) + body


def _chunked(path: bytes, *pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return _get(path, b"Transfer-Encoding: chunked", method=b"POST") + body + b"0\r\n\r\n"


def _forms(*parts: bytes) -> bytes:
    return _post(b"/v1/jobs", form(parts), _FORM[:-2])


SEEDS: Final = [
    _get(b"/livez"),
    _get(b"/readyz?verbose"),
    _get(b"/v1/limits", b"Accept: application/json"),
    _get(b"/v1/jobs?status=queued&type=text/plain&label.a=b&limit=5&created_after=2026-01-01T00:00:00Z"),
    _get(b"/v1/jobs?cursor=eyJhIjoxfQ"),
    _get(_JOB, b'If-None-Match: "0-1"', b"Prefer: wait=1"),
    _get(_JOB + b"/source", b"Range: bytes=0-3,5-", b'If-Range: "x"'),
    _get(_JOB + b"/artifacts/image.previews/small.webp", method=b"HEAD"),
    _get(_JOB, method=b"DELETE"),
    _get(_JOB + b"/cancel", b"Content-Length: 0", method=b"POST"),
    _get(_JOB + b"/retry", b"Content-Length: 0", method=b"POST"),
    _get(b"/problems/not-found"),
    _get(b"/v1/processors", b"Connection: keep-alive", b"Upgrade: h2c"),
    _post(b"/v1/jobs?filename=a.txt&pipeline=checksum&labels.a=b", b"one\n", b"Idempotency-Key: k-1"),
    _post(b"/v1/jobs", b"one\n", b"Content-Disposition: attachment; filename=\"a.txt\"; filename*=UTF-8''b.txt"),
    _post(b"/v1/jobs", b"one\n", b"Content-Digest: sha-256=:" + b"A" * 43 + b"=:", b"Expect: 100-continue"),
    _post(b"/v1/files/na%C3%AFve.txt", b"one\n", b"Content-Type: text/plain", method=b"PUT"),
    _chunked(b"/v1/jobs?pipeline=checksum", b"one\n", b"two\n" * 10),
    _forms(part('name="pipeline"', b"checksum"), _FILE),
    _forms(part('name="labels.a"', b"b"), part('name="sha256"', b"0" * 64), _FILE),
    _forms(part('name="file"; filename="../../etc/passwd\\"; filename*=UTF-8\'\'x"', b"%PDF-1.4\n")),
    _forms(_FILE, _FILE),
]
_TOKENS: Final = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"\\",
    b"%",
    b"%00",
    b"%2f",
    b"..",
    b"/",
    b"//",
    b"?",
    b"#",
    b"*",
    b"-1",
    b"0",
    b"4294967296",
    b"18446744073709551616",
    b"9" * 30,
    b"0x1",
    b"1e9",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\x1b[31m",
    "\u202e".encode(),
    b"A" * 300,
    b"A" * 9000,
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Host: y\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Range: bytes=-0\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Cookie: a=b\r\n",
    b"X-Forwarded-For: 127.0.0.1\r\n",
    b"Prefer: wait=0\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"GET",
    b"OPTIONS",
    b"CONNECT",
    b"PATCH",
    f"--{BOUNDARY}".encode(),
    f"--{BOUNDARY}--\r\n".encode(),
    b'filename="',
    b"filename*=utf-7''",
    b'name="file"',
    b"Content-Disposition: ",
    b"null",
    b"true",
    b"NaN",
    b"[[",
    b"2026-13-45T99:99:99Z",
    b"+99:99",
]


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_TOKENS) + data[at:]


def _replace(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_TOKENS) + data[at + chance.choice((1, 1, 2, 8)) :]


def _flip(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"x")
    for _ in range(chance.choice((1, 1, 1, 3, 10))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _cut(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.choice((1, 2, 5, 20, 100)) :]


def _truncate(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _double(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = chance.randrange(len(lines))
    return b"\r\n".join([*lines[:at], *[lines[at]] * chance.choice((2, 2, 3, 50)), *lines[at + 1 :]])


def _shuffle(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def _splice(chance: random.Random, data: bytes) -> bytes:
    other = chance.choice(SEEDS)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other)) :]


def _number(chance: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"[0-9]+", data))
    if not found:
        return data
    spot = chance.choice(found)
    value = chance.choice([b"0", b"1", b"-1", b"9" * 20, b"%d" % (int(spot[0][:30]) + 1), b"", b"00", b"65537"])
    return data[: spot.start()] + value + data[spot.end() :]


def _pipeline(chance: random.Random, data: bytes) -> bytes:
    return data + chance.choice(SEEDS)


_MUTATIONS: Final = [
    _insert, _insert, _replace, _replace, _flip, _cut, _truncate, _double, _shuffle, _splice, _number, _number, _pipeline,
]  # fmt: skip


def requests(seed: int, count: int) -> Iterator[bytes]:
    """Yield what is sent in one connection each, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        data = chance.choice(SEEDS)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            data = chance.choice(_MUTATIONS)(chance, data)
        yield data[: 2**17]
