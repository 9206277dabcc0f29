"""Names for display: whatever a client calls its file, what is shown is harmless, short and not empty."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.names import MAX_BYTES, NAMELESS, display_name

HIDDEN = "\u202e\u200b\ufeff\u2066\u00ad\u0085\u2028\x00\x1b\x7f\ue000\U000e0041"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, NAMELESS),
        ("", NAMELESS),
        (" . .. ", NAMELESS),
        ("/", NAMELESS),
        ("a/", NAMELESS),
        (HIDDEN, NAMELESS),
        ("photo.jpg", "photo.jpg"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\Users\\me\\a b.txt", "a b.txt"),
        ("mixed/back\\slash.txt", "slash.txt"),
        ("na%22me.txt", 'na"me.txt'),
        ("a%0d%0ab.txt", "a b.txt"),
        ("100%25.txt", "100%25.txt"),
        ("%2e%2e%2f", "%2e%2e%2f"),
        ("%252f", "%252f"),
        ("a\r\n\t b", "a b"),
        ("  spaced   out  ", "spaced out"),
        ("...hidden", "hidden"),
        ("ending. .", "ending"),
        ("e\u0301.txt", "é.txt"),
        ("e\u200b\u0301.txt", "é.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\u200bb", "ab"),
        ("👩‍🚀.png", "👩🚀.png"),  # the joiner is a format character
        ("日本語.txt", "日本語.txt"),
        ("CON", "CON"),  # never a path, so nothing is reserved
    ],
)
def test_a_name_is_shown_as_people_expect_it(raw: str | None, shown: str):
    assert display_name(raw) == shown


@pytest.mark.parametrize("char", HIDDEN)
def test_what_cannot_be_seen_is_not_shown(char: str):
    assert display_name(f"a{char}b.txt") == "ab.txt"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("é" * 300 + ".pdf", "é" * 125 + ".pdf"),
        ("é" * 300, "é" * 127),
        ("😀" * 100 + ".a", "😀" * 63 + ".a"),
        ("x" * 300 + "." + "y" * 17, "x" * 255),
        ("x" * 251 + ".pdf", "x" * 251 + ".pdf"),
        ("x" * 250 + "  y.pdf", "x" * 250 + ".pdf"),
        ("." + "x" * 300, "x" * 255),
        ("x" * 254 + "." + "y" * 20, "x" * 254),
        ("x" * 250 + "." + "y" * 9 + ".pdf", "x" * 250 + ".pdf"),
    ],
)
def test_a_long_name_is_cut_before_its_extension(raw: str, shown: str):
    assert display_name(raw) == shown
    assert len(shown.encode()) <= MAX_BYTES


@given(st.text(max_size=400) | st.text(alphabet="./\\%20D2A\r\n \u202ee\u0301", max_size=400))
def test_any_name_becomes_a_harmless_one(raw: str):
    name = display_name(raw)
    assert name
    assert len(name.encode("utf-8")) <= MAX_BYTES
    assert not set("/\\\r\n\t\0") & set(name)
    assert not name.startswith((".", " "))
    assert not name.endswith((".", " "))
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name)
    assert unicodedata.is_normalized("NFC", name)


@given(st.text(max_size=300).filter(lambda text: "%" not in text))
def test_a_shown_name_is_shown_the_same_again(raw: str):
    assert display_name(display_name(raw)) == display_name(raw)
