"""Digests that a client announces: verified to the byte, and nothing is kept when they disagree."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.integration.api import accepted, digest, problem, sha256
from tests.integration.traces import nothing_left
from tests.integration.wire import Wire, form, part

if TYPE_CHECKING:
    import httpx

    from service.testing import Server

CONTENT = b'{"hello": "world"}'
KNOWN = "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="  # RFC 9530, appendix D
WRITINGS = {"hex": sha256(CONTENT), "upper": sha256(CONTENT).upper(), "base64": KNOWN, "spaced": f" {KNOWN}\n"}


def test_the_digest_shown_is_that_of_rfc_9530(http: httpx.Client):
    shown = accepted(http.post("/v1/jobs", content=CONTENT))["file"]["sha256"]
    assert base64.b64encode(bytes.fromhex(shown)).decode() == KNOWN


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("before", [True, False])
def test_the_field_sha256_is_taken_before_and_after_the_file(server: Server, writing: str, before: bool):
    parts = [part('name="sha256"', WRITINGS[writing].encode()), part('name="file"', CONTENT)]
    with Wire(server.url) as wire:
        accepted(wire.post_form(form(parts if before else parts[::-1])))


@pytest.mark.parametrize("before", [True, False])
def test_a_file_with_another_sha256_is_not_kept(server: Server, before: bool):
    parts = [part('name="sha256"', sha256(b"other").encode()), part('name="file"', CONTENT)]
    with nothing_left(server), Wire(server.url) as wire:
        found = problem(wire.post_form(form(parts if before else parts[::-1])), 400, "digest-mismatch")
    assert sha256(CONTENT) not in str(found)  # never tell what would have been right


@pytest.mark.parametrize("value", ["", "abc", "g" * 64, KNOWN[:-4], sha256(CONTENT)[:-1], "sha-256=:x:", "ü" * 64])
def test_a_field_sha256_that_is_none_is_refused(http: httpx.Client, server: Server, value: str):
    with nothing_left(server):
        problem(http.post("/v1/jobs", files={"file": CONTENT}, data={"sha256": value}), 400, "malformed-request")
        problem(http.post("/v1/jobs", content=CONTENT, params={"sha256": value}), 400, "malformed-request")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_digest_field_of_a_raw_body_is_verified(
    http: httpx.Client, server: Server, method: str, name: str, algorithm: str
):
    path = {"POST": "/v1/jobs", "PUT": "/v1/files/a.json"}[method]
    accepted(http.request(method, path, content=CONTENT, headers={name: digest(CONTENT, algorithm)}))
    with nothing_left(server):
        answer = http.request(method, path, content=CONTENT, headers={name: digest(b"other", algorithm)})
        assert problem(answer, 400, "digest-mismatch")["algorithm"] == algorithm.replace("-", "")


@pytest.mark.parametrize(
    "value",
    [
        f"{digest(CONTENT)}, {digest(CONTENT, 'sha-512')}",
        f"md5=:{base64.b64encode(hashlib.md5(b'other').digest()).decode()}:, {digest(CONTENT)}",
        "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:",
        "unixsum=:AAA=:",
        f"{digest(CONTENT)} , md5=:AAAA:",
        f"{digest(CONTENT)};note=1",
        "",
    ],
)
def test_a_digest_of_an_algorithm_that_is_not_verified_is_passed_over(http: httpx.Client, value: str):
    accepted(http.post("/v1/jobs", content=CONTENT, headers={"Content-Digest": value}))


def test_every_digest_of_a_field_must_agree(http: httpx.Client, server: Server):
    value = f"{digest(CONTENT)}, {digest(b'other', 'sha-512')}"
    with nothing_left(server):
        problem(http.post("/v1/jobs", content=CONTENT, headers={"Content-Digest": value}), 400, "digest-mismatch")
        both = {"Content-Digest": digest(CONTENT), "Repr-Digest": digest(b"other")}
        problem(http.post("/v1/jobs", content=CONTENT, headers=both), 400, "digest-mismatch")


@pytest.mark.parametrize(
    "value",
    [
        f"sha-256={KNOWN}",
        f"sha-256=:{KNOWN}",
        f"SHA-256=:{KNOWN}:",
        f"sha-256=:{KNOWN[:-4]}:",
        "sha-256=:" + base64.b64encode(bytes(64)).decode() + ":",
        "sha-512=:" + base64.b64encode(bytes(32)).decode() + ":",
        "sha-256=:####:",
        "nonsense",
        ",",
        f"{digest(CONTENT)}, ",
    ],
)
@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
def test_a_digest_field_that_cannot_be_read_is_refused_before_the_body(server: Server, name: str, value: str):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=len(CONTENT), **{name: value})
        problem(wire.answer(), 400, "digest-invalid")


def test_the_digest_fields_of_a_form_cover_its_envelope(http: httpx.Client):
    sent = http.build_request("POST", "/v1/jobs", files={"file": CONTENT})
    body = sent.read()
    kind = {"Content-Type": sent.headers["content-type"]}
    accepted(http.post("/v1/jobs", content=body, headers=kind | {"Content-Digest": digest(body)}))
    problem(
        http.post("/v1/jobs", content=body, headers=kind | {"Content-Digest": digest(CONTENT)}), 400, "digest-mismatch"
    )


def test_a_field_given_twice_is_refused(http: httpx.Client, server: Server):
    with nothing_left(server):
        twice = {"pipeline": ["default", "checksum"]}
        problem(http.post("/v1/jobs", files={"file": CONTENT}, data=twice), 422, "validation-error")


def test_a_transfer_coding_that_is_not_undone_is_refused(server: Server):
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", **{"Transfer-Encoding": "gzip, chunked"})
        problem(wire.answer(), 400, "malformed-request")


def test_digests_survive_pieces_and_a_file_of_many_of_them(http: httpx.Client):
    content = bytes(range(256)) * 4000
    headers = {"Content-Digest": f"{digest(content)}, {digest(content, 'sha-512')}"}
    pieces = (content[start : start + 9999] for start in range(0, len(content), 9999))
    assert accepted(http.post("/v1/jobs", content=pieces, headers=headers))["file"]["sha256"] == sha256(content)
