"""What the head of a request must be so that nobody between client and service can take it for another one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from service.errors import BadRequest

_VERSIONS: Final = ("1.1", "1.0")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_head(version: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], *, upgrades: bool) -> None:
    """Raise BadRequest unless the head has one meaning (RFC 9112, sections 3.2, 6.1, 6.3 and 11.2).

    ``headers`` have names in lower case; that they are tokens, and that lines end as they should, is the parser's to see.
    ``upgrades`` tells that the parser expects another protocol after this head, and would take a body for it.
    """
    if version not in _VERSIONS:
        raise BadRequest("The request has a version of HTTP other than 1.0 and 1.1.")
    if not target.startswith(b"/") or b"#" in target:
        raise BadRequest("The request's target is not a path that begins with a slash.")
    hosts, lengths, codings = [], [], []
    for name, value in headers:
        if _CONTROL.search(value):
            raise BadRequest("A header has a control character in its value.")
        if name == b"host":
            hosts.append(value.strip(b" \t"))
        elif name == b"content-length":
            lengths.append(value.strip(b" \t"))
        elif name == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest("The request needs exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise BadRequest("The Host header is not a host with or without a port.")
    if len(lengths) > 1 or (lengths and codings):
        raise BadRequest("The request says its length twice.", hint="Send one Content-Length, or chunks, never both.")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise BadRequest("The Content-Length is not a number.")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        hint = "Send it chunked, or with a length."
        raise BadRequest("The request has a transfer coding other than chunked.", hint=hint)
    if upgrades and (lengths or codings):
        raise BadRequest("The request has a body and asks for another protocol.", hint="Send it without Upgrade.")
