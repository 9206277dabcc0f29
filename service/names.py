"""File names and addresses from strangers, made fit for display or refused. They never become part of a path."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_BYTES: Final = 255
NAMELESS: Final = "upload.bin"
_SHORT: Final = 100
_PLAIN: Final = re.compile(
    r"(?:[A-Za-z0-9_-]+\.){0,8}[A-Za-z0-9_-]{1,16}"
)  #: as most are: nothing in it to be made fit
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&*+/=^_{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?", re.ASCII
)
_ESCAPED = {"%22": '"', "%0D": " ", "%0A": " "}  # all that curl and browsers escape; other %XX stand for themselves


def display_name(raw: str | None) -> str:
    """Return a name for people: its last component in NFC, without control or format characters, at most 255 bytes of UTF-8.

    ``raw`` is what the client sent, in any of the ways of RFC 7578 and the WHATWG form encoding. The extension survives the cut;
    a name of nothing becomes ``upload.bin``.
    """
    if raw is not None and len(raw) <= _SHORT and _PLAIN.fullmatch(raw):
        return raw
    name = re.sub("%22|%0D|%0A", lambda match: _ESCAPED[match[0].upper()], raw or "", flags=re.IGNORECASE)
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(" " if char in "\r\n\t" else char for char in name if not _is_hidden(char))
    name = re.sub(" +", " ", unicodedata.normalize("NFC", name)).lstrip(". ").rstrip(". ")
    return _cut(name) or NAMELESS


def _is_hidden(char: str) -> bool:
    return char not in "\r\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _cut(name: str) -> str:
    data = name.encode("utf-8")
    if len(data) <= MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    tail = (dot + extension).encode("utf-8") if stem and len(extension) <= 16 else b""
    return data[: MAX_BYTES - len(tail)].decode("utf-8", "ignore").rstrip(". ") + tail.decode("utf-8")


def is_address(text: str) -> bool:
    """Tell whether a text is an e-mail address of the plain kind: no quotes, no comments, ASCII alone."""
    return _ADDRESS.fullmatch(text) is not None and ".." not in text and not text.startswith(".") and ".@" not in text
