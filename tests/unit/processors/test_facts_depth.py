"""How deep facts may be nested."""

from pathlib import Path

import pytest

from processors import Facts, StepContext, processor
from processors.failure import StepError
from processors.publish import MAX_FACTS_DEPTH, checked_facts


@processor("test.deep", accepts=("*/*",))
def deep(ctx: StepContext) -> Facts:
    """Never called."""
    raise AssertionError(ctx)


def nested(depth: int) -> dict[str, object]:
    value: object = "core"
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_facts_at_the_limit_are_kept(tmp_path: Path) -> None:
    assert checked_facts(deep, nested(MAX_FACTS_DEPTH)) == nested(MAX_FACTS_DEPTH)


def test_deeper_facts_fail_the_step_instead_of_spoiling_the_record() -> None:
    with pytest.raises(StepError, match="nested more than 64 deep"):
        checked_facts(deep, nested(MAX_FACTS_DEPTH + 1))
