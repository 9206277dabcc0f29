"""Which process an attempt is given."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.execution.process import Process, Processes
from service.jobs.lease import FileLease


class Counting:
    """Starts nothing, and tells a pid of its own each time."""

    def __init__(self) -> None:
        self.leases: list[int | None] = []
        self._held: list[Any] = []

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
        self.leases.append(lease)
        self._held.append(channel.dup())
        os.write(exit_writer, json.dumps({"pid": 2**22 + len(self.leases)}).encode() + b"\n")

    def stop(self) -> None:
        """Let go of the channels; nothing runs."""
        for held in self._held:
            held.close()


@pytest.fixture
def launcher() -> Iterator[Counting]:
    launcher = Counting()
    yield launcher
    launcher.stop()


@pytest.fixture
def processes(launcher: Counting) -> Iterator[Processes]:
    processes = Processes(launcher)
    yield processes
    for process in processes._free:
        process.close()


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[FileLease]:
    lease = FileLease(tmp_path / "lease")
    yield lease
    lease.release()


def served(processes: Processes, lease: FileLease, *, shared: bool = True) -> Process:
    """Take a process for one attempt that succeeds, and give it back."""
    with processes.given(lease, shared=shared) as process:
        process.served += 1
    return process


def test_one_that_has_served_is_given_again_to_who_may_share_it(
    processes: Processes, launcher: Counting, lease: FileLease
) -> None:
    first = served(processes, lease)

    assert served(processes, lease) is first
    assert launcher.leases == [None]


def test_one_of_its_own_holds_the_lease_and_goes_to_nobody_else(
    processes: Processes, launcher: Counting, lease: FileLease
) -> None:
    served(processes, lease)
    with processes.given(lease, shared=False):
        pass

    assert launcher.leases == [None, lease.fileno()]


def test_one_that_has_not_served_or_was_ended_is_not_given_again(
    processes: Processes, launcher: Counting, lease: FileLease
) -> None:
    with processes.given(lease, shared=True):
        pass
    with suppress(ZeroDivisionError), processes.given(lease, shared=True) as process:
        process.served += 1
        raise ZeroDivisionError
    served(processes, lease)

    assert len(launcher.leases) == 3


def test_many_threads_take_them_and_none_gets_one_that_another_has(processes: Processes, lease: FileLease) -> None:
    taken: set[int] = set()

    def take(_: int) -> None:
        with processes.given(lease, shared=True) as process:
            assert id(process) not in taken
            taken.add(id(process))
            process.served = 1 if process.served > 50 else process.served + 1
            taken.discard(id(process))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, range(2000)))
