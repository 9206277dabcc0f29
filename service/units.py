"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_LONGEST = timedelta(days=36_500)  # added to any date of ours, it gives another
_NO_DURATION = "is not a duration; write it like 30s, 5m, 12h or 30d"
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(value: object) -> object:
    """Return the bytes that ``2GiB``, ``500 MB`` or ``1024`` stand for; anything unreadable raises ValueError."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError("is not a size; write it like 500MB, 2GiB or 1048576")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(value: int) -> str:
    """Write a number of bytes with the largest binary unit that divides it."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def parse_duration(value: object) -> object:
    """Return the timedelta that ``90s``, ``5m``, ``1.5h``, ``30d`` or ``250ms`` stands for; a bare number is seconds.

    Raises ValueError for anything unreadable, and for more than a hundred years.
    """
    factor: float = 1
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        if match is None or match[2].lower() not in _SECONDS:
            raise ValueError(_NO_DURATION)
        value, factor = float(match[1]), _SECONDS[match[2].lower()]
    if not isinstance(value, int | float):
        return value
    if not value * factor <= _LONGEST.total_seconds():
        raise ValueError(f"is not a duration up to {_LONGEST.days}d")
    return timedelta(seconds=value * factor)


def format_duration(value: timedelta) -> str:
    """Write a duration with the largest unit that divides it."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(value, timedelta(seconds=factor))
        if not rest and (count or unit == "s"):
            return f"{count}{unit}"
    return f"{value.total_seconds():f}".rstrip("0") + "s"
