"""The good files are what their makers say of them, by the word of programs that have no code in common with this service."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.good import GOOD, Good
from tests.needs import need

if TYPE_CHECKING:
    from pathlib import Path

IMAGES: Final = [one for one in GOOD if "image.info" in one.facts]
#: What ImageMagick calls a format that has another name here.
FORMATS: Final = {"HEIC": "AVIF", "BMP3": "BMP"}
#: What libmagic sees less closely than this service does; it takes random bytes for anything.
COARSER: Final = {
    "application/xml": "text/xml",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "application/zip",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "application/zip",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "application/zip",
}


def _said(program: str, *arguments: str) -> list[str]:
    return subprocess.run([need(program), *arguments], capture_output=True, text=True, check=False).stdout.splitlines()


@pytest.mark.parametrize("good", [one for one in GOOD if one.name != "unknown.bin"], ids=lambda one: one.name)
def test_libmagic_says_the_same_type(good: Good, tmp_path: Path) -> None:
    (path := tmp_path / good.name).write_bytes(good.data)
    assert _said("file", "--brief", "--mime-type", str(path)) == [COARSER.get(good.media_type, good.media_type)]


@pytest.mark.parametrize("good", IMAGES, ids=lambda one: one.name)
def test_imagemagick_says_the_same_of_images(good: Good, tmp_path: Path) -> None:
    (path := tmp_path / good.name).write_bytes(good.data)
    frames = [line.split() for line in _said("identify", "-format", "%m %W %H\n", str(path))]
    expected = good.facts["image.info"]
    assert {FORMATS.get(kind, kind) for kind, _, _ in frames} == {expected["format"]}
    assert {(int(width), int(height)) for _, width, height in frames} == {(expected["width"], expected["height"])}
    if good.media_type != "image/png":  # ImageMagick sees an animated PNG's first frame alone
        assert len(frames) == expected["frames"]
