"""Real files for the tests, made on the spot."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from PIL import Image, ImageCms

if TYPE_CHECKING:
    from pathlib import Path

LEFT_TOP_BLUE = ((0, 0, 255), (255, 0, 0))


def two_colors(size=(400, 200), mode="RGB"):
    """A red image whose upper left quarter is blue, so that turning it shows."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (0, 0, size[0] // 2, size[1] // 2))
    return image.convert(mode)


def exif(orientation=1, **more):
    """EXIF of a camera, taken in Sydney, below the sea."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = "Cam\x1bera"
    made.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0x829A: 0.008, 0x9000: b"0232", 0x927C: b"\x00maker"})
    made.get_ifd(0x8825).update(
        {1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 12.0, 30.0), 5: b"\x01", 6: 12.5, 7: (1.0, 2.0, 3.0)}
    )
    made.get_ifd(0x8825).update({17: 90.0, 29: "2026:01:02"})
    made.update(more)
    return made


def frames(count=5, size=(64, 64)):
    return [Image.new("RGB", size, (40 * index, 0, 0)) for index in range(count)]


def animation(path: Path, count=5, duration=100, size=(64, 64)) -> Path:
    first, *others = frames(count, size)
    more = {} if path.suffix == ".tif" else {"duration": duration}
    first.save(path, save_all=True, append_images=others, **more)
    return path


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def office(part: str) -> str:
    return f'<Types xmlns="x"><Override PartName="/main.xml" ContentType="{part}"/></Types>'


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, format_: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **more)
    return file.getvalue()


PDF = b"%PDF-1.7\n1 0 obj<<>>endobj\nxref\n0 1\ntrailer<<>>\nstartxref\n9\n%%EOF\n"
