"""Coverage of forked processes that may not open files any more: a coverage plugin, and what gathers its yield.

An attempt's process is forked from a warm one, then gives up its descriptors, most of its limits and perhaps the file
system, and leaves by ``os._exit``. Coverage's own patch would save its data by making a file at that moment, and fail.
So each forked child starts a measurement in memory, maps a file while it still may, and fills the mapping when it
leaves. A mapping needs no descriptor and no permission, and nothing in ``service`` has to know. Children that are
killed report nothing.

``python -m tests.forked_coverage`` turns the mappings into one data file, which ``coverage combine`` then takes.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import signal
import sqlite3.dump  # noqa: F401  # what a dump loads on demand, which a locked-in child no longer can
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from coverage import Coverage, CoverageData, CoveragePlugin

MARK = ".forked."
ROOM = 2 * 2**20  # bytes of one mapping; the file is sparse
_HEADER = 8  # bytes that hold the length of what follows, written last
_QUIET = ["already-imported", "module-not-imported", "module-not-measured", "no-data-collected"]

_leave = os._exit


class _Child:
    """What a forked process measures itself with, and where it leaves the result."""

    current: _Child | None = None

    def __init__(self, parent: Coverage, data_file: Path) -> None:
        self.data_file = data_file
        descriptor, _ = tempfile.mkstemp(prefix=f"{data_file.name}{MARK}", dir=data_file.parent)
        try:
            os.ftruncate(descriptor, ROOM)
            self.room = mmap.mmap(descriptor, ROOM)
        finally:
            os.close(descriptor)
        branch: Any = parent.get_option("run:branch")
        source: Any = parent.get_option("run:source")
        self.coverage = Coverage(data_file=None, config_file=False, branch=branch, source=source)
        self.coverage.set_option("run:disable_warnings", _QUIET)
        self.coverage.start()

    def report(self) -> None:
        """Fill the mapping. Whatever goes wrong here must not change how the process ends."""
        with contextlib.suppress(Exception):
            self.coverage.stop()
            data = self.coverage.get_data().dumps()
            self.room[_HEADER : _HEADER + len(data)] = data
            self.room[:_HEADER] = len(data).to_bytes(_HEADER, "little")


class _Plugin(CoveragePlugin):
    """Has nothing to do: a plugin is only how coverage comes to load this module in every measured process."""

    def configure(self, config: Any) -> None:
        """Leave the configuration as it is."""


def coverage_init(reg: Any, options: dict[str, str]) -> None:
    """Watch the forks of this process; coverage calls this in each process that it measures."""
    reg.add_configurer(_Plugin())
    if _report not in _watching:
        _watching.append(_report)
        os.register_at_fork(after_in_child=_measure)
        atexit.register(_report)


_watching: list[Any] = []


def _measure() -> None:
    parent = Coverage.current()
    if parent is None:
        return
    parent.stop()
    before = _Child.current
    data_file = before.data_file if before else Path(str(parent.get_option("run:data_file"))).absolute()
    _Child.current = _Child(parent, data_file)
    os._exit = _exit  # in place of coverage's patch, which would try to make a file
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(getattr(handler, "__self__", None), Coverage):  # the same for its handler
        signal.signal(signal.SIGTERM, _on_sigterm)


def _report() -> None:
    if _Child.current is not None:
        _Child.current.report()


def _exit(status: int) -> NoReturn:
    _report()
    _leave(status)


def _on_sigterm(number: int, frame: object) -> None:
    _report()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def gather(folder: Path) -> int:
    """Replace the mappings in ``folder`` by one data file, and return how many had something to say."""
    total, told = CoverageData(basename=str(folder / ".coverage"), suffix="from-forks"), 0
    for path in folder.glob(f".coverage{MARK}*"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER), "little")
            content = file.read(length)
        path.unlink()
        if content:
            one = CoverageData(no_disk=True)
            one.loads(content)
            total.update(one)
            one.close(force=True)
            told += 1
    total.close(force=True)
    return told


if __name__ == "__main__":
    print(f"{gather(Path.cwd())} forked processes reported their coverage", file=sys.stderr)  # noqa: T201
