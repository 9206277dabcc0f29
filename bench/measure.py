"""What a run costs: wall time, CPU seconds and resident memory of whole process trees, and what the machine itself can do."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_EVERY = 0.02  # seconds between two looks at memory


@dataclass
class Cost:
    """What the block inside ``measured`` has cost. Seconds and bytes; memory is what the processes had beyond their start."""

    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    growth: int = 0


@contextmanager
def measured(pids: Callable[[], Iterable[int]]) -> Iterator[Cost]:
    """Measure wall time, and CPU time and memory of the processes that ``pids`` names, with those that they have reaped."""
    cost = Cost()
    before, base = cpu_seconds(pids()), _rss(pids())
    peak, stop = [base], threading.Event()

    def watch() -> None:
        while not stop.wait(_EVERY):
            peak[0] = max(peak[0], _rss(pids()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost.wall = time.perf_counter() - began
        stop.set()
        watcher.join()
        cost.cpu = cpu_seconds(pids()) - before
        cost.rss, cost.growth = peak[0], peak[0] - base


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of these processes until now, with that of their children that have ended."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _rss(pids: Iterable[int]) -> int:
    """Return the resident bytes of the processes, shared pages counted once (PSS)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return total


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


@dataclass
class Samples:
    """Figures of one kind from one competitor, one for each round."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Note the figure of a round."""
        self.values.append(value)

    @property
    def median(self) -> float:
        """Return the middle one."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Return the distance between the lowest and the highest, as a share of the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(*command: str, cwd: Path | None = None) -> tuple[float, float]:
    """Run a command to its end and return its wall and CPU seconds. Raises CalledProcessError."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None, "it was asked for"
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said.decode(errors="replace"))
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def payload(path: Path, size: int) -> Path:
    """Write a file of so many bytes that do not compress and are the same each time; return its path."""
    if not path.exists() or path.stat().st_size != size:
        block = b"".join(hashlib.sha512(str(number).encode()).digest() for number in range(16384))
        with path.open("wb") as file:
            left = size
            while left:
                left -= file.write(block[: min(left, len(block))])
    return path


def machine(folder: Path, source: Path) -> dict[str, float]:
    """Return the machine's own limits for a file: seconds to copy it, to have it on disk, to hash it with OpenSSL."""
    copy = folder / "limit"
    copied, _ = run("cp", str(source), str(copy))
    synced, _ = run("sync", str(copy))
    hashed, cpu = run("openssl", "dgst", "-sha256", str(copy))
    copy.unlink()
    return {"copy": copied, "sync": synced, "openssl": hashed, "openssl cpu": cpu}
