"""What a file is, told by its content alone: its first bytes hint at a type, and a parser of that type confirms it.

Neither the name nor the client's claim is looked at. Memory stays bounded whatever the file's size, and nothing is
unpacked but the first piece.
"""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import zlib
from functools import partial
from typing import TYPE_CHECKING

import filetype

from processors.charset import charset_of
from processors.mediatypes import UNKNOWN, canonical
from processors.pixels import FORMATS, can_open
from processors.sniff_text import sniff_text
from processors.sniff_zip import zip_type
from processors.sniffed import Sniffed, holds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD_BYTES = 1024 * 1024
"""How much of the file is read to begin with."""

_PIECE = 64 * 1024
_LZMA_MEMORY = 128 * 1024 * 1024
_PDF_TAIL = 2048

#: Types whose files, or their long first marks, are text, so that being text does not speak against the hint.
_TEXTUAL = frozenset({"application/pdf", "application/rtf", "application/postscript", "application/x-bzip2"})

#: Hints too weak to trust: four bytes that are also the start of a text, or the library's word for "something".
_IGNORED = frozenset({"application/x-brotli", UNKNOWN})

#: Encodings that bytes which are no text are not in by chance. The others fit most anything.
_CERTAIN = frozenset({"utf-8", "utf-8-sig", "utf-16", "utf-32"})


def sniff(path: Path) -> Sniffed:
    """Return what the file at `path` is; `application/octet-stream` if it is empty or nothing is known about it.

    A file that begins like a type but is cut short or broken keeps that type, unconfirmed. Raises OSError if it cannot
    be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        whole = not file.read(1)
    if not head:
        return Sniffed(UNKNOWN)
    hint = _hint(head)
    sniffed = _confirm(hint, path, head) if hint else None
    if sniffed is not None and (sniffed.confirmed or hint in _TEXTUAL):
        return sniffed
    # Two to four magic bytes prove little: a note about a BMW begins like a bitmap.
    charset = charset_of(head, whole=whole)
    if charset is not None and (sniffed is None or charset in _CERTAIN):
        return sniff_text(path, head, charset, whole=whole)
    return sniffed or Sniffed(UNKNOWN)


def _hint(head: bytes) -> str | None:
    """Return the canonical type the first bytes suggest."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        # The library guesses office documents from the first entries; only the directory at the end can tell.
        return "application/zip"
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        # The library does not know the second, which is animated, and wants more than the brand of the first.
        return "image/avif"
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "application/x-bzip2"
    if _is_tar(head):
        return "application/x-tar"
    kind = holds(lambda: filetype.guess(head[:8192]))
    found = canonical(kind.mime) if kind else None
    return None if found in _IGNORED else found


def _confirm(hint: str, path: Path, head: bytes) -> Sniffed:
    """Return the hinted type, confirmed if its parser agrees; for a zip archive perhaps a narrower one."""
    if hint == "application/zip":
        narrow = zip_type(path)
        return Sniffed(narrow, "zipfile") if narrow else Sniffed(hint)
    if hint in FORMATS:
        return Sniffed(hint, "pillow" if can_open(path, hint) else None)
    if hint == "application/pdf":
        return Sniffed(hint, "trailer" if _has_pdf_trailer(path) else None)
    if hint == "application/x-tar":
        return Sniffed(hint, "tarfile" if _is_tar(head) else None)
    library, unpacks = _COMPRESSED.get(hint, (None, None))
    return Sniffed(hint, library if unpacks is not None and holds(partial(unpacks, head)) else None)


def _is_tar(head: bytes) -> bool:
    # Old archives have no magic; the checksum of the first header is a better one.
    return holds(lambda: tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")) is not None


def _has_pdf_trailer(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, io.SEEK_END)
        file.seek(max(0, file.tell() - _PDF_TAIL))
        tail = file.read()
    return b"startxref" in tail and b"%%EOF" in tail


def _is_gzip(head: bytes) -> bool:
    decompressor = zlib.decompressobj(wbits=31)
    return bool(decompressor.decompress(head, _PIECE)) or decompressor.eof


def _is_bzip2(head: bytes) -> bool:
    decompressor = bz2.BZ2Decompressor()
    return bool(decompressor.decompress(head, _PIECE)) or decompressor.eof


def _is_xz(head: bytes) -> bool:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    return bool(decompressor.decompress(head, _PIECE)) or decompressor.eof


#: For each compressed type the library that unpacks it, and whether a first piece comes out.
_COMPRESSED: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    "application/gzip": ("zlib", _is_gzip),
    "application/x-bzip2": ("bz2", _is_bzip2),
    "application/x-xz": ("lzma", _is_xz),
}
