"""Which queue a job waits in: a decision from what is known when its file was taken, so that some workers can be for some files.

The type is the one that was detected, after an attempt has looked; until then it is what the client claimed, which is a hint. A
wrong queue costs nothing but the choice: every worker runs whatever job it is given.
"""

from __future__ import annotations

from typing import Final

from service.jobs.model import FileInfo

DEFAULT: Final = "default"
BULK: Final = "bulk"
#: By queue, how the types begin that go there.
TYPES: Final = {
    "image": ("image/",),
    "document": ("application/pdf", "application/vnd.", "application/msword", "application/rtf", "application/epub"),
    "media": ("audio/", "video/"),
}
#: All queues there are, by their names in ``INTAKE_QUEUES``.
QUEUES: Final = (DEFAULT, *TYPES, BULK)


def queue_of(file: FileInfo, *, bulk_size: int) -> str:
    """Return the name of the queue for a file; files of ``bulk_size`` bytes and more are bulk, 0 for none."""
    if bulk_size and file.size >= bulk_size:
        return BULK
    media_type = (file.media_type or file.declared_type or "").lower()
    return next((name for name, beginnings in TYPES.items() if media_type.startswith(beginnings)), DEFAULT)
