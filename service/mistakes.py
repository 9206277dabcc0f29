"""Mistakes in settings in words for people: which variable, what is wrong, and what may have been meant. Never a secret."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from service.units import format_duration

_SECRET: Final = frozenset({"broker_url", "records", "token"})


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return what to add to the complaint about a variable that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; `intake config docs` lists them all"


def tell(item: Any, path: Path | None, prefix: str, known: Sequence[str]) -> str:
    """Return one of Pydantic's errors as a sentence about a variable, or a key of the file ``path``."""
    field = str(item["loc"][0]) if item["loc"] else ""
    name = f"{prefix}{field.upper()}"
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown setting {field}{did_you_mean(name, known)}"
    reason, value = item["msg"].removeprefix("Value error, "), item["input"]
    value = format_duration(value) if isinstance(value, timedelta) else value
    if field in _SECRET:
        return f"{name}: {reason}"
    return f"{name}={value}: {reason}" if field else reason
