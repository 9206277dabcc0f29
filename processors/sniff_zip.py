"""What kind of zip archive a file is, by its directory: office documents, e-books and programs are zip archives too."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING

from processors.sniffed import holds

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY_BYTES = 4 * 1024 * 1024
_MEMBER_BYTES = 256 * 1024

#: The content type of an OOXML package's main part, and the media type of the package.
_OFFICE = (
    (b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml", "wordprocessingml.document"),
    (b"application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml", "wordprocessingml.template"),
    (b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml", "spreadsheetml.sheet"),
    (b"application/vnd.openxmlformats-officedocument.spreadsheetml.template.main+xml", "spreadsheetml.template"),
    (
        b"application/vnd.openxmlformats-officedocument.presentationml.presentation.main+xml",
        "presentationml.presentation",
    ),
    (b"application/vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml", "presentationml.slideshow"),
)
_MACROS = (
    (b"application/vnd.ms-word.document.macroenabled.main+xml", "application/vnd.ms-word.document.macroenabled.12"),
    (b"application/vnd.ms-excel.sheet.macroenabled.main+xml", "application/vnd.ms-excel.sheet.macroenabled.12"),
    (
        b"application/vnd.ms-powerpoint.presentation.macroenabled.main+xml",
        "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    ),
)

#: Types a package may state in its member "mimetype"; anything else there is not believed.
_STATED = re.compile(rb"application/(epub\+zip|vnd\.oasis\.opendocument\.[a-z-]+)")


class _Bounded(io.BufferedReader):
    """A file that gives up to `_DIRECTORY_BYTES` at a time, as zipfile reads a directory of any size in one go."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _DIRECTORY_BYTES:
            raise zipfile.BadZipFile("The directory of the archive is too long to look at.")
        return super().read(size)


def zip_type(path: Path) -> str | None:
    """Return the media type of the zip archive at `path`, the narrowest its content proves; None if it is none."""
    return holds(lambda: _zip_type(path))


def _zip_type(path: Path) -> str:
    with _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        if "mimetype" in names and names & {"META-INF/container.xml", "META-INF/manifest.xml"}:
            stated = _STATED.fullmatch(_member(archive, "mimetype").strip())
            if stated:
                return stated[0].decode()
        if "[Content_Types].xml" in names:
            return _office(_member(archive, "[Content_Types].xml"))
        if "AndroidManifest.xml" in names:
            return "application/vnd.android.package-archive"
        if "META-INF/MANIFEST.MF" in names:
            return "application/java-archive"
        return "application/zip"


def _office(content_types: bytes) -> str:
    lower = content_types.lower()
    for part, package in _MACROS:
        if part in lower:
            return package
    for part, package in _OFFICE:
        if part in lower:
            return f"application/vnd.openxmlformats-officedocument.{package}"
    return "application/zip"


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the beginning of a member; empty if it cannot be unpacked."""

    def read() -> bytes:
        with archive.open(name) as member:
            return member.read(_MEMBER_BYTES)

    return holds(read) or b""
