"""R16: five clients send the same upload with the same Idempotency-Key at once, while the API is killed: there is one job.

``make keys KEYS=1000`` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import pytest

from service.testing import Server
from tests.e2e.rig import gone, leftovers, serve
from tests.http import NO_TLS
from tests.waiting import wait_until

CLIENTS: Final = 5
AT_ONCE: Final = 4  #: keys


class Race:
    """Clients that want one answer for each key, and the one who kills what answers."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.ids: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._chance = random.Random(seed)
        self._over = threading.Event()

    def run(self, keys: int) -> None:
        killer = threading.Thread(target=self._kill_now_and_then)
        killer.start()
        try:
            with ThreadPoolExecutor(CLIENTS * AT_ONCE) as pool:
                tasks = [pool.submit(self._insist, f"key-{n}") for n in range(keys) for _ in range(CLIENTS)]
                for task in tasks:
                    task.result()
        finally:
            self._over.set()
            killer.join()

    def reuse(self) -> None:
        """Send another payload with each key."""
        with httpx.Client(base_url=self.server.url, trust_env=False, verify=NO_TLS, timeout=30) as http:
            for key in self.ids:
                answer = http.post("/v1/jobs", content=b"nothing else", headers={"Idempotency-Key": f'"{key}"'})
                self._count(f"another payload: {answer.status_code} {answer.json().get('code')}")

    def _insist(self, key: str) -> None:
        """Send the upload until there is a 202."""
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            try:
                with httpx.Client(base_url=self.server.url, trust_env=False, verify=NO_TLS, timeout=30) as http:
                    answer = http.post(
                        "/v1/jobs", content=b"nothing " + key.encode(), headers={"Idempotency-Key": f'"{key}"'}
                    )
            except httpx.TransportError:
                self._count("no answer")
                self._over.wait(0.1)
                continue
            self._count(f"answered {answer.status_code}")
            if answer.status_code == 202:
                with self._lock:
                    self.ids.setdefault(key, set()).add(answer.json()["id"])
                return
            assert answer.status_code in (409, 503), answer.text
            self._over.wait(0.02)
        raise AssertionError(f"no 202 for {key} in two minutes")

    def _kill_now_and_then(self) -> None:
        while not self._over.is_set():
            life = self._answers() + self._chance.randint(1, 80)  # answers, so that a slow machine gets on, too
            while self._answers() < life:
                if self._over.wait(0.005):
                    return
            assert self.server.process is not None
            pid = self.server.process.pid
            self.server.process.kill()
            self.server.process.wait()
            gone(pid)
            self._count("kills of the API")
            self.server.start()

    def _answers(self) -> int:
        return self.counts["answered 202"] + self.counts["answered 409"]

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def races(folder: Path, keys: int, capsys: pytest.CaptureFixture[str]) -> Race:
    seed = int(os.environ.get("INTAKE_TEST_SEED", "") or 16)
    began = time.monotonic()
    with serve(folder, queue_limit=100_000) as server:
        race = Race(server, seed)
        race.run(keys)
        race.reuse()
        wait_until(lambda: not leftovers(server), 180, "a tidy data directory")
        records = [server.record(path.name) for path in (server.data_dir / "jobs").glob("*/*/*/*")]
        log = server.log
    jobs = Counter(record["key"] for record in records)
    several = [key for key, ids in race.ids.items() if len(ids) > 1]
    figures = {
        "seed": seed,
        "keys": keys,
        "jobs": len(records),
        "keys with several answers": len(several),
        **race.counts,
    }
    with capsys.disabled():
        print(f"\nkeys: {json.dumps(figures | {'seconds': round(time.monotonic() - began)})}")  # noqa: T201 - for who runs it
    assert len(race.ids) == len(jobs) == len(records) == keys
    assert not several
    assert race.counts["another payload: 422 idempotency-key-reused"] == keys
    assert "Exception in ASGI" not in log
    return race


def test_r16_one_key_is_one_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    races(tmp_path, 20, capsys)


@pytest.mark.soak
def test_r16_many_keys_are_as_many_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    race = races(tmp_path, int(os.environ.get("INTAKE_TEST_KEYS", "") or 200), capsys)
    assert race.counts["kills of the API"]
    assert race.counts["answered 409"]
