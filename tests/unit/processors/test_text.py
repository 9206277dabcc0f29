"""Counting texts in pieces."""

import re
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import Reject, testing, text
from processors.text import info

KEYS = ("lines", "blank_lines", "words", "characters", "longest_line", "newline")


def facts(tmp_path, content, **options):
    path = tmp_path / "text"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return testing.run(info, path, media_type="text/plain", options=options).facts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", (0, 0, 0, 0, 0, None)),
        ("one", (1, 0, 1, 3, 3, None)),
        ("one\n", (1, 0, 1, 4, 3, "lf")),
        ("one two\n\n  \nthree", (4, 2, 3, 17, 7, "lf")),
        ("a\r\nb\r\n", (2, 0, 2, 6, 1, "crlf")),
        ("a\rb\r", (2, 0, 2, 4, 1, "cr")),
        ("a\r\nb\nc\r", (3, 0, 3, 7, 1, "mixed")),
        ("\r\r\n\n", (3, 3, 0, 4, 0, "mixed")),
        ("  ", (1, 1, 0, 2, 2, None)),
    ],
)
def test_lines_words_and_characters_are_counted(tmp_path, content, expected):
    found = facts(tmp_path, content)
    assert tuple(found[key] for key in KEYS) == expected


@given(st.text(alphabet="ab \t\r\nü", max_size=40), st.integers(1, 7))
def test_counts_do_not_depend_on_where_pieces_end(tmp_path_factory, content, piece):
    folder = tmp_path_factory.mktemp("text")
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(text, "_PIECE", piece)
        found = facts(folder, content)
    lines = re.split("\r\n|\r|\n", content)
    lines = lines[:-1] if not lines[-1] else lines
    assert found["characters"] == len(content)
    assert found["words"] == len(content.split())
    assert found["lines"] == len(lines)
    assert found["blank_lines"] == sum(not line.strip() for line in lines)
    assert found["longest_line"] == max(map(len, lines), default=0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_told_and_marks_not_counted(tmp_path, encoding):
    content = "Grüße, Welt, und alles Gute\n"
    found = facts(tmp_path, content.encode(encoding))
    assert (found["encoding"], found["characters"], found["head"]) == (encoding, len(content), content)


def test_the_last_letter_decides_the_encoding_too(tmp_path):
    found = facts(tmp_path, b"plain words\n" * 100_000 + "Grüße aus Köln".encode("latin-1"))
    assert (found["encoding"], found["lines"], found["words"]) == ("cp1252", 100_001, 200_003)


def test_one_broken_byte_is_replaced(tmp_path):
    found = facts(tmp_path, "Привет ".encode() * 50_000 + b"\x81\x8d\x00\x81\x01")
    assert found["encoding"] == "utf-8"


def test_the_beginning_is_kept_without_controls(tmp_path):
    assert (
        facts(tmp_path, "some long text \x1b[31m here\r\nb\x07\tand there\n")["head"]
        == "some long text [31m here\nb\tand there\n"
    )
    assert facts(tmp_path, "line\n" * 50)["head"].count("line") == 20
    assert facts(tmp_path, "line\n" * 50, head_lines=0)["head"] == ""
    assert len(facts(tmp_path, "ü" * 5000)["head"]) == 1024


def test_a_line_without_end_takes_no_memory(tmp_path):
    path = tmp_path / "long"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(b"x" * 1024 * 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = testing.run(info, path, media_type="text/plain")
    assert result.facts["longest_line"] == 64 * 1024 * 1024
    assert result.progress[-1] == (64 * 1024 * 1024, 64 * 1024 * 1024, "bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_bytes_are_no_text(tmp_path):
    with pytest.raises(Reject) as caught:
        facts(tmp_path, bytes(range(256)) * 10)
    assert caught.value.code == "text-binary"
