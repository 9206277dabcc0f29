"""A part of ``make hostile``: the files that are quickly made and processed, beside good ones of every kind."""

from __future__ import annotations

from pathlib import Path


def test_hostile_files_end_within_their_limits_and_good_ones_beside_them_succeed(tmp_path: Path) -> None:
    from tests.hostile.run import corpus, run

    files = [one for number, one in enumerate(corpus(240, 7, heavy=False)) if number % 16 == 0]
    result = run(tmp_path, files, baseline=1, say=lambda _: None)

    assert result.wrong == []
    assert result.broken == []
    assert len(result.hostile) == len(files) > 12
    assert len(result.beside) > 3
    assert len(result.outcomes) > 3, "the files are of many kinds"
