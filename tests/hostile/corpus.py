"""The registry of hostile files: each is a small function that makes one, from a seeded source of chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

Make = Callable[[Random], bytes]


@dataclass(frozen=True)
class Hostile:
    """One hostile file. ``heavy`` ones take long to make or to process, and are left to ``make hostile``."""

    name: str
    make: Make
    heavy: bool = False


CORPUS: Final[dict[str, Hostile]] = {}


def hostile(name: str, *, heavy: bool = False) -> Callable[[Make], Make]:
    """Register a maker under the file's name."""

    def register(make: Make) -> Make:
        assert name not in CORPUS, name
        CORPUS[name] = Hostile(name, make, heavy)
        return make

    return register


def add(name: str, data: bytes) -> None:
    """Register a file that is always the same."""
    hostile(name)(lambda _: data)
