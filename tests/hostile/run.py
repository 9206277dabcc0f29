"""Hostile files against a real service, beside good ones: ``make hostile``, with COUNT (files) and SEED.

Two slots, and two lanes that each keep one job in them: one lane sends good files all the time; the other sends good ones for the
baseline, and then the hostile ones.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from service.client import Refused
from service.testing import Server
from tests.hostile import containers, images, texts
from tests.hostile.corpus import CORPUS
from tests.hostile.good import GOOD, Good

FAMILIES: Final = (images, containers, texts)  # importing them fills the corpus
MEMORY: Final = 512 * 2**20
SETTINGS: Final[dict[str, Any]] = {
    "slots": 2, "poll": "200ms", "attempt_memory": MEMORY, "deadline": "20s", "max_attempts": 1, "crash_attempts": 1,
    "max_upload": "1GiB", "log_format": "json", "min_free": 0,
}  # fmt: skip
ENDS: Final = ("succeeded", "failed", "canceled")


@dataclass
class Result:
    """What came of a run. Times are seconds from upload to end."""

    outcomes: Counter[str] = field(default_factory=Counter)
    hostile: dict[str, float] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)  #: most memory of a hostile file's attempts, bytes
    baseline: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  #: good files that were not as they must be
    broken: list[str] = field(default_factory=list)  #: promises that a hostile file broke


def corpus(count: int, seed: int, *, heavy: bool) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes: every file of the corpus, then mutations of good and hostile ones up to ``count``."""
    chance = Random(seed)
    chosen = [one for one in CORPUS.values() if heavy or not one.heavy]
    for one in chosen[:count]:
        yield one.name, one.make(chance)
    small = [(one.name, one.data) for one in GOOD if one.data]
    for number in range(count - len(chosen)):
        name, data = chance.choice(small)
        yield f"mutation-{number}-{name}", mutated(data, chance)


def mutated(data: bytes, chance: Random) -> bytes:
    """Flip, cut, repeat or insert at a few places."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + 4] = chance.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"]
                )
            case 2:
                del changed[at : at + chance.randint(1, 40)]
            case 3:
                changed[at:at] = changed[at : at + 200] * chance.randint(1, 5)
            case _:
                changed[at:at] = chance.randbytes(chance.randint(1, 20))
    return bytes(changed)


class Lane:
    """Sends one file after the other, each when the one before has ended."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = server.client()

    def run(self, name: str, data: bytes, timeout: float = 60) -> tuple[dict[str, Any], float]:
        """Send a file, wait for its end, and return its record and how long that took."""
        started = time.monotonic()
        job = self._client.submit(data, name=name)
        while (record := self._server.record(job.id))["status"] not in ENDS:
            if time.monotonic() - started > timeout:
                return record, time.monotonic() - started
            time.sleep(0.005)
        return record, time.monotonic() - started

    def close(self) -> None:
        self._client.close()


def run(
    folder: Path,
    files: Sequence[tuple[str, bytes]] | Iterator[tuple[str, bytes]],
    *,
    baseline: int,
    say: Callable[[str], None],
) -> Result:
    """Run the files beside good ones and return what came of it."""
    result = Result()
    with Server(folder, **SETTINGS) as server:
        good, bad = Lane(server), Lane(server)
        for one in GOOD:  # everything has been loaded and cached before anything is measured
            _good(good, one, result)
        _beside(
            good, result, result.baseline, lambda: [_good(bad, GOOD[n % len(GOOD)], result) for n in range(baseline)]
        )
        supervisor = _supervisors(server)
        say(f"baseline: {len(result.baseline)} good files beside {baseline} good ones")
        _beside(good, result, result.beside, lambda: [_hostile(bad, name, data, result, say) for name, data in files])
        good.close()
        bad.close()
        if _supervisors(server) != supervisor:
            result.broken.append("the supervisor was started anew")
        _promises_of_the_log(server, result)
    return result


def _good(lane: Lane, one: Good, result: Result) -> float:
    record, took = lane.run(one.name, one.data)
    if wrong := one.wrong(record):
        result.wrong.append(f"{one.name}: {wrong}")
    return took


def _hostile(lane: Lane, name: str, data: bytes, result: Result, say: Callable[[str], None]) -> None:
    try:
        record, took = lane.run(name, data)
    except Refused as refused:  # at the door, such as an empty file
        result.outcomes[str(refused.code)] += 1
        result.hostile[name], result.largest[name] = 0.0, 0
        return
    code = (record["error"] or {}).get("code", record["status"])
    rss = max((attempt["max_rss"] or 0 for attempt in record["attempts"]), default=0)
    result.outcomes[code] += 1
    result.hostile[name], result.largest[name] = took, rss
    if record["status"] not in ENDS or took > 30:
        result.broken.append(f"{name} has not ended within 30 s")
    if rss > MEMORY:
        result.broken.append(f"{name} took {rss} bytes")
    if took > 3:
        say(f"  {name}: {code} after {took:.1f} s, {rss // 2**20} MiB")


def _beside(lane: Lane, result: Result, times: list[float], work: Callable[[], object]) -> None:
    """Send good files from another thread for as long as ``work`` takes."""
    done = threading.Event()

    def send() -> None:
        number = 0
        while not done.is_set():
            times.append(_good(lane, GOOD[number % len(GOOD)], result))
            number += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()


def _supervisors(server: Server) -> list[int]:
    return [pid for pid in server.pids() if b"execution.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _promises_of_the_log(server: Server, result: Result) -> None:
    log = (server.folder / "server.log").read_bytes()
    if b"Traceback" in log:
        result.broken.append("a traceback in the log")
    if set(log) & (set(range(32)) - {10}):
        result.broken.append("a raw control byte in the log")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def percentile(times: Sequence[float], share: float) -> float:
    return statistics.quantiles(times, n=100)[round(share * 100) - 1]


def main() -> int:
    """Run as ``make hostile``; exit status 1 when a promise is broken."""
    count, seed = int(os.environ.get("COUNT", "300")), int(os.environ.get("SEED", "1"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="intake-hostile-") as folder:
        result = run(Path(folder), corpus(count, seed, heavy=True), baseline=count // 2, say=_say)
    before, after = percentile(result.baseline, 0.95), percentile(result.beside, 0.95)
    if after > 2 * before:
        result.broken.append("good files were more than twice as slow")
    took, rss = result.hostile, result.largest
    slowest, largest = max(took, key=took.__getitem__), max(rss, key=rss.__getitem__)
    seconds = time.monotonic() - started
    _say(f"{len(took)} hostile files (seed {seed}) beside {len(result.beside)} good ones, {seconds:.0f} s")
    _say("ends: " + ", ".join(f"{code} {number}" for code, number in result.outcomes.most_common()))
    _say(f"slowest: {slowest}, {took[slowest]:.1f} s; largest: {largest}, {rss[largest] / 2**20:.0f} MiB")
    speed = f"p95 {before * 1000:.0f} ms alone, {after * 1000:.0f} ms beside hostile ones ({after / before:.2f} times)"
    _say(f"good files: {len(result.wrong)} wrong; {speed}")
    for line in (*result.wrong[:20], *result.broken):
        _say(f"BROKEN: {line}")
    return 1 if result.broken or result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
