"""The decorator, the context, the refusals."""

import logging
from functools import partial

import pytest

import processors
from processors import Facts, Options, Reject, RetryLater, StepContext, processor


class CountOptions(Options):
    blank: bool = True


@processor("text.count", accepts=("text/*", "application/json"))
def count(ctx: StepContext, options: CountOptions) -> Facts:
    """Count lines of a text.

    And more.
    """
    return {"blank": options.blank}


@processor("plain")
def plain(ctx: StepContext) -> Facts:
    return {"type": ctx.media_type}


@pytest.fixture
def ctx(tmp_path):
    return StepContext(input=tmp_path / "source", folder=tmp_path / "out", facts={"earlier": {"a": 1}})


def test_the_package_exports_what_an_author_imports():
    assert set(processors.__all__) == {
        *("Facts", "Limits", "Options", "Processor", "Reject", "RetryLater", "StepContext", "processor", "warm")
    }
    assert all(hasattr(processors, name) for name in processors.__all__)


def test_a_processor_knows_itself():
    assert (count.name, count.accepts, count.identifies) == ("text.count", ("text/*", "application/json"), False)
    assert count.options is CountOptions
    assert count.description == "Count lines of a text."
    assert count.schema()["properties"]["blank"]["default"] is True


def test_a_processor_is_still_a_function(ctx):
    assert count(ctx) == {"blank": True}
    assert count(ctx, CountOptions(blank=False)) == {"blank": False}
    assert plain(ctx, Options()) == {"type": "application/octet-stream"}


def test_a_function_without_options_or_docstring_gets_empty_ones():
    assert plain.options is Options
    assert plain.description == ""
    assert plain.accepts == ("*/*",)


@pytest.mark.parametrize("media_type", ["text/plain", "TEXT/CSV; charset=utf-8", "application/json"])
def test_it_accepts_types_within_its_ranges(media_type):
    assert count.accepts_type(media_type)


@pytest.mark.parametrize("media_type", ["image/png", "application/jsonx", "textual/plain", ""])
def test_it_accepts_no_other_types(media_type):
    assert not count.accepts_type(media_type)


def test_options_refuse_unknown_names_and_changes():
    with pytest.raises(ValueError, match="Extra inputs"):
        CountOptions(blanks=1)
    with pytest.raises(ValueError, match="frozen"):
        CountOptions().blank = False


@pytest.mark.parametrize("name", ["Text", "text..x", "text.", "1x", "text-x", ""])
def test_a_bad_name_says_what_a_name_is(name):
    with pytest.raises(TypeError, match="joined by dots"):
        processor(name)


@pytest.mark.parametrize("accepts", ["image/*", (), ["image/*"]])
def test_accepts_is_a_tuple(accepts):
    with pytest.raises(TypeError, match="tuple of media types"):
        processor("x", accepts=accepts)


@pytest.mark.parametrize("pattern", ["image", "*", "*/png", "Image/PNG", "text/plain; charset=utf-8", 3])
def test_accepts_holds_types_and_ranges(pattern):
    with pytest.raises(TypeError, match=r"'text/plain', 'image/\*' or '\*/\*'"):
        processor("x", accepts=(pattern,))


async def waits(ctx):
    pass


def yields(ctx):
    yield


async def yields_and_waits(ctx):
    yield


@pytest.mark.parametrize("function", [waits, yields, yields_and_waits])
def test_it_is_neither_async_nor_a_generator(function):
    with pytest.raises(TypeError, match="neither async nor a generator"):
        processor("x")(function)


@pytest.mark.parametrize("function", [object(), partial(waits), StepContext])
def test_it_is_a_function(function):
    with pytest.raises(TypeError, match="goes on a function"):
        processor("x")(function)


def none():
    pass


def three(ctx, options: CountOptions, more):
    pass


def by_name(ctx, *, options: CountOptions):
    pass


def star(*args):
    pass


@pytest.mark.parametrize("function", [none, three, by_name, star])
def test_it_takes_the_context_and_options(function):
    with pytest.raises(TypeError, match="the context and at most its options"):
        processor("x")(function)


def bare(ctx, options):
    pass


def wrong(ctx, options: dict[str, int]):
    pass


def wrong_class(ctx, options: "int"):
    pass


@pytest.mark.parametrize("function", [bare, wrong, wrong_class])
def test_options_are_annotated_with_a_model(function):
    with pytest.raises(TypeError, match=r"subclass of processors\.Options"):
        processor("x")(function)


def unknown(ctx, options: "Nowhere"):  # noqa: F821
    pass


def test_an_unresolvable_annotation_says_so():
    with pytest.raises(TypeError, match="top of the module"):
        processor("x")(unknown)


def test_a_reject_carries_code_message_and_hint():
    reject = Reject("too-odd", "It is odd.", "Make it even.")
    assert (reject.code, reject.message, reject.hint, str(reject)) == (
        "too-odd",
        "It is odd.",
        "Make it even.",
        "It is odd.",
    )


@pytest.mark.parametrize("code", ["Too Odd", "", "a--b", "a_b"])
def test_the_code_of_a_reject_is_stable_words(code):
    with pytest.raises(ValueError, match="joined by hyphens"):
        Reject(code, "x")


def test_retry_later_has_a_sentence_of_its_own():
    assert RetryLater(90).message == "Not ready yet; try again in 90 seconds."
    assert RetryLater(1, "The scanner starts.").message == "The scanner starts."


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_retry_later_takes_seconds(seconds):
    with pytest.raises(ValueError, match="number of seconds"):
        RetryLater(seconds)


def test_an_output_is_a_path_in_the_steps_own_folder(ctx, tmp_path):
    assert not (tmp_path / "out").exists()
    path = ctx.output("a-1.webp", media_type="image/webp")
    assert path == tmp_path / "out" / "a-1.webp"
    assert path.parent.is_dir()
    assert ctx.output("a-1.webp", media_type="image/webp") == path
    assert list(ctx.outputs) == ["a-1.webp"]


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a\\b", "a b", "ä", "a\0", "a" * 129, "a\n"])
def test_an_output_has_a_plain_name(ctx, name):
    with pytest.raises(ValueError, match="artifact's name"):
        ctx.output(name, media_type="image/webp")


@pytest.mark.parametrize("media_type", ["", "image", "image/*", "*/*", "a\r\nb/c"])
def test_an_output_has_a_media_type(ctx, media_type):
    with pytest.raises(ValueError, match="media type"):
        ctx.output("a", media_type=media_type)


def test_the_context_gives_the_facts_of_earlier_steps(ctx):
    assert ctx.facts_of("earlier") == {"a": 1}
    with pytest.raises(KeyError, match=r"has not run or was skipped. Steps with facts: earlier"):
        ctx.facts_of("later")


def test_progress_goes_nowhere_without_a_listener(ctx):
    ctx.progress(1, 2, "bytes")
    assert isinstance(ctx.log, logging.Logger)


# opaque processors


def test_the_input_is_opened_from_its_start_each_time(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"content")
    with path.open("rb") as handed:
        for ctx in (
            StepContext(input=path, folder=tmp_path),
            StepContext(input=tmp_path / "nowhere", folder=None, descriptor=handed.fileno()),
        ):
            for _ in range(2):
                with ctx.open() as file:
                    assert file.read() == b"content"
        assert not handed.closed
        assert handed.fileno() >= 0


def test_an_opaque_processor_makes_no_artifacts(tmp_path):
    ctx = StepContext(input=tmp_path / "source", folder=None)

    with pytest.raises(ValueError, match="opaque makes no artifacts"):
        ctx.output("copy.bin", media_type="application/octet-stream")


def test_a_processor_is_not_opaque_unless_it_says_so():
    assert not plain.opaque
    assert processor("look", opaque=True)(plain.function).opaque
