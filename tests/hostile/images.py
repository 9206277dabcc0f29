"""Images that ask for more than they are worth, lie about themselves, or are broken in ways that decoders trip over."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

from PIL import Image

from tests.hostile.corpus import add, hostile

SIZE = (64, 48)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int = 8, color: int = 0, rows: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PNG; without ``rows`` black, compressed as it is made."""
    channels = {0: 1, 2: 3, 6: 4}[color]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    packer = zlib.compressobj(1)
    data = (
        zlib.compress(rows)
        if rows is not None
        else b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    )
    head = struct.pack("!IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def picture(format_: str, size: tuple[int, int] = SIZE, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(file, format_, **options)
    return file.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


SMALL = png(8, 8)
hostile("png-177-megapixels.png", heavy=True)(lambda _: png(13_300, 13_300, depth=1))
hostile("png-88-megapixels-rgba.png", heavy=True)(lambda _: png(9_400, 9_400, color=6))
hostile("png-49-megapixels-within.png", heavy=True)(lambda _: png(7_000, 7_000))
hostile("png-one-row.png")(lambda _: png(1_000_000, 1, depth=1))
hostile("png-one-column.png")(lambda _: png(1, 1_000_000, depth=1))
add("png-claims-all.png", png(2**31 - 1, 2**31 - 1, rows=b"\0" * 100))
add("png-no-size.png", png(0, 0, rows=b""))
add("png-side-too-long.png", png(20_001, 1, rows=bytes(20_002)))
add("png-bad-checksum.png", patched(SMALL, 30, b"\xff\xff"))
add("png-cut.png", SMALL[:45])
add("png-without-pixels.png", SMALL[:33] + chunk(b"IEND", b""))
add("png-negative-chunk.png", SMALL[:33] + b"\xff\xff\xff\xffIDAT" + SMALL[41:])
add("png-more-pixels-than-said.png", png(8, 8, rows=bytes(5_000_000)))
add("png-fewer-pixels-than-said.png", png(4_000, 4_000, rows=bytes(100)))
add("png-100000-chunks.png", png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 100_000))
add("png-html-at-end.png", SMALL + b"<script>alert(1)</script>")
add("png-exif-of-nonsense.png", png(8, 8, extra=chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 60_000)))
hostile("png-text-bomb.png")(lambda _: png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 1))))
hostile("png-itext-bomb.png")(
    lambda _: png(8, 8, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 1)))
)
hostile("png-profile-bomb.png")(
    lambda _: png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 1)))
)
add("apng-claims-frames.png", png(8, 8, extra=chunk(b"acTL", struct.pack("!II", 2**31 - 1, 0))))
add("apng-501-frames.png", png(8, 8, extra=chunk(b"acTL", struct.pack("!II", 501, 0))))
add("apng-frame-outside.png", png(8, 8, extra=chunk(b"acTL", struct.pack("!II", 2, 0)) + chunk(b"fcTL", b"\xff" * 26)))


def gif(frame: bytes, count: int, size: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + frame * count + b";"


def gif_frame(size: tuple[int, int]) -> bytes:
    """One whole frame as Pillow makes it: from its descriptor to the end of its data."""
    file = io.BytesIO()
    Image.new("1", size).save(file, "GIF")
    data = file.getvalue()
    start = data.index(b"," + struct.pack("<HHHH", 0, 0, *size))
    return data[start:-1]


hostile("gif-200000-frames.gif", heavy=True)(lambda _: gif(gif_frame((16, 16)), 200_000, (16, 16)))
hostile("gif-300-large-frames.gif", heavy=True)(lambda _: gif(gif_frame((3000, 3000)), 300, (3000, 3000)))
hostile("gif-20-large-frames-within.gif", heavy=True)(lambda _: gif(gif_frame((3000, 3000)), 20, (3000, 3000)))
hostile("gif-501-frames.gif")(lambda _: gif(gif_frame((16, 16)), 501, (16, 16)))
add(
    "gif-frame-outside.gif",
    gif(b"," + struct.pack("<HHHHB", 60_000, 60_000, 60_000, 60_000, 0) + b"\2\1\4\0", 3, (16, 16)),
)
add("gif-screen-of-65535.gif", patched(picture("GIF"), 6, b"\xff\xff\xff\xff"))
add("gif-garbage-pixels.gif", picture("GIF")[:800] + b"\xfe" * 5000)
add("gif-cut.gif", picture("GIF")[:-200])
add("gif-endless-comment.gif", picture("GIF")[:-1] + b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000)
add("gif-script.gif", b"GIF89a/*" + bytes(100) + b"*/=1;alert(1)")
add("gif-php.gif", picture("GIF") + b"<?php system($_GET[0]); ?>")


@hostile("jpeg-1000-scans.jpg", heavy=True)
def _scans(_: Random) -> bytes:
    data = picture("JPEG", (2000, 2000), "RGB", progressive=True)
    first = data.index(b"\xff\xda")
    scan = data[first : data.index(b"\xff\xda", first + 2)]
    return data[:first] + scan * 1000 + data[first:]


def _claiming(width: int, height: int) -> bytes:
    data = picture("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack("!HH", height, width))


PHOTO = picture("JPEG")
add("jpeg-claims-65500.jpg", _claiming(65_500, 65_500))
add("jpeg-claims-49-megapixels.jpg", _claiming(7_000, 7_000))
add("jpeg-no-height.jpg", _claiming(64, 0))
add("jpeg-cut.jpg", PHOTO[: len(PHOTO) // 2])
add("jpeg-only-start.jpg", b"\xff\xd8\xff")
add("jpeg-bad-tables.jpg", PHOTO.replace(b"\xff\xc4", b"\xff\xc4\0\3", 1))
add("jpeg-100000-comments.jpg", PHOTO[:2] + b"\xff\xfe\0\3x" * 100_000 + PHOTO[2:])
add("jpeg-html.jpg", PHOTO[:2] + b"\xff\xfe\0\x2a<html><script>alert(1)</script><!--      " + PHOTO[2:])
add(
    "jpeg-exif-loop.jpg",
    PHOTO[:2]
    + b"\xff\xe1\0\x2eExif\0\0II*\0\x08\0\0\0"
    + b"\2\0\x69\x87\4\0\1\0\0\0\x08\0\0\0" * 2
    + b"\x08\0\0\0"
    + PHOTO[2:],
)
add("jpeg-random-pixels.jpg", PHOTO[: PHOTO.index(b"\xff\xda") + 14] + bytes(range(256)) * 400)


def tiff(entries: list[tuple[int, int, int, int]], *, following: int = 0, tail: bytes = b"") -> bytes:
    """A TIFF of one directory: entries of tag, type, count and value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", following) + tail


PLAIN = [
    (256, 4, 1, 8),
    (257, 4, 1, 8),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (273, 4, 1, 8),
    (278, 4, 1, 8),
    (279, 4, 1, 64),
]


def _tiff_with(tail: bytes = bytes(64), following: int = 0, **changes: int) -> bytes:
    values = {entry[0]: entry for entry in PLAIN}
    for name, value in changes.items():
        tag = int(name[1:])
        values[tag] = (tag, 4, 1, value)
    return tiff(list(values.values()), following=following, tail=tail)


@hostile("tiff-10000-pages.tif")
def _pages(_: Random) -> bytes:
    size = 2 + 12 * len(PLAIN) + 4
    packed = struct.pack("<H", len(PLAIN)) + b"".join(struct.pack("<HHII", *entry) for entry in PLAIN)
    pages = [packed + struct.pack("<I", 8 + size * (number + 1)) for number in range(10_000)]
    return b"II*\0\x08\0\0\0" + b"".join(pages) + packed + bytes(4)


add("tiff-loop.tif", _tiff_with(following=8))
add("tiff-claims-all.tif", _tiff_with(t256=2**31 - 1, t257=2**31 - 1))
add("tiff-strip-outside.tif", _tiff_with(t273=2**32 - 1))
add("tiff-strip-of-4-gigabytes.tif", _tiff_with(t279=2**32 - 1))
add("tiff-directory-outside.tif", b"II*\0\xf0\xff\xff\xff")
add("tiff-65535-entries.tif", b"MM\0*\0\0\0\x08\xff\xff" + bytes(65_535 * 12))
add("tiff-entry-of-4-gigabytes.tif", tiff([*PLAIN, (270, 2, 2**32 - 1, 0)], tail=bytes(64)))
add("tiff-unknown-compression.tif", _tiff_with(t259=34_712))


def _fax(_: Random) -> bytes:
    file = io.BytesIO()
    Image.new("1", (9400, 9400)).save(file, "TIFF", compression="group4")
    return file.getvalue()


hostile("tiff-fax-88-megapixels.tif", heavy=True)(_fax)
hostile("tiff-deflate-bomb.tif")(
    lambda _: _tiff_with(
        tail=zlib.compress(bytes(200_000_000), 1), t256=7000, t257=7000, t259=8, t278=7000, t279=200_000, t273=110
    )
)
add(
    "tiff-small-page-then-huge.tif",
    _tiff_with(following=110, tail=_tiff_with(t256=19_999, t257=19_999)[8:] + bytes(64)),
)

WEBP, AVIF = picture("WEBP", lossless=True), picture("AVIF")
add("webp-claims-16383.webp", patched(WEBP, 21, struct.pack("<I", 16_382 | 16_382 << 14)))
add("webp-cut.webp", WEBP[:-30])
add("webp-size-lie.webp", patched(WEBP, 4, b"\xff\xff\xff\xff"))
add("webp-garbage.webp", WEBP[:40] + b"\xa5" * 5000)
add("webp-huge-canvas.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff" * 6)
add("avif-cut.avif", AVIF[:-100])
add("avif-box-of-all.avif", patched(AVIF, 0, b"\xff\xff\xff\xf0"))
add("avif-garbage.avif", AVIF[:200] + b"\x5a" * 3000)
add("avif-header-only.avif", AVIF[:24])
add("bmp-claims-all.bmp", patched(picture("BMP"), 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)))
add("bmp-negative.bmp", patched(picture("BMP"), 18, struct.pack("<ii", -64, -48)))
add(
    "bmp-run-length-bomb.bmp",
    b"BM"
    + struct.pack("<IHHI", 1000, 0, 0, 1078)
    + struct.pack("<IiiHHIIiiII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
    + bytes(1024)
    + b"\xff\0" * 200_000,
)
add(
    "ico-of-a-bomb.ico",
    b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 1000, 22) + png(2**16, 2**16, rows=bytes(900)),
)
add("icns.icns", b"icns\0\0\xff\xffic10\0\0\xff\xf0" + bytes(1000))
add(
    "eps-program.eps",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n(/etc/passwd) (r) file 1 setfileposition { pop } loop\n",
)
add("psd-layers.psd", b"8BPS\0\1" + bytes(6) + struct.pack("!HIIHH", 4, 30_000, 30_000, 8, 3) + b"\xff" * 500)
add("fits.fits", b"SIMPLE  =                    T" + b" " * 50 + b"NAXIS   = 99999999999999999999" + b" " * 5000)
add("dds.dds", b"DDS |\0\0\0" + b"\xff" * 300)
add("jp2.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 500)
add("pcx.pcx", b"\x0a\5\1\x08" + b"\xff" * 300)
add("xbm.xbm", b"#define x_width 999999999\n#define x_height 999999999\nstatic char x_bits[] = {\n0x00 };\n")
