"""Archives, documents and media: bombs, loops, lies about sizes, names that lead elsewhere, and files that are two things."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from random import Random

from tests.hostile.corpus import add, hostile
from tests.hostile.images import SMALL

NAMES = [
    "../../etc/passwd",
    "/etc/shadow",
    "C:\\windows\\x",
    "a\0b",
    "con",
    "..",
    "x" * 60_000,
    "\u202etxt.exe",
    "dup",
    "dup",
]


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            made.writestr(info, data)
    return file.getvalue()


def _bomb(*names: str, size: int = 200_000_000) -> bytes:
    return zipped(*((name, bytes(size)) for name in names))


@hostile("zip-overlap.zip", heavy=True)
def _overlap(_: Random) -> bytes:
    """Every entry of the directory is the same data."""
    one = zipped(("a", bytes(1_000_000)))
    start = one.index(b"PK\1\2")
    body, directory, end = one[:start], one[start : one.index(b"PK\5\6")], one[one.index(b"PK\5\6") :]
    count = 20_000
    closing = end[:8] + struct.pack("<HHI", count, count, count * len(directory)) + end[16:]
    return body + directory * count + closing


@hostile("zip-nested-10.zip")
def _nested(_: Random) -> bytes:
    data = bytes(10_000_000)
    for _level in range(10):
        data = zipped(("inner.zip", data))
    return data


import warnings  # noqa: E402 - beside the one place that needs it

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of names that are there twice: on purpose
    ODD_NAMES = zipped(*((name, b"x") for name in NAMES))
PLAIN = zipped(("a.txt", b"hello" * 100))
END = PLAIN.index(b"PK\5\6")
add("zip-odd-names.zip", ODD_NAMES)
hostile("zip-100000-entries.zip", heavy=True)(lambda _: zipped(*((f"{n}", b"") for n in range(100_000))))
hostile("zip-bomb.zip")(lambda _: _bomb("a", "b"))
add(
    "zip-encrypted.zip",
    PLAIN.replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0").replace(
        b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"
    ),
)
add("zip-long-comment.zip", PLAIN[:-2] + b"\xff\xff" + b"PK\5\6" * 16_383 + b"xxx")
add(
    "zip64-lies.zip",
    PLAIN[:END]
    + b"PK\6\6"
    + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**60, 2**60, 2**60, 2**60)
    + b"PK\6\7"
    + struct.pack("<IQI", 0, END, 1)
    + PLAIN[END : END + 8]
    + b"\xff" * 12
    + b"\0\0",
)
add("zip-directory-outside.zip", PLAIN[:-6] + b"\xff\xff\xff\x7f\0\0")
add("zip-size-lies.zip", PLAIN.replace(struct.pack("<I", 500), struct.pack("<I", 2**32 - 2)))
add("zip-unknown-method.zip", PLAIN.replace(b"\x08\0", b"\x63\0"))
add("zip-empty.zip", b"PK\5\6" + bytes(18))
add("zip-cut.zip", PLAIN[:60])
add("zip-symlink.zip", PLAIN.replace(b"\x80\x01", b"\xff\xa1"))
SHEET = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
TYPES = b'<Types xmlns="x"><Override PartName="/m.xml" ContentType="' + SHEET + b'"/></Types>'
LAUGHS = (
    b'<!DOCTYPE l [<!ENTITY a0 "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 30))
    + b"]>"
)
hostile("xlsx-huge-sheet.xlsx", heavy=True)(
    lambda _: zipped(("[Content_Types].xml", TYPES), ("xl/worksheets/sheet1.xml", bytes(500_000_000)))
)
hostile("xlsx-huge-types.xlsx")(lambda _: zipped(("[Content_Types].xml", TYPES[:-8] + b" " * 100_000_000)))
add("docx-laughs.docx", zipped(("[Content_Types].xml", LAUGHS + b"<Types>&a29;</Types>")))
add("docx-deep-types.docx", zipped(("[Content_Types].xml", b"<a>" * 100_000)))
add("epub-lies.epub", zipped(("mimetype", b"application/epub+zip" * 10_000), method=zipfile.ZIP_STORED))
add("jar-of-a-program.jar", b"MZ" + bytes(510) + zipped(("META-INF/MANIFEST.MF", b"x")))
add("zip-and-pdf.pdf", b"%PDF-1.7\n" + PLAIN)
add("zip-and-png.png", SMALL + PLAIN)


def tarred(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for member in members:
            made.addfile(member, io.BytesIO(data) if member.isreg() and member.size else None)
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def resealed(data: bytes, at: int, value: bytes) -> bytes:
    """Change a header of a tar and give it a sum that is right again."""
    changed = data[:at] + value + data[at + len(value) :]
    head = changed[:148] + b" " * 8 + changed[156:512]
    return changed[:148] + b"%06o\0 " % sum(head) + changed[156:]


add(
    "tar-links.tar",
    tarred(member("a", tarfile.LNKTYPE, linkname="/etc/passwd"), member("b", tarfile.SYMTYPE, linkname="../../..")),
)
add(
    "tar-devices.tar",
    tarred(member("sda", tarfile.BLKTYPE, devmajor=8), member("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)),
)
add("tar-claims-8-gigabytes.tar", resealed(tarred(member("a")), 124, b"77777777777\0"))
add("tar-negative-size.tar", resealed(tarred(member("a")), 124, b"\xff" * 12))
add(
    "tar-sparse-of-1-terabyte.tar",
    resealed(
        resealed(tarred(member("a", tarfile.GNUTYPE_SPARSE)), 483, b"\x80\0\0\0\0\0\1\0\0\0\0\0"), 386, b"77777777777\0"
    ),
)
add("tar-pax-path.tar", tarred(member("a", pax_headers={"path": "../../../etc/passwd", "size": "-1"})))
add("tar-pax-bomb.tar", tarred(member("a", tarfile.XHDTYPE)) + b"9999999999 path=x\n" * 1000)
hostile("tar-20000-members.tar")(lambda _: tarred(*(member(f"{n}") for n in range(20_000))))
add("tar-bad-sum.tar", tarred(member("a"))[:148] + b"000000\0 " + bytes(2000))


def _gzip_block() -> bytes:
    return gzip.compress(bytes(50_000_000), 1)


add("gzip-1000-members.gz", gzip.compress(b"x") * 1000)
hostile("gzip-bomb.gz")(lambda _: _gzip_block() * 20)
hostile("gzip-of-gzip.gz")(lambda _: gzip.compress(_gzip_block()))
add("gzip-endless-name.gz", b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 5_000_000)
add("gzip-extra-lies.gz", b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + b"x" * 10)
add("gzip-cut.gz", gzip.compress(b"hello" * 1000)[:20])
hostile("gzip-tar-bomb.tar.gz")(
    lambda _: gzip.compress(tarred(member("a", size=50_000_000), data=bytes(50_000_000)), 1)
)
hostile("bzip2-bomb.bz2")(lambda _: bz2.compress(bytes(5_000_000), 1) * 50)
add("bzip2-garbage.bz2", b"BZh9" + b"1AY&SY" + b"\xff" * 500)
hostile("xz-bomb.xz")(lambda _: lzma.compress(bytes(100_000_000), preset=0))
add(
    "xz-dictionary-of-4-gigabytes.xz",
    lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]).replace(b"!\1\0", b"!\1\x28", 1),
)
add("xz-cut.xz", lzma.compress(b"hello" * 1000)[:30])
add("7z-lies.7z", b"7z\xbc\xaf'\x1c\0\4" + b"\xff" * 100)
add("rar-lies.rar", b"Rar!\x1a\x07\1\0" + b"\xff" * 100)
add("zstd-lies.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 100)

hostile("pdf-stream-bomb.pdf")(
    lambda _: (
        b"%PDF-1.7\n1 0 obj<</Length 9/Filter/FlateDecode>>stream\n"
        + zlib.compress(bytes(100_000_000), 1)
        + b"\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    )
)
hostile("pdf-100000-objects.pdf")(
    lambda _: (
        b"%PDF-1.4\n" + b"".join(b"%d 0 obj<</Next %d 0 R>>endobj\n" % (n, n + 1) for n in range(100_000)) + b"%%EOF"
    )
)
add(
    "pdf-loop.pdf",
    b"%PDF-1.5\n1 0 obj<</Type/Pages/Kids[1 0 R]/Parent 1 0 R/Count 9999999999>>endobj\nstartxref\n9\n%%EOF",
)
add(
    "pdf-script.pdf",
    b"%PDF-1.6\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>/AA<</O<</S/Launch/F(cmd.exe)>>>>>>endobj\n%%EOF",
)
add("pdf-only-header.pdf", b"%PDF-1.7")
add("ole-garbage.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 2000)
add("wav-claims-all.wav", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff" + b"\xff" * 100)
add("mp4-claims-all.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\1moov" + struct.pack("!Q", 2**63 - 1))
add("mp4-loop.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\0moov\0\0\0\1mdat\0\0\0\0\0\0\0\0" * 1000)
add("avi-playlist.avi", b"RIFF\xff\0\0\0AVI LIST\0\0\0\0#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
add("elf.bin", b"\x7fELF\2\1\1" + b"\xff" * 200)
