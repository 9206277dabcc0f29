"""What a file is, by its content alone."""

import bz2
import gzip
import io
import json
import lzma
import resource
import struct
import tarfile
import wave
import zipfile

import pytest
from PIL import Image

from processors import sniff_zip, testing
from processors.media_type import media_type
from processors.sniff import sniff
from processors.sniffed import holds

from . import files

OFFICE = "application/vnd.openxmlformats-officedocument."
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>'
BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>'


def of(tmp_path, content):
    path = tmp_path / "unnamed"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = sniff(path)
    return found.media_type, found.confirmed_by


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_images_are_confirmed_by_their_header(tmp_path, format_):
    content = files.encoded(files.two_colors(), format_)
    assert of(tmp_path, content) == (f"image/{format_.lower()}", "pillow")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_an_image_cut_in_its_header_keeps_its_type_unconfirmed(tmp_path, format_):
    content = files.encoded(files.two_colors(), format_)[:20]
    assert of(tmp_path, content) == (f"image/{format_.lower()}", None)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif", "tif"])
def test_animations_are_images_too(tmp_path, suffix):
    path = files.animation(tmp_path / f"a.{suffix}")
    assert of(tmp_path, path.read_bytes()) == (f"image/{suffix}".replace("tif", "tiff"), "pillow")


def test_a_picture_of_two_pictures_is_a_jpeg(tmp_path):
    first, *others = files.frames(3)
    content = files.encoded(first, "MPO", save_all=True, append_images=others)
    assert of(tmp_path, content) == ("image/jpeg", "pillow")


def test_a_long_file_of_a_format_read_whole_is_not_confirmed(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(files.encoded(files.two_colors(), "WEBP"))
    with path.open("r+b") as file:
        file.truncate(100 * 1024 * 1024)
    assert sniff(path).confirmed_by is None


def test_a_bomb_is_only_looked_at(tmp_path):
    content = files.encoded(Image.new("1", (13000, 13000)), "PNG")
    assert of(tmp_path, content) == ("image/png", "pillow")


def test_pdf_is_confirmed_by_its_trailer(tmp_path):
    assert of(tmp_path, files.PDF) == ("application/pdf", "trailer")
    assert of(tmp_path, b"\n junk \n" + files.PDF) == ("application/pdf", "trailer")
    assert of(tmp_path, files.PDF[:30]) == ("application/pdf", None)


def zipped(tmp_path, members):
    return sniff(files.archive(tmp_path / "a", members)).media_type


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("vnd.openxmlformats-officedocument.wordprocessingml.document", OFFICE + "wordprocessingml.document"),
        ("vnd.openxmlformats-officedocument.spreadsheetml.sheet", OFFICE + "spreadsheetml.sheet"),
        ("vnd.openxmlformats-officedocument.presentationml.presentation", OFFICE + "presentationml.presentation"),
        ("vnd.ms-word.document.macroEnabled", "application/vnd.ms-word.document.macroenabled.12"),
        ("vnd.odd", "application/zip"),
    ],
)
def test_office_documents_are_told_by_their_content_types(tmp_path, part, found):
    assert zipped(tmp_path, {"[Content_Types].xml": files.office(f"application/{part}.main+xml")}) == found


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"a.txt": "a", "word/document.xml": "<x/>"}, "application/zip"),
        ({}, "application/zip"),
        ({"mimetype": "application/epub+zip", "META-INF/container.xml": "<x/>"}, "application/epub+zip"),
        (
            {"mimetype": "application/vnd.oasis.opendocument.text", "META-INF/manifest.xml": "<x/>"},
            "application/vnd.oasis.opendocument.text",
        ),
        ({"mimetype": "text/html", "META-INF/manifest.xml": "<x/>"}, "application/zip"),
        ({"mimetype": "application/epub+zip"}, "application/zip"),
        ({"META-INF/MANIFEST.MF": "x"}, "application/java-archive"),
        ({"META-INF/MANIFEST.MF": "x", "AndroidManifest.xml": "x"}, "application/vnd.android.package-archive"),
    ],
)
def test_other_zip_archives_are_told_by_their_members(tmp_path, members, found):
    assert zipped(tmp_path, members) == found


def test_a_broken_archive_is_still_a_zip_archive(tmp_path):
    content = files.archive(tmp_path / "a", {"a.txt": "a" * 1000}).read_bytes()
    assert of(tmp_path, content[:-10]) == ("application/zip", None)


def test_an_encrypted_member_tells_nothing(tmp_path):
    path = files.archive(tmp_path / "a", {"[Content_Types].xml": "secret"})
    content = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    assert of(tmp_path, content) == ("application/zip", "zipfile")


def test_a_directory_too_long_to_read_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sniff_zip, "_DIRECTORY_BYTES", 100)
    path = files.archive(tmp_path / "a", {f"{n}.txt": "" for n in range(10)})
    assert sniff(path).confirmed_by is None


def test_an_archive_with_a_picture_in_front_is_a_picture(tmp_path):
    content = files.encoded(files.two_colors(), "PNG") + files.archive(tmp_path / "a", {"a": "a"}).read_bytes()
    assert of(tmp_path, content) == ("image/png", "pillow")


@pytest.mark.parametrize(
    ("pack", "found"),
    [
        (gzip.compress, ("application/gzip", "zlib")),
        (bz2.compress, ("application/x-bzip2", "bz2")),
        (lzma.compress, ("application/x-xz", "lzma")),
    ],
)
def test_compressed_files_are_confirmed_by_a_first_piece(tmp_path, pack, found):
    assert of(tmp_path, pack(b"text" * 1000)) == found
    assert of(tmp_path, pack(b"")) == found
    assert of(tmp_path, pack(b"text" * 1000)[:12]) == (found[0], None)
    assert of(tmp_path, pack(b"text" * 1000)[:8] + b"\xff" * 50) == (found[0], None)


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    content = gzip.compress(bytes(300 * 1024 * 1024), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert of(tmp_path, content) == ("application/gzip", "zlib")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_tar_is_told_by_its_checksum(tmp_path):
    for format_ in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=format_) as archive:
            archive.addfile(tarfile.TarInfo("näme"))
        content = (tmp_path / "a.tar").read_bytes()
        assert of(tmp_path, content) == ("application/x-tar", "tarfile")
        assert of(tmp_path, b"M" + content[1:]) == ("application/x-tar", None)


def sound():
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(8000)
        made.writeframes(struct.pack("<100h", *range(100)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (sound(), "audio/wav"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\xff\xfb\x90\x00" * 20, "audio/mpeg"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(20), "video/mp4"),
        (b"\x7fELF\x02\x01\x01" + bytes(50), "application/x-executable"),
        (b"SQLite format 3\x00" + bytes(80), "application/vnd.sqlite3"),
        (b"8BPS\x00\x01" + bytes(20), "image/vnd.adobe.photoshop"),
    ],
)
def test_types_without_a_parser_here_are_told_by_magic(tmp_path, content, found):
    assert of(tmp_path, content) == (found, None)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", bytes(5000), bytes(range(256)) * 9, b"\xce\xb2\xcf\x81\x00\x01\x02" * 9]
)
def test_empty_and_unknown_files_are_bytes(tmp_path, content):
    assert of(tmp_path, content) == ("application/octet-stream", None)


@pytest.mark.parametrize("text", ["BMW is a car.\n", "MZ is a label.\n", "ID3 is a tag.\n", "AC10 is a format.\n"])
def test_a_text_that_begins_like_something_else_is_text(tmp_path, text):
    assert of(tmp_path, text) == ("text/plain", "charset")


@pytest.mark.parametrize("text", [r"{\rtf1\ansi hello}", "%!PS-Adobe-3.0\nshowpage\n"])
def test_formats_written_as_text_keep_their_type(tmp_path, text):
    assert of(tmp_path, text)[0] in ("application/rtf", "application/postscript")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": [1, 2.5, -3e9, true, null]}', ("application/json", "json")),
        ("\ufeff \n[]", ("application/json", "json")),
        ('{"a": ' + "9" * 5000 + "}", ("application/json", "json")),
        ("[" * 100_000, ("application/json", None)),
        ("[" + "1," * 1_000_000 + "1]", ("application/json", "json")),
        ("[" + "1," * 3_000_000 + "1]", ("application/json", None)),
        ("[" + "1," * 1_000_000, ("text/plain", "charset")),
        ('{"a": NaN}', ("text/plain", "charset")),
        ('{"a": 1', ("text/plain", "charset")),
        ('"text"', ("text/plain", "charset")),
        ('{"a": 1}\n{"a": 2}\n', ("application/x-ndjson", "json")),
        ('{"a": 1}\n\n[2]', ("application/x-ndjson", "json")),
        ('{"a": 1}\n{"a": \n', ("text/plain", "charset")),
        ('{"a": 1}\n3\n', ("text/plain", "charset")),
        ('{"a": "' + "x" * 100 + '"}\n' * 1, ("application/json", "json")),
    ],
)
def test_json_is_parsed(tmp_path, content, found):
    assert of(tmp_path, content) == found


def test_long_json_lines_are_told_by_the_first(tmp_path):
    assert of(tmp_path, '{"a": "some text"}\n' * 300_000) == ("application/x-ndjson", "json")
    assert of(tmp_path, json.dumps({"a": "x" * 70}) + "\n" + "x" * 5_000_000) == ("application/json", None)


def test_json_in_utf16_is_json(tmp_path):
    assert of(tmp_path, '{"a": "ü"}'.encode("utf-16")) == ("application/json", "json")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("<a><b/></a>", ("application/xml", "expat")),
        ("\n  <!-- x --><a/>", ("application/xml", "expat")),
        ('<?xml version="1.0" encoding="utf-8"?>\n<a/>', ("application/xml", "expat")),
        ("<?xml version='1.0'?><a><b></a>", ("application/xml", None)),
        ("<?xml version='1.0' encoding='nonsense'?><a/>", ("application/xml", None)),
        (SVG, ("image/svg+xml", "expat")),
        ("<svg:svg xmlns:svg='http://www.w3.org/2000/svg'/>", ("image/svg+xml", "expat")),
        ("<svg><rect></svg>", ("image/svg+xml", None)),
        ("<?xml version='1.0'?><svg ", ("image/svg+xml", None)),
        (BOMB + "<x>&b;</x>", ("application/xml", None)),
        (BOMB + "<svg>&b;</svg>", ("image/svg+xml", None)),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', ("application/xml", "expat")),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', ("application/xml", None)),
        ("<html><body><p>x<p>y</body></html>", ("text/html", "html.parser")),
        ("<title>x</title>", ("application/xml", "expat")),
        ("<!DOCTYPE html>\n<title>x</title>", ("text/html", "html.parser")),
        ("<!-- a --> <!-- b -->\n<HTML>", ("text/html", "html.parser")),
        ("<p>only a piece", ("text/html", None)),
        ("<html/>", ("text/html", "html.parser")),
        ("<html xmlns='http://www.w3.org/1999/xhtml'/>", ("application/xhtml+xml", "expat")),
        ("<!-- never closed <p>", ("text/plain", "charset")),
        ("<- not markup", ("text/plain", "charset")),
        ("<me@example.org> wrote: x < y", ("text/plain", "charset")),
        ("<a>" + "<b/>" * 400_000 + "</a>", ("application/xml", "expat")),
    ],
)
def test_markup_is_parsed_without_entities(tmp_path, content, found):
    assert of(tmp_path, content) == found


def test_xml_in_utf16_is_xml(tmp_path):
    assert of(tmp_path, "<?xml version='1.0' encoding='utf-16'?><ü/>".encode("utf-16")) == ("application/xml", "expat")


def test_comments_without_end_take_no_time(tmp_path):
    assert of(tmp_path, "<!-- x -->" * 100_000 + "<q")[0] in ("application/xml", "text/plain")
    assert of(tmp_path, "<!--" * 250_000)[0] == "text/plain"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a,b,c\n1,2,3\n", "text/csv"),
        ("a,b\n1,2\n3,4\n", "text/csv"),
        ('a;b;c\r\n"x;\ny";2;3\r\n\r\n', "text/csv"),
        ("a\tb\n1\t2\n3\t4", "text/tab-separated-values"),
        ("a,b\n1,2\n", "text/plain"),
        ("a,b,c\n1,2\n3,4\n", "text/plain"),
        ("Dear Sir, hello.\nAll is well, thank you.\nBest,\n", "text/plain"),
        ('a,b\n"x,2\n3,4\n', "text/plain"),
        ("a\nb\nc\nd\ne\nf\ng", "text/plain"),
        ("a,b,c\n" * 300, "text/csv"),
        ("a,b," + "c" * 5000 + "\n1,2,3\n" * 300_000, "text/csv"),
        (("a,b," + "c" * 50_000 + "\n") * 30, "text/csv"),
        ("a,b,c\n" + "x" * 1_500_000 + ",b,c\n", "text/plain"),
    ],
)
def test_tables_have_as_many_cells_in_every_line(tmp_path, content, found):
    assert of(tmp_path, content)[0] == found


@pytest.mark.parametrize(
    ("content", "charset"),
    [
        (b"plain ascii", "utf-8"),
        ("Grüße".encode(), "utf-8"),
        ("\ufeffGrüße".encode(), "utf-8-sig"),
        ("Grüße".encode("utf-16"), "utf-16"),
        ("Grüße aus Köln am Rhein".encode("utf-16-le"), "utf-16-le"),
        ("Grüße aus Köln am Rhein".encode("utf-16-be"), "utf-16-be"),
        ("Grüße".encode("utf-32"), "utf-32"),
        ("Grüße aus Köln".encode("latin-1"), "cp1252"),
        ("Il était une fois à la forêt, où les élèves étaient très heureux.".encode("cp1252"), "cp1252"),
        ("Привет, как дела? Это обычный русский текст.".encode("cp1251"), "cp1251"),
        ("これは日本語のテキストです。文字コードを調べます。".encode("shift_jis"), "cp932"),
        (("x" * 1_048_575 + "ü").encode() * 2, "utf-8"),
    ],
)
def test_texts_have_a_charset(tmp_path, content, charset):
    path = tmp_path / "text"
    path.write_bytes(content)
    found = sniff(path)
    assert (found.media_type, found.charset) == ("text/plain", charset)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00\xd8\x00\xd8",
        b"\xff\xfe\x00\x00\xff\xff\xff\xff",
        bytes(range(128, 160)) * 20 + b"\x00" * 3,
    ],
)
def test_what_decodes_to_nothing_sensible_is_no_text(tmp_path, content):
    assert of(tmp_path, content)[0] == "application/octet-stream"


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        sniff(tmp_path / "none")


def test_only_want_of_memory_and_the_disk_get_past_a_parser(tmp_path):
    def raising(error):
        def raises():
            raise error

        return raises

    assert holds(raising(zipfile.BadZipFile())) is None
    assert holds(raising(OSError("bad content"))) is None
    with pytest.raises(MemoryError):
        holds(raising(MemoryError()))
    with pytest.raises(FileNotFoundError):
        holds((tmp_path / "none").open)


def test_the_step_compares_content_claim_and_name(tmp_path):
    path = tmp_path / "report.docx"
    files.archive(path, {"a.txt": "a"})
    result = testing.run(media_type, path, media_type="Image/PNG; x=y")
    assert result.facts == {
        "media_type": "application/zip",
        "confirmed": True,
        "confirmed_by": "zipfile",
        "declared_type": "image/png",
        "declared_agrees": False,
        "extension_type": OFFICE + "wordprocessingml.document",
        "extension_agrees": False,
    }


def test_the_step_tells_the_charset_of_text(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n")
    facts = testing.run(media_type, path, media_type="application/octet-stream").facts
    assert (facts["charset"], facts["declared_agrees"], facts["extension_agrees"]) == ("utf-8", None, True)


def test_no_name_and_no_claim_say_nothing(tmp_path):
    path = tmp_path / "unnamed"
    path.write_bytes(files.PDF)
    facts = testing.run("media_type", path).facts
    assert (
        facts["declared_type"]
        is facts["extension_type"]
        is facts["declared_agrees"]
        is facts["extension_agrees"]
        is None
    )
