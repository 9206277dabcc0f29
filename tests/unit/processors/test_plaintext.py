"""Untrusted text made plain."""

from hypothesis import given
from hypothesis import strategies as st

from processors.plaintext import plain_block, plain_line


def test_a_line_has_no_controls_and_single_spaces():
    assert plain_line(" a\r\n\tb\x1b[0m\u202ec\u200b\0 ", 99) == "a b[0mc"


def test_a_cut_shows():
    assert plain_line("abcdef", 6) == "abcdef"
    assert plain_line("abcdefg", 6) == "abcde…"


def test_a_block_keeps_lines_and_tabs():
    assert plain_block("a\n\tb\r\x07\ud800c") == "a\n\tbc"


@given(st.text(), st.integers(1, 50))
def test_a_line_is_short_printable_and_encodable(text, limit):
    line = plain_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    line.encode()
