"""Texts: encoding, counts and the beginning, read in pieces whatever the length of a line."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from processors.charset import charset_of
from processors.contract import Facts, Options, Reject, StepContext, processor
from processors.plaintext import plain_block

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 256 * 1024
_HEAD_BYTES = 2048


class TextOptions(Options):
    """What to tell of a text."""

    head_lines: int = Field(default=20, ge=0, le=100, description="Most lines of the beginning to keep; at most 2 KiB.")


@processor("text.info", accepts=("text/*", "application/json", "application/xml", "application/x-ndjson"))
def info(ctx: StepContext, options: TextOptions) -> Facts:
    """Tell the encoding of a text, count its lines, words and characters, and keep its beginning.

    Facts: `encoding` as Python names it; `lines` (a last one without an end counts), `blank_lines`, `words` (between
    white space), `characters` without a byte order mark, `longest_line` in characters without its end; `newline`: lf,
    crlf, cr, mixed, or null without one; `head`, the first lines without control characters. What the encoding does not
    know is counted as U+FFFD. Rejects `text-binary` for a file that is no text in any encoding.
    """
    encoding = _encoding(ctx.input)
    if encoding is None:
        raise Reject("text-binary", "The file is not text in any known encoding.", "Send it as the type it really is.")
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    counts = _Counts()
    beginning = ""
    total = ctx.input.stat().st_size
    done = 0
    with ctx.input.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            done += len(piece)
            text = decoder.decode(piece)
            counts.add(text)
            if len(beginning) < _HEAD_BYTES:
                beginning += text[:_HEAD_BYTES]
            ctx.progress(done, total, "bytes")
    counts.add(decoder.decode(b"", final=True))
    counts.end()
    return {
        "encoding": encoding,
        "lines": counts.lines,
        "blank_lines": counts.blank_lines,
        "words": counts.words,
        "characters": counts.characters,
        "longest_line": counts.longest_line,
        "newline": counts.newline,
        "head": _head(beginning, options.head_lines),
    }


def _encoding(path: Path) -> str | None:
    """Return the encoding of the whole file: one byte beyond ASCII at its end decides as well as one at its start."""
    with path.open("rb", buffering=0) as file:
        start = file.read(_PIECE)
        encoding = charset_of(start, whole=len(start) < _PIECE)
        if encoding != "utf-8":
            return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        piece = start
        while piece:
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                # No UTF-8 after all: the piece that shows it tells best what it is instead.
                return charset_of(piece, whole=False) or "utf-8"
            piece = file.read(_PIECE)
    return encoding


@dataclass
class _Counts:
    """Counts of a text that comes in pieces, cut anywhere."""

    characters: int = 0
    words: int = 0
    blank_lines: int = 0
    longest_line: int = 0
    ends: dict[str, int] = field(default_factory=lambda: {"lf": 0, "crlf": 0, "cr": 0})
    _line: int = 0
    _line_blank: bool = True
    _in_word: bool = False
    _held: str = ""

    def add(self, text: str) -> None:
        text = self._held + text
        # A carriage return at the end may be the first half of a line end.
        self._held = "\r" if text.endswith("\r") else ""
        self._count(text.removesuffix("\r") if self._held else text)

    def end(self) -> None:
        held, self._held = self._held, ""
        self._count(held)
        self.longest_line = max(self.longest_line, self._line)
        if self._line and self._line_blank:
            self.blank_lines += 1

    @property
    def lines(self) -> int:
        return sum(self.ends.values()) + (1 if self._line else 0)

    @property
    def newline(self) -> str | None:
        used = [name for name, count in self.ends.items() if count]
        return "mixed" if len(used) > 1 else next(iter(used), None)

    def _count(self, text: str) -> None:
        if not text:
            return
        crlf = text.count("\r\n")
        self.ends["crlf"] += crlf
        self.ends["cr"] += text.count("\r") - crlf
        self.ends["lf"] += text.count("\n") - crlf
        self.characters += len(text)
        self.words += len(text.split()) - (1 if self._in_word and not text[0].isspace() else 0)
        self._in_word = not text[-1].isspace()
        first, *others = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._extend(first)
        if others:
            *between, last = others
            self.longest_line = max(self.longest_line, self._line, max(map(len, between), default=0))
            self.blank_lines += self._line_blank + between.count("") + sum(map(str.isspace, between))
            self._line, self._line_blank = 0, True
            self._extend(last)

    def _extend(self, part: str) -> None:
        self._line += len(part)
        self._line_blank = self._line_blank and (not part or part.isspace())


def _head(beginning: str, lines: int) -> str:
    """Return the first lines, without control characters, in at most 2 KiB of UTF-8."""
    plain = plain_block(beginning.replace("\r\n", "\n").replace("\r", "\n"))
    kept = "\n".join(plain.split("\n")[:lines])
    return kept.encode()[:_HEAD_BYTES].decode(errors="ignore")
