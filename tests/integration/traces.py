"""What uploads leave on disk, and that a refused one leaves nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.testing import Server


def traces(server: Server) -> set[str]:
    """Return the names of all bytes being received, markers, and folders of jobs."""
    root = server.data_dir
    found = {f"incoming/{path.name}" for path in (root / "incoming").iterdir()}
    found |= {f"pending/{path.name}" for path in (root / "pending").iterdir()}
    found |= {str(path.relative_to(root)) for path in (root / "jobs").glob("*/*/*/*")}
    return found


@contextmanager
def nothing_left(server: Server) -> Iterator[None]:
    """Check that what happens inside leaves no file, marker or folder that was not there before."""
    before = traces(server)
    yield
    wait_until(lambda: traces(server) <= before, what=f"{traces(server) - before} to be gone")
