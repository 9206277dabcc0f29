"""What kind of text a text is: JSON, JSON lines, XML, SVG, HTML, a table, or just text."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Never
from xml.parsers import expat

from processors.sniffed import Sniffed, holds

if TYPE_CHECKING:
    from pathlib import Path

JSON_BYTES = 4 * 1024 * 1024
"""Longest JSON that is parsed whole to confirm it: its values take up to twenty times as much memory."""

_PREFIX = 1024 * 1024
_MOST_LINES = 200
_LEAST_CELLS = 6

_JSON_START = re.compile(r'\s*[\[{]\s*(["\[{\]}\d-]|true|false|null|$)')
_MARKUP_START = re.compile(r"\s*<[!?/a-zA-Z]")
_XML_START = re.compile(r"\s*<\?xml\s")
_SVG_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?svg[\s>/]")
_HTML_START = re.compile(
    r"<(!doctype\s+html|html|head|body|title|script|style|meta|link|table|div|p|h1|a|br|font|iframe)[\s>/]",
    re.IGNORECASE,
)
_HTML_DOCTYPE = re.compile(r"<!doctype\s+html\s*>", re.IGNORECASE)
_HTML_ROOTS = frozenset({"html", "head", "body", "title"})


class _Forbidden(Exception):
    """The XML declares entities, which nothing here will ever expand."""


def sniff_text(path: Path, head: bytes, charset: str, *, whole: bool) -> Sniffed:
    """Return what the text at `path` is. It begins with `head`, in `charset`; `whole` says if that is all of it."""
    text = head.decode(charset, errors="replace").removeprefix("\ufeff")
    if _JSON_START.match(text):
        found = _json(path, text, charset, whole=whole)
        if found is not None:
            return found
    if _MARKUP_START.match(text):
        found = _markup(head, text, charset, whole=whole)
        if found is not None:
            return found
    table = holds(lambda: _table(text, whole=whole))
    if table is not None:
        return Sniffed(table, "csv", charset)
    return Sniffed("text/plain", "charset", charset)


def _json(path: Path, text: str, charset: str, *, whole: bool) -> Sniffed | None:
    short = whole or path.stat().st_size <= JSON_BYTES
    try:
        if short:
            _parse(text if whole else path.read_bytes().decode(charset).removeprefix("\ufeff"))
            return Sniffed("application/json", "json", charset)
    except RecursionError:
        # Nested deeper than Python's parser goes, which says nothing against it.
        return Sniffed("application/json", None, charset)
    except ValueError:
        pass
    lines = [line for line in _complete_lines(text, whole=whole) if line.strip()]
    if len(lines) > 1 and holds(lambda: [_parse_row(line) for line in lines]) is not None:
        return Sniffed("application/x-ndjson", "json", charset)
    return None if short else Sniffed("application/json", None, charset)


def _parse(text: str) -> Any:
    # Numbers are not made: Python refuses long ones, and their values do not matter.
    return json.loads(text, parse_int=len, parse_float=len, parse_constant=_no_constant)


def _parse_row(line: str) -> Any:
    row = _parse(line)
    if not isinstance(row, dict | list):
        raise ValueError("A line of JSON lines is an object or an array.")
    return row


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON.")


def _markup(head: bytes, text: str, charset: str, *, whole: bool) -> Sniffed | None:
    try:
        root = _xml_root(head, whole=whole)
    except _Forbidden:
        return Sniffed("image/svg+xml" if _SVG_ROOT.search(text) else "application/xml", None, charset)
    start = _after_comments(text)
    if root is not None and root.lower() != "html" and not _HTML_DOCTYPE.match(text, start):
        namespace, _, name = root.rpartition(" ")
        if name == "svg":
            return Sniffed("image/svg+xml", "expat", charset)
        if name == "html" and namespace:
            return Sniffed("application/xhtml+xml", "expat", charset)
        return Sniffed("application/xml", "expat", charset)
    if _HTML_START.match(text, start):
        return Sniffed("text/html", "html.parser" if _has_html(text) else None, charset)
    if _XML_START.match(text):
        return Sniffed("image/svg+xml" if _SVG_ROOT.search(text) else "application/xml", None, charset)
    return Sniffed("image/svg+xml", None, charset) if _SVG_ROOT.match(text.lstrip()) else None


def _xml_root(head: bytes, *, whole: bool) -> str | None:
    """Return the root element, "namespace name"; None if `head` is not well formed. Raises _Forbidden."""
    roots: list[str] = []

    def opened(name: str, _: Any) -> None:
        if not roots:
            roots.append(name)

    def forbid(*_: Any) -> Never:
        raise _Forbidden

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = opened
    parser.EntityDeclHandler = forbid
    parser.ExternalEntityRefHandler = forbid
    try:
        parser.Parse(head, whole)
    except (expat.ExpatError, LookupError, ValueError):
        return None
    return roots[0] if roots else None


def _after_comments(text: str) -> int:
    """Return where the first thing stands that is neither a comment nor white space."""
    blank = re.compile(r"\s*")
    position = len(text) - len(text.lstrip())
    while text.startswith("<!--", position) and (end := text.find("-->", position)) >= 0:
        space = blank.match(text, end + 3)
        assert space is not None
        position = space.end()
    return position


class _HtmlRoots(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.found = self.found or tag in _HTML_ROOTS


def _has_html(text: str) -> bool:
    parser = _HtmlRoots()
    # The elements that make a page stand at its beginning, and the parser is slow.
    holds(lambda: parser.feed(text[:65536]))
    return parser.found


def _table(text: str, *, whole: bool) -> str | None:
    """Return the type of a table: several lines that all split into the same number of cells, at least two."""
    for delimiter, media_type in (("\t", "text/tab-separated-values"), (",", "text/csv"), (";", "text/csv")):
        if delimiter in text and holds(partial(_is_table, text, delimiter, whole=whole)):
            return media_type
    return None


def _is_table(text: str, delimiter: str, *, whole: bool) -> bool:
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for row in reader:
        if row:
            rows.append(row)
        if len(rows) > _MOST_LINES:
            break
    else:
        if not whole:
            rows = rows[:-1]
    columns = {len(row) for row in rows}
    if columns == {2} and all(not second or second.startswith(" ") for _, second in rows):
        # Prose may have one comma in every line.
        return False
    return len(columns) == 1 and len(rows) > 1 and min(columns) > 1 and len(rows) * min(columns) >= _LEAST_CELLS


def _complete_lines(text: str, *, whole: bool) -> list[str]:
    lines = text[:_PREFIX].split("\n")
    return lines if whole and len(text) <= _PREFIX else lines[:-1]
