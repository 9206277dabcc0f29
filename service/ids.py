"""Job ids: UUIDv7 (RFC 9562, section 5.7), ordered by creation, whose date names the job's folder."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from uuid_utils import uuid7

from service.clock import utc_now

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_SECOND: Final = timedelta(seconds=1)
_AFTER_ALL_DATES: Final = (
    "e677d21f-dc00-"  #: the first millisecond of the year 10000, which no folder can be named after
)


def new_id(now: datetime | None = None) -> str:
    """Return a fresh id of this moment; later ids of one process sort after earlier ones, as long as the clock is not put back.

    uuid-utils has a clock of its own, which never goes back: one that was a year ahead for a while would date all ids until the
    process ends. So where the two differ by more than a second, it is told the time.
    """
    made, now = str(uuid7()), now or utc_now()
    if abs(created_at(made) - now) > _SECOND:
        made = str(uuid7(nanoseconds=(now - _EPOCH) // _MICROSECOND * 1000))
    return made


def is_id(text: str) -> bool:
    """Tell whether ``text`` has the one form ids are written in."""
    return _CANONICAL.fullmatch(text) is not None and text < _AFTER_ALL_DATES


def created_at(job_id: str) -> datetime:
    """Return the moment an id was made, in UTC with milliseconds."""
    return _EPOCH + int(job_id[:8] + job_id[9:13], 16) * _MILLISECOND


def first_id(moment: datetime) -> str:
    """Return a bound: every id made at ``moment`` or later sorts at or after it, every earlier one before."""
    stamp = max(0, -((_EPOCH - moment) // _MILLISECOND))  # rounded up: ids know milliseconds only
    return f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-"
