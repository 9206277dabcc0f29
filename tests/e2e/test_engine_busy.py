"""How quick the API stays while every slot is busy with images of 40 megapixels: a measurement, run by ``make soak``.

Beside the answers it times the synced writes of one acceptance, made by nobody but itself: what these lose to the busy machine, a
202 under ``durability=sync`` loses too.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.durable import Disk
from service.kernel import version
from service.testing import Server
from tests.e2e.rig import ended, kill, processes, running, serve, submit
from tests.http import NO_TLS

ROUNDS = int(os.environ.get("INTAKE_TEST_ROUNDS", "") or 20)
UPLOADS, LOOKS, WRITES = 20, 60, 20  # in each round, at rest and busy
PAUSE = 0.01  # seconds between two requests: a service at its ease, not a test of its throughput


@pytest.fixture(params=["sync", "none"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    settings = {"slots": os.cpu_count() or 1, "deadline": "30m", "default_pipeline": "checksum"}
    settings["durability"] = request.param
    with serve(tmp_path, **settings) as server:
        yield server
        server.kill()  # its images take as long as they are let


def photo() -> bytes:
    """Return a JPEG of 40 megapixels with the detail of a photo."""
    noise = Image.effect_noise((1600, 1085), 80).resize((8000, 5000), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    Image.merge("RGB", [noise, noise.transpose(Image.Transpose.ROTATE_180), noise]).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def times(action: Callable[[], None], number: int) -> list[float]:
    """Return the milliseconds of each of so many actions, with a pause between them."""
    taken = []
    pause = threading.Event()
    for _ in range(number):
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1000)
        pause.wait(PAUSE)
    return taken


class Meter:
    """Times what clients do, again and again, and keeps all the times."""

    def __init__(self, server: Server, job_id: str, http: httpx.Client) -> None:
        self._server, self._job_id, self._http = server, job_id, http
        self._taken: dict[str, list[float]] = {"202": [], "status": [], "the disk alone": []}

    def round(self) -> None:
        self._taken["202"] += times(self._upload, UPLOADS)
        self._taken["status"] += times(self._look, LOOKS)
        self._taken["the disk alone"] += times(self._write, WRITES)

    def spread(self) -> dict[str, dict[str, float]]:
        hundredths = {what: statistics.quantiles(taken, n=100) for what, taken in self._taken.items()}
        return {what: {"p50": round(of[49], 2), "p99": round(of[98], 2)} for what, of in hundredths.items()}

    def _upload(self) -> None:
        assert self._http.post("/v1/jobs?filename=small.txt", content=b"small " * 170).status_code == 202

    def _look(self) -> None:
        assert self._http.get(f"/v1/jobs/{self._job_id}").status_code == 200

    def _write(self) -> None:
        """Sync a source, its name in a new folder, that folder's, a marker, a record and its name."""
        disk, root = Disk(sync=True), self._server.folder / "probe"
        job = root / uuid.uuid4().hex
        disk.make_folders(job)
        disk.write(job / "source", b"small " * 170)
        (root / f"{job.name}.marker").touch()
        disk.sync_folder(root)
        disk.write(job / "record", b"small " * 170)


def test_an_attempt_goes_after_whoever_waits_for_an_answer(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        running(server, submit(server, f"wait {tmp_path / 'go'}"))
        (attempt,) = processes(server).attempts
        assert os.getpriority(os.PRIO_PROCESS, attempt) == os.getpriority(os.PRIO_PROCESS, server.process.pid) + 10
        session = Path(f"/proc/{attempt}/autogroup")
        if session.exists() and (told := session.read_text().strip()):  # else this kernel weighs no sessions
            assert told.endswith(" nice 10")
        if version() >= (6, 12) and (scheduling := Path(f"/proc/{attempt}/sched")).exists():
            assert re.search(r"^se\.slice +: +100000000$", scheduling.read_text(), re.MULTILINE)  # nanoseconds


@pytest.mark.soak
def test_answers_stay_quick_while_every_slot_is_busy(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Rest is the same moment with the attempts stopped, in turns, so that what else the machine does counts for both."""
    known = submit(server, "nothing")
    ended(server, known)
    image = photo()
    for _ in range(server.settings["slots"]):
        running(server, submit(server, image, pipeline="decode", filename="photo.jpg"), timeout=60)
    attempts = processes(server).attempts
    assert len(attempts) == server.settings["slots"]
    with httpx.Client(trust_env=False, verify=NO_TLS, base_url=server.url, timeout=30) as http:
        rest, busy = Meter(server, known, http), Meter(server, known, http)
        busy.round()
        busy = Meter(server, known, http)  # the first one has warmed up
        for _ in range(ROUNDS):
            busy.round()
            kill(*attempts, number=signal.SIGSTOP)
            rest.round()
            kill(*attempts, number=signal.SIGCONT)
    assert processes(server).attempts == attempts, "every slot was busy to the end"

    at_rest, at_work = rest.spread(), busy.spread()
    figures = {
        "durability": server.settings["durability"],
        "slots": server.settings["slots"],
        "image bytes": len(image),
        "rest ms": at_rest,
        "busy ms": at_work,
        "ratio": {what: {p: round(at_work[what][p] / at_rest[what][p], 2) for p in at_rest[what]} for what in at_rest},
    }
    with capsys.disabled():
        print("\n" + json.dumps(figures, indent=2))  # noqa: T201 - for who runs it
    assert at_work["status"]["p50"] < 2 * at_rest["status"]["p50"] + 1
    assert at_work["202"]["p50"] < 2 * at_rest["202"]["p50"] + 1
