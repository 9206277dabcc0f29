"""Good files of every kind that is supported, each with what must be found in it: told by who made it, not by who reads it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

SIZE: Final = (320, 200)
TEXT: Final = "Größe und Maß\nzwei Zeilen\n"


@dataclass(frozen=True)
class Good:
    """A file, its type, and facts by step that it must have."""

    name: str
    data: bytes
    media_type: str
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def wrong(self, record: dict[str, Any]) -> str | None:
        """Tell what of the record of its job is not as it must be; None when all is."""
        if record["status"] != "succeeded":
            return f"{record['status']}: {(record['error'] or {}).get('detail')}"
        if record["file"]["media_type"] != self.media_type:
            return f"type {record['file']['media_type']}"
        steps = {step["name"]: step for step in record["steps"]}
        digest = {"sha256": hashlib.sha256(self.data).hexdigest(), "size": len(self.data)}
        for step, facts in {"checksum": digest, **self.facts}.items():
            found = steps[step]["facts"] or {}
            for name, value in facts.items():
                if found.get(name) != value:
                    return f"{step}: {name} is {found.get(name)!r}, not {value!r}"
        if (
            self.media_type.startswith("image/")
            and self.media_type != "image/svg+xml"
            and len(steps["image.previews"]["artifacts"]) != 2
        ):
            return "no previews"
        return None


def _image(suffix: str, format_: str, media_type: str, mode: str = "RGB", frames: int = 1, **options: Any) -> Good:
    first, *others = [Image.new(mode, SIZE, 60 * n if mode in ("L", "P") else None).copy() for n in range(frames)]
    for number, frame in enumerate([first, *others]):
        frame.paste(1, (number * 10, 0, number * 10 + 50, 100))
    more = {"save_all": True, "append_images": others} if others else {}
    file = io.BytesIO()
    first.save(file, format_, **more, **options)
    facts = {"format": format_, "width": SIZE[0], "height": SIZE[1], "frames": frames}
    return Good(f"good-{mode}-{frames}.{suffix}", file.getvalue(), media_type, {"image.info": facts})


def _text(name: str, media_type: str, text: str, code: str = "utf-8") -> Good:
    lines = text.count("\n") + (not text.endswith("\n"))
    facts = {"text.info": {"lines": lines, "words": len(text.split()), "characters": len(text)}}
    return Good(name, text.encode(code), media_type, facts)


def _zip(name: str, media_type: str, **members: str) -> Good:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for member, content in members.items():
            made.writestr(member, content)
    return Good(name, file.getvalue(), media_type)


def _office(kind: str, main: str, suffix: str) -> Good:
    base = "application/vnd.openxmlformats-officedocument."
    part = f'<Override PartName="/{main}" ContentType="{base}{kind}.main+xml"/>'
    types = f'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">{part}</Types>'
    return _zip(f"good.{suffix}", base + kind, **{"[Content_Types].xml": types, main: "<x/>"})


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        info = tarfile.TarInfo("a.txt")
        info.size = 5
        made.addfile(info, io.BytesIO(b"hello"))
    return file.getvalue()


_PDF: Final = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF\n"
)

GOOD: Final = [
    _image("jpg", "JPEG", "image/jpeg"),
    _image("jpg", "JPEG", "image/jpeg", "L"),
    _image("jpg", "JPEG", "image/jpeg", "CMYK", progressive=True),
    *(_image("png", "PNG", "image/png", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    _image("png", "PNG", "image/png", "RGBA", 3),
    _image("gif", "GIF", "image/gif", "P"),
    _image("gif", "GIF", "image/gif", "P", 4),
    _image("webp", "WEBP", "image/webp"),
    _image("webp", "WEBP", "image/webp", "RGBA", 3, lossless=True),
    _image("avif", "AVIF", "image/avif"),
    *(_image("tif", "TIFF", "image/tiff", mode) for mode in ("RGB", "L", "1", "CMYK")),
    _image("tif", "TIFF", "image/tiff", "RGB", 3, compression="tiff_lzw"),
    _image("bmp", "BMP", "image/bmp"),
    _text("good.txt", "text/plain", TEXT),
    _text("one-line.txt", "text/plain", "no end"),
    _text("utf16.txt", "text/plain", TEXT, "utf-16"),
    _text("good.csv", "text/csv", "name,size\na,1\nb,2\nc,3\n"),
    _text("good.json", "application/json", json.dumps({"a": [1, 2, {"b": None}]}, indent=1) + "\n"),
    _text("good.ndjson", "application/x-ndjson", '{"a": 1}\n{"a": 2}\n{"a": 3}\n'),
    _text("good.xml", "application/xml", '<?xml version="1.0"?>\n<a><b>text</b></a>\n'),
    _text("good.html", "text/html", "<!DOCTYPE html>\n<html><body><p>text</p></body></html>\n"),
    Good("good.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>', "image/svg+xml"),
    Good("good.pdf", _PDF, "application/pdf"),
    _zip("good.zip", "application/zip", **{"a.txt": "hello"}),
    _office("wordprocessingml.document", "word/document.xml", "docx"),
    _office("spreadsheetml.sheet", "xl/workbook.xml", "xlsx"),
    _office("presentationml.presentation", "ppt/presentation.xml", "pptx"),
    Good("good.tar", _tar(), "application/x-tar"),
    Good("good.gz", gzip.compress(b"hello" * 100), "application/gzip"),
    Good("good.bz2", bz2.compress(b"hello" * 100), "application/x-bzip2"),
    Good("good.xz", lzma.compress(b"hello" * 100), "application/x-xz"),
    Good("unknown.bin", bytes(range(256)) * 4, "application/octet-stream"),
]  # fmt: skip
