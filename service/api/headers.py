"""Reading request headers to the letter: keys, digests, names, conditions. Each function names its source."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from service.errors import BadRequest, Unsupported
from service.reception import Digest

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}")
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_DIGEST: Final = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?")
_ALGORITHMS: Final = {"sha-256": ("sha256", 32), "sha-512": ("sha512", 64)}
_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')


def idempotency_key(headers: Headers) -> str | None:
    """Return the Idempotency-Key: quoted as the IETF draft has it, or bare as most clients send it. Raises BadRequest."""
    value = headers.get("idempotency-key")
    if value is None:
        return None
    text = value.strip()
    if quoted := _QUOTED_KEY.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if _PLAIN_KEY.fullmatch(text):
        return text
    raise BadRequest(
        "The Idempotency-Key is not one.",
        code="idempotency-key-invalid",
        hint="Use up to 255 letters, digits, dots, dashes, colons, underscores, such as a UUID.",
    )


def digests(headers: Headers) -> list[Digest]:
    """Return the SHA-256 and SHA-512 digests of Content-Digest and Repr-Digest (RFC 9530). Raises BadRequest."""
    found: list[Digest] = []
    for name in ("content-digest", "repr-digest"):
        value = headers.get(name, "")
        for member in value.split(",") if value.strip() else ():
            match = _DIGEST.fullmatch(member)
            if match is None:
                raise _bad_digest(name)
            if match[1] in _ALGORITHMS:
                algorithm, size = _ALGORITHMS[match[1]]
                found.append(Digest(algorithm=algorithm, value=_decoded(name, match[2], size)))
    return found


def _decoded(name: str, text: str, size: int) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _bad_digest(name) from None
    if len(value) != size:
        raise _bad_digest(name)
    return value


def _bad_digest(name: str) -> BadRequest:
    title = "-".join(word.capitalize() for word in name.split("-"))
    return BadRequest(
        f"The {title} cannot be read.",
        code="digest-invalid",
        hint=f"Write it as {title}: sha-256=:<base64 of 32 bytes>:",
    )


def content_type(headers: Headers) -> tuple[str, dict[str, str]]:
    """Return the media type in lower case ('' without one) and its parameters."""
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    return kind.decode("latin-1"), {key.decode("latin-1"): value.decode("latin-1") for key, value in parameters.items()}


def require_identity(headers: Headers) -> None:
    """Raise Unsupported for a Content-Encoding or a compressing Transfer-Encoding: what is stored is what was sent."""
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise Unsupported(
            "The body has a transfer coding that is not undone here.", hint="Send it chunked, or with a length."
        )
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Unsupported(
            f"The body has the content coding {coding[:32]!r}, which is not undone here.",
            code="content-encoding-not-supported",
            hint="Send the file as it is, without Content-Encoding.",
            headers={"Accept-Encoding": "identity"},
        )


def disposition_name(headers: Headers) -> str | None:
    """Return the file name of a Content-Disposition header: ``filename*`` before ``filename`` (RFC 6266, section 4.3)."""
    value = headers.get("content-disposition")
    if value is None:
        return None
    extended = re.search(r"filename\*\s*=\s*([^;\s]+)", value, re.IGNORECASE)
    if extended and extended[1].count("'") >= 2:
        charset, _, encoded = extended[1].split("'", 2)
        if encoded and charset.lower() in ("utf-8", "iso-8859-1"):
            return unquote_to_bytes(encoded).decode(charset, "replace")
    _, parameters = parse_options_header(value)
    name = parameters.get(b"filename")
    return text_of(name) if name is not None else None


def text_of(data: bytes) -> str:
    """Decode header bytes: UTF-8, which is what clients send, else Latin-1. The charset a client names has no say."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def content_length(headers: Headers) -> int | None:
    """Return the Content-Length; the server has checked that it is a number."""
    value = headers.get("content-length")
    return int(value) if value is not None and value.isdigit() else None


def preferred_wait(headers: Headers) -> int | None:
    """Return the seconds of ``Prefer: wait`` (RFC 7240, section 4.3), None without one. What cannot be read is ignored."""
    for value in headers.getlist("prefer"):
        for preference in value.split(","):
            name, _, seconds = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":  # of several, the first one counts (section 2)
                text = seconds.strip().strip('"')
                return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    return None


def tags(value: str | None) -> frozenset[str] | None:
    """Return the opaque tags of an If-Match or If-None-Match value, compared weakly; None without one or for ``*``."""
    if value is None or value.strip() == "*":
        return None
    return frozenset(_TAG.findall(value))


def is_fresh(headers: Headers, tag: str) -> bool:
    """Tell whether If-None-Match names the current tag (RFC 9110, section 13.1.2): the answer is 304 then."""
    value = headers.get("if-none-match")
    if value is None:
        return False
    return value.strip() == "*" or tag in (tags(value) or ())
