"""Which encoding a text is in: byte order mark, else UTF-8 if it is valid, else the detector's best guess."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

SAMPLE_BYTES = 64 * 1024
"""How much the detector looks at."""

#: UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

#: Control characters that texts do not hold; tab, line ends, form feed, escape and the DOS end of file are left out.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x19\x1c-\x1f\x7f]")

_HIGH = re.compile(rb"[\x80-\xff]")

#: With fewer letters beyond ASCII than these the detector guesses wildly.
_FEW_HIGH = 8

#: Encodings it must not guess: they have a mark, or have been looked for before.
_MARKED = ["utf_7", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"]

_MOST_CONTROL = 0.005
_LEAST_PRINTABLE = 0.95


def charset_of(data: bytes, *, whole: bool) -> str | None:
    """Return the Python name of the encoding that makes `data` text, None if nothing does.

    `whole` is False for the beginning of something longer, whose last character may be cut. `utf-16`, `utf-32` and
    `utf-8-sig` mean that there is a byte order mark; pure ASCII is `utf-8`.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name if _is_text(data, name, whole=whole) else None
    wide = _wide(data)
    if wide is not None:
        return wide if _is_text(data, wide, whole=whole) else None
    if len(_BINARY.findall(data)) > max(1, len(data) * _MOST_CONTROL):
        return None
    if _is_text(data, "utf-8", whole=whole):
        return "utf-8"
    sample = _around_first_high_byte(data)
    guess = _guess(sample)
    return guess if guess is not None and _is_text(sample, guess, whole=False) else None


def _guess(sample: bytes) -> str | None:
    """Return the detector's answer, but cp1252, by far the most common, where it fits just as well."""
    if len(_HIGH.findall(sample)) < _FEW_HIGH and _is_text(sample, "cp1252", whole=True):
        return "cp1252"
    matches = from_bytes(sample, cp_exclusion=_MARKED)
    best = matches.best()
    if best is None:
        return None
    for match in matches:
        as_good = match.chaos <= best.chaos and match.coherence >= best.coherence
        if as_good and "cp1252" in match.could_be_from_charset:
            return "cp1252"
    return codecs.lookup(best.encoding).name


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark shows in western text as NUL in nearly every other byte."""
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if half < 2 or max(even, odd) < half * 0.7 or min(even, odd) > half * 0.05:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _is_text(data: bytes, encoding: str, *, whole: bool) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)(errors="strict").decode(data, whole)
    except (UnicodeError, LookupError):
        return False
    if "\x00" in text:
        return False
    # A sample decides: the share of printable characters is no different further on.
    sample = text[:SAMPLE_BYTES]
    return (
        sum(c.isprintable() or c.isspace() or c in "\x1a\x1b\ufeff" for c in sample) >= len(sample) * _LEAST_PRINTABLE
    )


def _around_first_high_byte(data: bytes) -> bytes:
    """Return the part that tells encodings apart: before its first byte beyond ASCII they are all the same."""
    match = _HIGH.search(data)
    start = max(0, match.start() - SAMPLE_BYTES // 4) if match else 0
    return data[start : start + SAMPLE_BYTES]
