"""The answer of the content detection, and how it asks parsers that may break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True)
class Sniffed:
    """What a file is by its content."""

    media_type: str
    confirmed_by: str | None = None
    """The parser that read the file as this type; None if only its first bytes say so."""
    charset: str | None = None
    """For text: the encoding, as Python names it."""

    @property
    def confirmed(self) -> bool:
        """Whether a parser agreed."""
        return self.confirmed_by is not None


def holds(question: Callable[[], T]) -> T | None:
    """Return the answer, or None if the parser asked gives up in any way but for want of memory or of the disk."""
    try:
        return question()
    except MemoryError:
        raise
    except OSError as error:
        # Parsers raise bare OSErrors about content; one with a file's name is the system's.
        if error.filename is not None:
            raise
        return None
    except Exception:  # noqa: BLE001 - what a parser raises at a stranger's file is anybody's guess
        return None
