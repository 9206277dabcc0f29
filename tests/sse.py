"""Reading event streams in tests, as the HTML standard has it (section 9.2.6), with the lines for people."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass
class Told:
    """One event, or the comments that stood alone."""

    name: str | None = None
    data: Any = None
    id: str | None = None
    retry: int | None = None
    comments: list[str] = field(default_factory=list)


def parse(lines: Iterator[str]) -> Iterator[Told]:
    """Yield what the lines of a stream tell; what is not ended by an empty line is dropped."""
    told = Told()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "" if line:
                told.comments.append(value)
            case "":
                yield told
                told = Told()
            case "event":
                told.name = value
            case "data":
                told.data = json.loads(value)
            case "id":
                told.id = value
            case "retry":
                told.retry = int(value)
            case _:
                raise AssertionError(f"not a line of an event stream: {line!r}")


@contextmanager
def stream(
    http: httpx.Client, path: str, *, after: str | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[tuple[httpx.Response, Iterator[Told]]]:
    """Open an event stream, resumed ``after`` an id; give the answer and its events."""
    sent = dict(headers or {}) | ({"Last-Event-ID": after} if after is not None else {})
    with http.stream("GET", path, headers=sent) as answer:
        yield answer, parse(answer.iter_lines())
