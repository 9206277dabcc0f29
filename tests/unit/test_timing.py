"""R17: how long a judgement takes tells nothing of a secret: neither of a token's, nor of a signature's."""

from __future__ import annotations

import hmac
import random
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from service.access.file_store import FileTokenStore
from service.access.links import Link, signed, verify
from service.access.model import Scope, new_token, rotated
from service.access.store import judge
from service.durable import Disk
from service.errors import Forbidden
from tests.jobs import NOON

KEY = b"k" * 32
ROUNDS = 5000
EXP = int((NOON + timedelta(hours=1)).timestamp())


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object]]:
    """Return what is compared in constant time, as it happens."""
    pairs: list[tuple[object, object]] = []
    real = hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        pairs.append((a, b))
        return real(a, b)

    monkeypatch.setattr("hmac.compare_digest", compare)
    return pairs


def _tokens(folder: Path) -> tuple[FileTokenStore, str, str, str]:
    """Return a store, its token, another text with the same id, and a well-formed token with an id that is not there."""
    store = FileTokenStore(folder, disk=Disk(sync=False))
    text, kept = new_token("one", frozenset({Scope.READ}), NOON)
    store.add(kept)
    return store, text, rotated(kept)[0], new_token("none", frozenset(), NOON)[0]


def _wrong(text: str, at: int) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def test_every_token_is_compared_once_and_in_constant_time(tmp_path: Path, compared: list[tuple[str, str]]) -> None:
    store, right, wrong, unknown = _tokens(tmp_path)
    for text, good in ((right, True), (wrong, False), (unknown, False), ("fik_x", False)):
        compared.clear()
        assert (judge(store, text, NOON) is not None) == good
        assert len(compared) == 1 or not text.startswith("fik_x")
        assert {len(side) for pair in compared for side in pair} <= {64}, "digests, never the texts"


def test_a_signature_is_compared_in_constant_time_before_anything_of_the_link_is_believed(
    compared: list[tuple[bytes, bytes]],
) -> None:
    query = signed(KEY, "GET", "/a", {}, Link(sub=None, exp=EXP))
    verify(KEY, "GET", "/a", parse_qsl(query), NOON)
    assert [len(side) for pair in compared for side in pair] == [43, 43]
    compared.clear()
    wrong = [(name, _wrong(value, 5) if name == "sig" else value) for name, value in parse_qsl(query)]
    with pytest.raises(Forbidden):
        verify(KEY, "GET", "/a", [("exp", "no number"), *wrong], NOON)
    assert len(compared) == 1


def welch(one: list[int], other: list[int]) -> float:
    """Return Welch's t of two samples without their slowest tenth, which is the machine's."""
    a, b = (sorted(sample)[: len(sample) * 9 // 10] for sample in (one, other))
    spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (statistics.fmean(a) - statistics.fmean(b)) / spread**0.5


def timed(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Return Welch's t of both, called in random order, and the ratio of their medians."""
    samples: tuple[list[int], list[int]] = ([], [])
    chance = random.Random(17)
    for _ in range(200):
        one(), other()
    while min(map(len, samples)) < ROUNDS:
        which = chance.randrange(2)
        began = time.perf_counter_ns()
        (one, other)[which]()
        samples[which].append(time.perf_counter_ns() - began)
    return welch(*samples), statistics.median(samples[0]) / statistics.median(samples[1])


@pytest.mark.soak
def test_r17_no_timing_tells_of_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, right, _, _ = _tokens(tmp_path)
    kept = store.all()[0]
    digest = kept.sha256
    near, far = digest[:-1] + ("0" if digest[-1] != "0" else "1"), ("0" if digest[0] != "0" else "1") + digest[1:]
    stores = []
    for number, sha256 in enumerate((near, far)):  # the record's digest differs at its end, or at its begin
        other = FileTokenStore(tmp_path / str(number), disk=Disk(sync=False))
        other.add(kept.model_copy(update={"sha256": sha256}))
        stores.append(other)
    query = parse_qsl(signed(KEY, "GET", "/a", {}, Link(sub=None, exp=EXP)))
    links = [[(n, _wrong(v, at) if n == "sig" else v) for n, v in query] for at in (0, 42)]

    def refused(link: list[tuple[str, str]]) -> None:
        with pytest.raises(Forbidden):
            verify(KEY, "GET", "/a", link, NOON)

    tokens = timed(lambda: judge(stores[0], right, NOON), lambda: judge(stores[1], right, NOON))
    signatures = timed(lambda: refused(links[0]), lambda: refused(links[1]))
    # the rig's own eyes: a comparison that ends at the first difference, of texts long enough for that to be seen
    long = "x" * 20_000
    control = timed(lambda: long == long[:-1] + "y", lambda: long == "y" + long[1:])
    with capsys.disabled():
        for name, (t, ratio) in {"tokens": tokens, "signatures": signatures, "control": control}.items():
            print(f"\ntiming of {name}: t {t:+.1f}, medians {ratio:.3f}", end="")  # noqa: T201 - for who runs it
    assert abs(tokens[0]) < 4.5 or abs(tokens[1] - 1) < 0.02
    assert abs(signatures[0]) < 4.5 or abs(signatures[1] - 1) < 0.02
    assert abs(control[0]) > 4.5, "a rig that sees nothing proves nothing"
