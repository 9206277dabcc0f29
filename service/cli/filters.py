"""Which jobs a command is about: the filters that listing and the bulk verbs share, and the durations people type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

_PANEL = "Filters"


@dataclass(frozen=True)
class Filters:
    """Filters on jobs, as typed. Empty ones match all."""

    status: list[str] | None = None
    type: str | None = None
    pipeline: str | None = None
    label: list[str] | None = None
    since: str | None = None

    def __bool__(self) -> bool:
        return any((self.status, self.type, self.pipeline, self.label, self.since))

    def query(self) -> dict[str, Any]:
        """Return them as parameters of ``GET /v1/jobs``; typer.BadParameter where one cannot be read."""
        query: dict[str, Any] = {"type": self.type, "pipeline": self.pipeline}
        query |= {"status": ",".join(self.status) if self.status else None}
        query |= {"created_after": moment_of(self.since).isoformat(timespec="milliseconds") if self.since else None}
        return query | {f"label.{key}": value for key, value in pairs(self.label or [], "--label").items()}


#: The options that ``command(filters=True)`` adds.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "status": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="STATUS", help="queued, running, succeeded, failed or canceled.", rich_help_panel=_PANEL
            ),
        ],
        None,
    ),
    "type": (
        Annotated[str | None, typer.Option(metavar="TYPE", help="Detected media type.", rich_help_panel=_PANEL)],
        None,
    ),
    "pipeline": (Annotated[str | None, typer.Option(metavar="NAME", help="Pipeline.", rich_help_panel=_PANEL)], None),
    "label": (
        Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label.", rich_help_panel=_PANEL)],
        None,
    ),
    "since": (
        Annotated[
            str | None,
            typer.Option(
                metavar="WHEN", help="Accepted in the last 90s, 5m, 2h, 7d, or since a date.", rich_help_panel=_PANEL
            ),
        ],
        None,
    ),
}


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """Return ``key=value`` texts as a dictionary."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is not of the form key=value", param_hint=option)
        found[key] = value
    return found


def seconds_of(text: str | None) -> float | None:
    """Return the seconds that ``--timeout`` names."""
    duration = duration_of(text, "--timeout")
    return None if duration is None else duration.total_seconds()


def duration_of(text: str | None, option: str) -> timedelta | None:
    """Return the duration that ``option`` names, such as 30s, 5m or 2h."""
    from service.settings import parse_duration

    return _parsed(text, parse_duration, timedelta, option)


def size_of(text: str | None, option: str) -> int | None:
    """Return the bytes that ``option`` names, such as 10MiB."""
    from service.settings import parse_size

    return _parsed(text, parse_size, int, option)


def _parsed(text: str | None, parse: Callable[[object], object], kind: type[T], option: str) -> T | None:
    if text is None:
        return None
    try:
        value = parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=option) from None
    assert isinstance(value, kind), "made of a text"
    return value


def moment_of(text: str) -> datetime:
    """Return the moment that an age (``2h``) or a date (``2026-11-22``, ``2026-11-22T10:00:00Z``) names."""
    from service.settings import parse_duration

    try:
        ago = parse_duration(text)
        assert isinstance(ago, timedelta)
        return datetime.now(UTC) - ago
    except (ValueError, OverflowError):
        pass
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an age like 2h nor a date", param_hint="--since") from None
    return parsed if parsed.tzinfo else parsed.astimezone()
