"""Request headers, read to the letter of their standards."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.api import headers as fields
from service.api.downloads import attachment, satisfiable
from service.errors import BadRequest, Unsupported
from service.reception import Digest

RAW = hashlib.sha256(b"x").digest()
LONG = hashlib.sha512(b"x").digest()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def head(name: str, value: str) -> Headers:
    return Headers({name: value})


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ("  abc ", "abc"),
        ('"a b, c;d=é"'.replace("é", "e"), "a b, c;d=e"),
        (r'"say \"hi\" \\o/"', r'say "hi" \o/'),
        ("A-z_0:9.", "A-z_0:9."),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
def test_a_key_is_read_quoted_or_bare(value: str, key: str):
    assert fields.idempotency_key(head("idempotency-key", value)) == key


@pytest.mark.parametrize(
    "value",
    ["", " ", '""', '"', '"a', 'a"', "a b", "a,b", "x" * 256, '"' + "x" * 256 + '"', r'"\n"', "é", '"é"', '"a\tb"'],
)
def test_a_key_that_is_none_is_refused(value: str):
    with pytest.raises(BadRequest) as caught:
        fields.idempotency_key(head("idempotency-key", value))
    assert caught.value.problem == "idempotency-key-invalid"


def test_no_key_is_no_error():
    assert fields.idempotency_key(Headers({})) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f"sha-256=:{b64(RAW)}:", [("sha256", RAW)]),
        (f"sha-512=:{b64(LONG)}:", [("sha512", LONG)]),
        (f"sha-512=:{b64(LONG)}:,sha-256=:{b64(RAW)}:", [("sha512", LONG), ("sha256", RAW)]),
        (f"md5=:AAAA:, sha-256=:{b64(RAW)}:;a=1;b", [("sha256", RAW)]),
        ("unixsum=:AA==:", []),
        ("", []),
        (" ", []),
    ],
)
def test_digests_are_read_as_a_dictionary(value: str, found: list[tuple[str, bytes]]):
    expected = [Digest(algorithm=algorithm, value=raw) for algorithm, raw in found]
    for name in ("content-digest", "repr-digest"):
        assert fields.digests(head(name, value)) == expected


def test_both_digest_fields_count():
    both = Headers({"repr-digest": f"sha-256=:{b64(RAW)}:", "content-digest": f"sha-512=:{b64(LONG)}:"})
    assert [digest.algorithm for digest in fields.digests(both)] == ["sha512", "sha256"]


@pytest.mark.parametrize(
    "value",
    [
        "sha-256",
        f"sha-256={b64(RAW)}",
        f'sha-256="{b64(RAW)}"',
        "sha-256=::",
        f"sha-256=:{b64(LONG)}:",
        f"sha-256=:{b64(RAW)[:-1]}:",
        f"sha-256=:{b64(RAW)}:,",
        f",sha-256=:{b64(RAW)}:",
        f"Sha-256=:{b64(RAW)}:",
        "sha-256=:é:",
    ],
)
def test_a_digest_that_cannot_be_read_is_refused(value: str):
    with pytest.raises(BadRequest) as caught:
        fields.digests(head("content-digest", value))
    assert caught.value.problem == "digest-invalid"
    assert "Content-Digest" in caught.value.detail


@given(st.text(alphabet="sha-2561md5=:AQ/+, ;\t", max_size=60))
def test_no_digest_field_is_more_than_refused(value: str):
    try:
        found = fields.digests(head("repr-digest", value))
    except BadRequest:
        return
    assert all(len(digest.value) in (32, 64) for digest in found)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", ("", {})),
        ("Text/Plain", ("text/plain", {})),
        ("text/plain; charset=UTF-8", ("text/plain", {"charset": "UTF-8"})),
        ('multipart/form-data; boundary="a;b"', ("multipart/form-data", {"boundary": "a;b"})),
        ("multipart/form-data;BOUNDARY=x", ("multipart/form-data", {"boundary": "x"})),
    ],
)
def test_a_content_type_is_read_with_its_parameters(value: str, found: tuple[str, dict[str, str]]):
    assert fields.content_type(head("content-type", value)) == found


@pytest.mark.parametrize("value", ["identity", "IDENTITY", " ", ""])
def test_no_coding_is_fine(value: str):
    fields.require_identity(head("content-encoding", value))
    fields.require_identity(Headers({}))


@pytest.mark.parametrize("value", ["gzip", "identity, gzip", "x-unknown"])
def test_any_content_coding_is_refused(value: str):
    with pytest.raises(Unsupported) as caught:
        fields.require_identity(head("content-encoding", value))
    assert caught.value.extras["headers"] == {"Accept-Encoding": "identity"}


def test_a_transfer_coding_that_compresses_is_refused():
    fields.require_identity(head("transfer-encoding", "Chunked"))
    with pytest.raises(Unsupported):
        fields.require_identity(head("transfer-encoding", "gzip, chunked"))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('inline; filename="a.txt"', "a.txt"),
        ("attachment; FILENAME=a.txt", "a.txt"),
        (r'attachment; filename="a\"b.txt"', 'a"b.txt'),
        ("attachment; filename*=UTF-8''%e2%82%ac.txt; filename=b", "€.txt"),
        ("attachment; filename=b; FileName* = UTF-8'de'%e2%82%ac.txt", "€.txt"),
        ("attachment; filename*=ISO-8859-1''%e9", "é"),
        ("attachment; filename*=UTF-8''%ff", "\ufffd"),
        ("attachment; filename*=UTF-16''a; filename=b", "b"),
        ("attachment; filename*=UTF-8''", None),
        ("attachment", None),
        ("", None),
    ],
)
def test_a_disposition_names_a_file(value: str, name: str | None):
    assert fields.disposition_name(head("content-disposition", value)) == name


def test_a_name_in_raw_bytes_is_utf8_or_else_latin1():
    assert fields.text_of("€".encode()) == "€"
    assert fields.text_of(b"na\xefve") == "naïve"


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("17", 17), ("-1", None), ("1e3", None), ("", None)])
def test_a_length_is_a_number_or_nothing(value: str, length: int | None):
    assert fields.content_length(head("content-length", value)) == length


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (None, None),
        ("*", None),
        (" * ", None),
        ('"a"', {"a"}),
        ('W/"a", "b"', {"a", "b"}),
        ('"a,b"', {"a,b"}),
        ("a", set()),
        ("", set()),
    ],
)
def test_tags_are_read_from_a_list(value: str | None, tags: set[str] | None):
    assert fields.tags(value) == (None if tags is None else frozenset(tags))


@pytest.mark.parametrize(
    ("value", "fresh"), [('"t"', True), ('W/"t"', True), ('"x", "t"', True), ("*", True), ('"x"', False), ("t", False)]
)
def test_a_copy_is_fresh_when_its_tag_is_named(value: str, fresh: bool):
    assert fields.is_fresh(head("if-none-match", value), "t") is fresh
    assert not fields.is_fresh(Headers({}), "t")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("bytes=0-9", "0-9"),
        ("Bytes = 0-9", "0-9"),
        ("bytes=0-, -5", "0-,-5"),
        ("bytes=0-1,100-", "0-1"),
        ("bytes=100-", ""),
        ("bytes=-0", ""),
        ("bytes=99-98", None),
        ("bytes=-", None),
        ("bytes=a", None),
        ("bytes=0-1;q=1", None),
        ("octets=0-1", None),
        ("bytes=²-", None),
        (f"bytes={'9' * 19}-", None),
        ("", None),
    ],
)
def test_the_ranges_kept_are_those_of_a_hundred_bytes(asked: str, kept: str | None):
    assert satisfiable(asked, 100) == kept


def test_an_empty_file_has_no_ranges():
    assert satisfiable("bytes=0-", 0) == ""
    assert satisfiable("bytes=-1", 0) is None  # its last byte or less: all of nothing


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_an_attachment_is_plain_ascii_and_comes_back_whole(name: str):
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()
    assert value.count('"') == 2
    assert unquote(value.rpartition("UTF-8''")[2]) == name
