"""The benchmarks' arithmetic: medians, spreads, and ratios held against their targets."""

from __future__ import annotations

import json

import pytest

from bench.__main__ import SUBJECTS
from bench.measure import Samples, payload, quantile
from bench.report import Result, save


def test_a_figure_is_the_median_of_its_rounds_with_its_spread():
    samples = Samples()
    for value in (4.0, 2.0, 3.0):
        samples.add(value)
    assert samples.median == 3.0
    assert samples.spread == pytest.approx(2 / 3)


@pytest.mark.parametrize(("share", "value"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 99)])
def test_a_quantile_is_a_value_that_was_measured(share, value):
    assert quantile(list(reversed(range(100))), share) == value


def test_a_ratio_is_held_against_its_target(tmp_path):
    result = Result("Title")
    for ours, theirs in ((1.0, 4.0), (2.0, 4.0), (3.0, 4.0)):
        result.add("cpu s", "ours", ours)
        result.add("cpu s", "theirs", theirs)

    for target in (("<=", 0.5), ("<=", 0.4), (">=", 0.5), (">=", 0.6)):
        result.ratio("cpu", result.of("cpu s", "ours"), result.of("cpu s", "theirs"), target=target)

    assert [each["met"] for each in result.ratios] == [True, False, True, False]
    assert result.table().count("NOT MET") == 2
    document = json.loads(save(tmp_path, "cpu", result).read_text())
    assert document["figures"]["cpu s"]["ours"] == {"median": 2.0, "spread": 1.0, "values": [1.0, 2.0, 3.0]}
    assert document["machine"]["cores"] >= 1


def test_a_payload_has_its_size_and_is_the_same_each_time(tmp_path):
    size = 3 * 2**20 + 5
    contents = {payload(tmp_path / name, size).read_bytes() for name in ("a", "b")}
    assert [len(content) for content in contents] == [size]


def test_every_subject_has_a_line_in_the_page(request):
    page = (request.config.rootpath / "docs/explanation/performance.md").read_text()
    assert [name for name in SUBJECTS if f"| `{name}` |" not in page] == []
