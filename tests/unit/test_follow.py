"""Following a process that does not end: the slot is given back, and the record says why."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from service.execution.follow import Bounds, Follower
from service.execution.live import LiveJob
from service.execution.process import Process
from service.execution.sandbox import ProcessLimits
from service.execution.wire import Request
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Reason
from tests.jobs import NOON, make_job

NOBODY = 2**22 + 1  # above the largest pid of Linux: signals to it go nowhere


class Unkillable:
    """Starts a process that no signal reaches, as one that the kernel holds in a system call: it reports and never ends."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
        writer = os.dup(exit_writer)
        os.write(writer, json.dumps({"pid": NOBODY}).encode() + b"\n")
        self.held += [channel.dup(), open(writer, "wb", buffering=0)]  # noqa: PTH123, SIM115 - a descriptor

    def stop(self) -> None:
        """End it after all."""
        for end in self.held:
            end.close()


def follow(launcher: Unkillable, folder: Path, *, deadline: float = 0.3, grace: float = 0.3):
    store = MemoryJobStore()
    job = make_job()
    store.create(job)
    claimed, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    assert lease is not None
    live = LiveJob(claimed, store=store, lease=lease)
    bounds = Bounds(deadline=deadline, grace=grace)
    process = Process.start(launcher, lease.fileno())
    follower = Follower(process, live=live, store=store, bounds=bounds, stop=threading.Event())
    request = Request(
        job_id=job.id,
        attempt=1,
        source={},
        sha256="",
        workdir=str(folder),
        steps=[],
        finished={},
        limits={},
        process=ProcessLimits(memory=0, output=0, files=64, cpu=1),
    )
    try:
        return follower.follow(request)
    finally:
        process.close()


def test_a_process_that_cannot_be_killed_is_given_up_after_both_graces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    started, launcher = time.monotonic(), Unkillable()
    verdict = follow(launcher, tmp_path)
    launcher.stop()

    assert verdict.reason is Reason.TIMEOUT
    assert verdict.exit_status is None
    assert time.monotonic() - started >= 0.3 + 2 * 0.3
    assert "cannot be killed" in capsys.readouterr().out + caplog.text  # as this process logs


def test_a_flood_of_reports_waits_in_its_sender(tmp_path: Path) -> None:
    """What a hostile process sends is read at a bounded rate, so that it takes no time from the other slots."""
    sent = 0

    class Flooding(Unkillable):
        def start(self, channel: socket.socket, exit_writer: int, lease: int | None) -> None:
            super().start(channel, exit_writer, lease)
            threading.Thread(target=self._flood, args=(channel.dup(),), daemon=True).start()

        def _flood(self, channel: socket.socket) -> None:
            nonlocal sent
            frame = json.dumps({"event": "log", "level": "info", "message": "x" * 60}).encode()
            block = (struct.pack("!I", len(frame)) + frame) * 500
            try:
                while True:
                    channel.sendall(block)
                    sent += len(block)
            except OSError:  # the follower has left
                channel.close()

    launcher = Flooding()
    verdict = follow(launcher, tmp_path, deadline=1.0)
    launcher.stop()

    assert verdict.reason is Reason.TIMEOUT
    assert 2**18 < sent < 16 * 2**20
