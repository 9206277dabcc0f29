"""Which queue a job waits in."""

from __future__ import annotations

import pytest

from service.engines.routes import QUEUES, queue_of
from service.jobs.model import FileInfo
from tests.jobs import SHA


def file(declared: str | None = None, detected: str | None = None, size: int = 1) -> FileInfo:
    return FileInfo(name="a", size=size, sha256=SHA, declared_type=declared, media_type=detected)


@pytest.mark.parametrize(
    ("declared", "queue"),
    [
        (None, "default"),
        ("text/plain", "default"),
        ("image/png", "image"),
        ("IMAGE/PNG", "image"),
        ("application/pdf", "document"),
        ("application/vnd.oasis.opendocument.text", "document"),
        ("video/mp4", "media"),
        ("nonsense", "default"),
    ],
)
def test_the_type_chooses_the_queue(declared, queue):
    assert queue_of(file(declared), bulk_size=10) == queue
    assert queue in QUEUES


def test_what_was_detected_counts_more_than_what_was_claimed():
    assert queue_of(file("image/png", "application/pdf"), bulk_size=10) == "document"


def test_a_large_file_is_bulk_whatever_its_type():
    assert queue_of(file("image/png", size=10), bulk_size=10) == "bulk"
    assert queue_of(file("image/png", size=9), bulk_size=10) == "image"
    assert queue_of(file("image/png", size=10**12), bulk_size=0) == "image"
