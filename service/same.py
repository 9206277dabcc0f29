"""What many are told at the same moment, and is made once: keys for caches, by identity.

All who follow a job in a process are given the same object, so whether they are told the same needs no comparison of what it holds.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Same(Generic[T]):
    """A value that is equal to itself alone. It keeps the value, so nothing else can take its identity meanwhile."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value
