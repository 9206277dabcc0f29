"""The helper for authors."""

import gc

import pytest

from processors import Limits, Reject, processor, testing
from processors.failure import StepError


@processor("shout", accepts=("text/*",))
def shout(ctx):
    """Shout."""
    ctx.log.warning("loud %s", "noise")
    ctx.progress(1)
    ctx.output("a.txt", media_type="text/plain").write_text(ctx.input.read_text().upper())
    return {"type": ctx.media_type, "earlier": dict(ctx.facts_of("x")), "declared": ctx.declared_type}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("words and words")
    return path


def test_it_gives_facts_artifacts_progress_and_log(file, tmp_path):
    result = testing.run(shout, file, facts={"x": {"y": 1}}, tmp_path=tmp_path)
    assert result.facts == {"type": "text/plain", "earlier": {"y": 1}, "declared": None}
    assert result.artifacts["a.txt"].read_text() == "WORDS AND WORDS"
    assert result.artifacts["a.txt"].is_relative_to(tmp_path)
    assert result.progress == [(1, None, None)]
    assert result.log == ["loud noise"]


def test_without_a_folder_artifacts_last_as_long_as_the_result(file):
    result = testing.run(shout, file, facts={"x": {}}, media_type="text/csv")
    path = result.artifacts["a.txt"]
    assert path.exists()
    assert result.facts["declared"] == "text/csv"
    del result
    gc.collect()
    assert not path.exists()


def test_it_raises_what_the_processor_raises(file, tmp_path):
    @processor("no")
    def no(ctx):
        """Refuse."""
        raise Reject("no", "No.")

    with pytest.raises(Reject, match=r"No\."):
        testing.run(no, file, tmp_path=tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_it_refuses_a_type_the_step_would_be_skipped_for(file):
    with pytest.raises(ValueError, match=r"shout accepts text/\*, not image/png\. Pass media_type="):
        testing.run(shout, file, media_type="image/png")


def test_it_keeps_the_runners_rules(file, tmp_path):
    with pytest.raises(StepError, match="more than 3 bytes"):
        testing.run(shout, file, facts={"x": {}}, limits=Limits(max_output=3), tmp_path=tmp_path)


def test_an_unknown_name_is_a_key_error(file):
    with pytest.raises(KeyError):
        testing.run("nobody", file)
