"""Names of media types: one spelling for each, what an extension suggests, and whether a claim fits what was found."""

from __future__ import annotations

import mimetypes

UNKNOWN = "application/octet-stream"
"""The type of bytes nobody knows more about."""

#: Older and private names, and the name used here, which is IANA's where there is one.
_ALIASES = {
    "application/csv": "text/csv",
    "application/font-sfnt": "font/sfnt",
    "application/font-woff": "font/woff",
    "application/jsonl": "application/x-ndjson",
    "application/jsonlines": "application/x-ndjson",
    "application/javascript": "text/javascript",
    "application/x-7z": "application/x-7z-compressed",
    "application/x-bzip": "application/x-bzip2",
    "application/x-gzip": "application/gzip",
    "application/x-javascript": "text/javascript",
    "application/x-pdf": "application/pdf",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-rar": "application/vnd.rar",
    "application/x-sqlite3": "application/vnd.sqlite3",
    "application/x-zip": "application/zip",
    "application/x-zip-compressed": "application/zip",
    "application/x-yaml": "application/yaml",
    "audio/mid": "audio/midi",
    "audio/mp3": "audio/mpeg",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-wav": "audio/wav",
    "image/apng": "image/png",
    "image/jpg": "image/jpeg",
    "image/mpo": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/tif": "image/tiff",
    "image/x-icon": "image/vnd.microsoft.icon",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
    "text/json": "application/json",
    "text/rtf": "application/rtf",
    "text/x-markdown": "text/markdown",
    "text/x-yaml": "application/yaml",
    "text/xml": "application/xml",
    "text/yaml": "application/yaml",
    "video/avi": "video/x-msvideo",
    "video/matroska": "video/x-matroska",
}

#: What Python's own table leaves out in one version or another.
_EXTENSIONS = {
    ".7z": "application/x-7z-compressed",
    ".avif": "image/avif",
    ".bz2": "application/x-bzip2",
    ".conf": "text/plain",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".ini": "text/plain",
    ".jar": "application/java-archive",
    ".jsonl": "application/x-ndjson",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mkv": "video/x-matroska",
    ".ndjson": "application/x-ndjson",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".ogg": "audio/ogg",
    ".otf": "font/sfnt",
    ".pptm": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rar": "application/vnd.rar",
    ".rtf": "application/rtf",
    ".sql": "application/sql",
    ".sqlite": "application/vnd.sqlite3",
    ".tgz": "application/gzip",
    ".toml": "application/toml",
    ".ttf": "font/sfnt",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}

#: Types of text that content alone cannot tell from plain text.
_WRITTEN_AS_TEXT = frozenset(
    {
        "application/sql",
        "application/toml",
        "application/x-csh",
        "application/x-httpd-php",
        "application/x-latex",
        "application/x-python",
        "application/x-sh",
        "application/x-tcl",
        "application/x-tex",
        "application/yaml",
        "message/rfc822",
    }
)

#: Types with a syntax of their own: plain text that lacks it is not what was claimed.
_PROVABLE_TEXT = frozenset({"text/html"})

#: Claims that are true, if not precise, of what was found: what was found, and the wider types.
_WIDER = {
    "application/json": {"text/plain"},
    "application/x-ndjson": {"text/plain", "application/json"},
    "application/xhtml+xml": {"text/plain", "text/html", "application/xml"},
    "application/xml": {"text/plain"},
    "image/svg+xml": {"text/plain", "application/xml"},
    "text/csv": {"text/plain"},
    "text/html": {"text/plain"},
    "text/tab-separated-values": {"text/plain", "text/csv"},
}

_table: mimetypes.MimeTypes = mimetypes.MimeTypes()  # Python's own table; the machine's files have no say


def canonical(media_type: str) -> str:
    """Return the one spelling used here: lower case, without parameters, today's name for an older one."""
    plain = media_type.partition(";")[0].strip().lower()
    return _ALIASES.get(plain, plain)


def type_of_name(filename: str) -> str | None:
    """Return the canonical type that the extension of `filename` suggests; None for an unknown one, or none."""
    _, dot, extension = filename.rpartition(".")
    known = _EXTENSIONS.get(f".{extension.lower()}") if dot else None
    guessed = known or _table.guess_type(f"x.{extension}" if dot else "")[0]
    return canonical(guessed) if guessed else None


def agrees(claim: str | None, found: str) -> bool | None:
    """Whether `claim` is true of a file found to be `found`; None for a claim that says nothing.

    A wider claim is true: `text/plain` of JSON, `application/xml` of SVG. So is one that content cannot disprove:
    `text/markdown` of plain text.
    """
    if not claim or (claim := canonical(claim)) == UNKNOWN:
        return None
    if claim == found or claim in _WIDER.get(found, ()):
        return True
    if found == "text/plain":
        return (claim.startswith("text/") and claim not in _PROVABLE_TEXT) or claim in _WRITTEN_AS_TEXT
    family = {"application/json": "+json", "application/xml": "+xml"}.get(found)
    return family is not None and claim.endswith(family)
