"""The durable file operations of one acceptance, by as many threads as asked, and nothing else: the limit of the disk.

``python -m bench.peers.bare FOLDER THREADS SECONDS`` prints how many a second. The operations are those of ARCHITECTURE.md, "A
file is accepted", in the same order.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from pathlib import Path

DATA = os.urandom(10 * 1024)
RECORD = b"r" * 900


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """Have a file on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)


def accept(root: Path) -> None:
    """Do what one acceptance does to the disk."""
    name = uuid.uuid4().hex
    job = root / "jobs" / name
    write(root / "incoming" / name, DATA)
    job.mkdir()
    sync_folder(root / "jobs")
    (job / "source").hardlink_to(root / "incoming" / name)
    sync_folder(job)
    os.close(os.open(root / "pending" / name, os.O_WRONLY | os.O_CREAT, 0o640))
    sync_folder(root / "pending")
    write(job / "job.json.new", RECORD)
    (job / "job.json.new").rename(job / "job.json")
    sync_folder(job)
    (root / "incoming" / name).unlink()


def main() -> None:
    """Run for the time given and print the rate."""
    root, threads, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    for name in ("jobs", "incoming", "pending"):
        (root / name).mkdir(parents=True, exist_ok=True)
    until, counts = time.monotonic() + seconds, [0] * threads

    def work(number: int) -> None:
        while time.monotonic() < until:
            accept(root)
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.stdout.write(f"{sum(counts) / seconds:.1f}\n")


if __name__ == "__main__":
    main()
