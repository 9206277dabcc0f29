"""Text from strangers, made plain enough to store, log and show.

Names, metadata and messages that come out of a file may hold control characters, terminal escapes, bidirectional
overrides, lone surrogates and NUL. Whatever ends up in facts or in an error passes through here first.
"""

from __future__ import annotations

import unicodedata

#: Control, format (zero width, bidirectional), surrogate, private use and unassigned characters.
_UNWANTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def plain_line(text: str, limit: int) -> str:
    """Return `text` as one line of at most `limit` characters, an ellipsis marking a cut.

    Runs of white space become one space; control, format and surrogate characters are dropped.
    """
    # The slice comes first, so that a gigabyte of text costs no more than what can be shown of it.
    kept = "".join(" " if c.isspace() else c for c in text[: limit * 4] if c.isspace() or _wanted(c))
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def plain_block(text: str) -> str:
    """Return `text` with its line feeds and tabs kept, every other control or format character dropped."""
    return "".join(c for c in text if c in "\n\t" or _wanted(c))


def _wanted(character: str) -> bool:
    return unicodedata.category(character) not in _UNWANTED
