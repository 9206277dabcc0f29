"""What one token may use: jobs and bytes a day, and jobs at a time. A day is one of UTC.

What was used today stands in ``access/usage/<id>``, a line of JSON that is changed under its flock and never synced: a restart of
the service finds it, a power cut may take the last moments from it. A job is charged just before it is committed and refunded when
that fails, so a process that is killed in between has charged for a job that nobody got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from service.access.model import Token, is_token_id
from service.clock import Clock
from service.durable import locked
from service.errors import OutcomeUnknown, TooMany
from service.settings import Settings, format_size

_SOON: Final = 10  #: seconds after which looking for a free place among the jobs at a time is worth it


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What may be used; 0 is without limit."""

    jobs: int = 0  #: a day
    bytes: int = 0  #: a day
    active: int = 0  #: jobs that are queued or running

    def __bool__(self) -> bool:
        return bool(self.jobs or self.bytes or self.active)

    @classmethod
    def of(cls, token: Token, settings: Settings) -> Quota:
        """Return the quota of a token: the settings' where it has none of its own."""
        return cls(
            jobs=settings.quota_jobs if token.quota_jobs is None else token.quota_jobs,
            bytes=settings.quota_bytes if token.quota_bytes is None else token.quota_bytes,
            active=settings.quota_active if token.quota_active is None else token.quota_active,
        )


@dataclass(frozen=True)
class Used:
    """What was used on one day."""

    day: str = ""
    jobs: int = 0
    bytes: int = 0

    def plus(self, jobs: int, size: int, now: datetime) -> Used:
        """Return what is used with these; what was used on another day does not count."""
        day = now.date().isoformat()
        before = self if self.day == day else Used()
        return Used(day, max(0, before.jobs + jobs), max(0, before.bytes + size))


class Usage(Protocol):
    """Keeps what tokens have used. Safe to use from many threads and processes at once."""

    def read(self, token_id: str) -> Used:
        """Return what was used on the last day there was any."""

    def add(self, token_id: str, *, jobs: int, size: int, now: datetime, quota: Quota | None = None) -> None:
        """Add to what was used, unless that goes over the quota: then TooMany is raised and nothing is added."""


class FileUsage:
    """What tokens of a data directory have used."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "access" / "usage"
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, token_id: str) -> Used:
        """Return what was used; nothing where that cannot be read."""
        assert is_token_id(token_id), "it is a file name"
        try:
            return _parsed((self._folder / token_id).read_bytes())
        except FileNotFoundError:
            return Used()

    def add(self, token_id: str, *, jobs: int, size: int, now: datetime, quota: Quota | None = None) -> None:
        """Add to what was used, or raise TooMany."""
        assert is_token_id(token_id), "it is a file name"
        with locked(self._folder / token_id) as descriptor:
            after = _parsed(os.pread(descriptor, 4096, 0)).plus(jobs, size, now)
            if quota:
                require(quota, after, now)
            data = json.dumps(vars(after)).encode()
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))


class MemoryUsage:
    """What tokens have used, for tests."""

    def __init__(self) -> None:
        self._used: dict[str, Used] = {}

    def read(self, token_id: str) -> Used:
        """Return what was used."""
        return self._used.get(token_id, Used())

    def add(self, token_id: str, *, jobs: int, size: int, now: datetime, quota: Quota | None = None) -> None:
        """Add to what was used, or raise TooMany."""
        after = self.read(token_id).plus(jobs, size, now)
        if quota:
            require(quota, after, now)
        self._used[token_id] = after


class Allowance:
    """What one token may still use: judged before an upload begins, and charged with its job."""

    def __init__(
        self, token_id: str, quota: Quota, *, usage: Usage, active: Callable[[str], int], clock: Clock
    ) -> None:
        self.token_id = token_id
        self._quota = quota
        self._usage = usage
        self._active = active
        self._clock = clock

    def require(self, size: int) -> None:
        """Raise TooMany when another job of this size, in bytes, would go over the quota."""
        self._require_place()
        now = self._clock()
        require(self._quota, self._usage.read(self.token_id).plus(1, size, now), now)

    def told(self) -> dict[str, Any]:
        """Return what may be used (None for no limit) and what is, in bytes and jobs, and when the day ends."""
        now, quota = self._clock(), self._quota
        used = self._usage.read(self.token_id).plus(0, 0, now)
        return {
            "jobs_per_day": quota.jobs or None,
            "jobs_today": used.jobs,
            "bytes_per_day": quota.bytes or None,
            "bytes_today": used.bytes,
            "active": quota.active or None,
            "active_now": self._active(self.token_id),
            "day_ends_at": f"{_midnight(now):%Y-%m-%dT00:00:00.000Z}",
        }

    @contextmanager
    def charged(self, size: int, *, beside: int = 0) -> Iterator[None]:
        """Charge a job of this size, or raise TooMany; refund it when what is done inside fails for certain.

        ``beside`` jobs of the same token are being made at this moment, and are no active ones yet.
        """
        self._require_place(beside)
        self._usage.add(self.token_id, jobs=1, size=size, now=self._clock(), quota=self._quota)
        try:
            yield
        except OutcomeUnknown:
            raise
        except BaseException:
            self._usage.add(self.token_id, jobs=-1, size=-size, now=self._clock())
            raise

    def _require_place(self, beside: int = 0) -> None:
        if self._quota.active and self._active(self.token_id) + beside >= self._quota.active:
            raise TooMany(
                f"This token may have {self._quota.active} jobs waiting or running at a time.",
                code="quota-active-exceeded",
                hint="Try again when some are done.",
                retry_after=_SOON,
            )


def require(quota: Quota, used: Used, now: datetime) -> None:
    """Raise TooMany when ``used`` is over the quota of a day."""
    if quota.jobs and used.jobs > quota.jobs:
        raise TooMany(
            f"This token may make {quota.jobs} jobs a day.",
            code="quota-jobs-exceeded",
            hint="Go on tomorrow (UTC), or have the operator raise the quota.",
            retry_after=_until_tomorrow(now),
        )
    if quota.bytes and used.bytes > quota.bytes:
        raise TooMany(
            f"This token may send {format_size(quota.bytes)} a day.",
            code="quota-bytes-exceeded",
            hint="Go on tomorrow (UTC), or have the operator raise the quota.",
            retry_after=_until_tomorrow(now),
        )


def _until_tomorrow(now: datetime) -> int:
    return int((_midnight(now) - now).total_seconds()) + 1


def _midnight(now: datetime) -> datetime:
    return (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def _parsed(data: bytes) -> Used:
    try:
        found: Any = json.loads(data)
        return Used(str(found["day"]), int(found["jobs"]), int(found["bytes"]))
    except (ValueError, LookupError, TypeError):  # empty, or torn by a power cut
        return Used()
