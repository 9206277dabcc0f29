"""EXIF as facts: the standard's own names, JSON values, no binary, and the place it was taken kept apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from processors.plaintext import plain_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

MAX_ENTRIES = 120
"""Most EXIF entries that are kept."""

_TEXT = 200
_ITEMS = 16

_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_USER_COMMENT = 0x9286

#: Windows' own tags, in UTF-16.
_WIDE_TEXT = frozenset(range(0x9C9B, 0x9CA0))

#: Pointers, the file's inner structure, and embedded blocks that are no facts for people.
_SKIPPED = frozenset(
    {
        *(_EXIF, _GPS, _INTEROP),
        *(0x00FE, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0115, 0x0116, 0x011C, 0x013D, 0x0142, 0x0143),
        *(0x0111, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0140, 0x0144, 0x0145, 0x014A, 0x0152, 0x0153, 0x015B),
        *(0x0201, 0x0202, 0x02BC, 0x83BB, 0x8649, 0x8773, 0x927C, 0xC4A5, 0xEA1C),
    }
)


def exif_facts(exif: Image.Exif) -> dict[str, JsonValue]:
    """Return the entries with a name and a plain value, by name, without GPS. Texts are cut at 200 characters."""
    facts: dict[str, JsonValue] = {}
    for directory in (dict(exif), exif.get_ifd(_EXIF)):
        for tag, value in directory.items():
            name = ExifTags.TAGS.get(tag)
            if name is None or tag in _SKIPPED or len(facts) >= MAX_ENTRIES:
                continue
            plain = _plain(_decoded(tag, value))
            if plain is not None and plain != "":
                facts[name] = plain
    return facts


def gps_facts(exif: Image.Exif) -> dict[str, JsonValue] | None:
    """Return where and when by the satellites; None if that is not there or makes no sense.

    `latitude` and `longitude` in degrees (north and east positive), `altitude` in metres above sea level, `direction`
    the camera looked at in degrees, `time` in UTC.
    """
    gps = exif.get_ifd(_GPS)
    facts: dict[str, JsonValue] = {}
    latitude = _degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S", 90)
    longitude = _degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W", 180)
    if latitude is not None and longitude is not None:
        facts |= {"latitude": latitude, "longitude": longitude}
    altitude = _number(gps.get(ExifTags.GPS.GPSAltitude))
    if altitude is not None:
        below = gps.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01")
        facts["altitude"] = round(-altitude if below else altitude, 2)
    direction = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    if direction is not None:
        facts["direction"] = round(direction, 2)
    time = _time(gps)
    if time is not None:
        facts["time"] = time
    return facts or None


def orientation_of(exif: Image.Exif) -> int:
    """Return the orientation, 1 to 8 as in EXIF; 1, upright, where it is missing or makes no sense."""
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decoded(tag: int, value: Any) -> Any:
    if isinstance(value, bytes):
        if tag in _WIDE_TEXT:
            return value.decode("utf-16-le", errors="replace").rstrip("\x00")
        if tag == _USER_COMMENT:
            # Eight bytes name the encoding.
            encoding = "utf-16-be" if value.startswith(b"UNICODE") else "utf-8"
            return value[8:].decode(encoding, errors="replace").rstrip("\x00 ")
        stripped = value.rstrip(b"\x00")
        return stripped.decode("ascii") if len(value) <= _TEXT and stripped.isascii() and _printable(stripped) else None
    return value


def _printable(text: bytes) -> bool:
    return all(32 <= byte < 127 for byte in text)


def _plain(value: Any) -> JsonValue:
    """Return the value as JSON; None for what is none, such as a fraction over zero."""
    if isinstance(value, str):
        return plain_line(value, _TEXT)
    if isinstance(value, int):
        return value
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value[: _ITEMS + 1]]
        return items if items and len(items) <= _ITEMS and None not in items else None
    number = _number(value)
    return None if number is None else round(number, 6)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _degrees(gps: Mapping[int, Any], tag: int, reference: int, negative: str, most: float) -> float | None:
    parts = gps.get(tag)
    if not isinstance(parts, tuple | list) or len(parts) != 3:
        return None
    numbers = [_number(part) for part in parts]
    degrees, minutes, seconds = numbers
    if degrees is None or minutes is None:
        return None
    value = degrees + minutes / 60 + (seconds or 0) / 3600
    if not 0 <= value <= most:
        return None
    return round(-value if str(gps.get(reference, "")).upper().startswith(negative) else value, 7)


def _time(gps: Mapping[int, Any]) -> str | None:
    date, parts = gps.get(ExifTags.GPS.GPSDateStamp), gps.get(ExifTags.GPS.GPSTimeStamp)
    if not isinstance(date, str) or not isinstance(parts, tuple | list):
        return None
    day = date.strip("\x00 ").replace(":", "-")
    clock = [_number(part) for part in parts]
    if len(clock) != 3 or None in clock or len(day) != 10 or not day.replace("-", "").isdigit():
        return None
    hours, minutes, seconds = (int(part or 0) for part in clock)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):
        return None
    return f"{day}T{hours:02}:{minutes:02}:{seconds:02}Z"
