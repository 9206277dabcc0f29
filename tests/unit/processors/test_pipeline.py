"""Pipelines, checked whole."""

import json

import pytest

from processors.pipeline import Pipeline, PipelineError, Step, load_pipelines, make_step
from processors.registry import load_registry

REGISTRY = load_registry(entry_points=False)


def load(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return load_pipelines(REGISTRY, file)


def test_the_packaged_pipelines_are_always_there():
    pipelines = load_pipelines(REGISTRY)
    assert set(pipelines) == {"default", "identify", "checksum"}
    assert [step.name for step in pipelines["identify"].steps] == ["checksum", "media_type"]
    assert {step.processor for step in pipelines["default"].steps} == set(REGISTRY) - {"malware"}


def test_a_pipeline_is_a_list_of_checked_steps(tmp_path):
    mine = load(
        tmp_path,
        """
        [pipelines.photos]
        description = "Small."
        [[pipelines.photos.steps]]
        processor = "image.previews"
        name = "thumbs"
        options = { sizes = [128] }
        [[pipelines.photos.steps]]
        processor = "checksum"
        input = "thumbs/preview-128.webp"
        """,
    )["photos"]
    thumbs, checksum = mine.steps
    assert isinstance(mine, Pipeline)
    assert thumbs.options == {"sizes": [128], "format": "webp", "quality": 80, "background": None}
    assert checksum == Step("checksum", "checksum", checksum.options, "thumbs/preview-128.webp")
    assert json.loads(json.dumps(mine.document())) == {
        "name": "photos",
        "description": "Small.",
        "steps": [
            {"name": "thumbs", "processor": "image.previews", "input": "source", "options": thumbs.options},
            {"name": "checksum", "processor": "checksum", "input": checksum.input, "options": checksum.options},
        ],
    }


def test_validated_options_can_be_validated_again():
    for step in load_pipelines(REGISTRY)["default"].steps:
        again = REGISTRY[step.processor].options.model_validate(json.loads(json.dumps(step.options)))
        assert again.model_dump(mode="json") == step.options


def test_a_later_file_replaces_a_pipeline(tmp_path):
    mine = load(tmp_path, '[[pipelines.default.steps]]\nprocessor = "checksum"\n')
    assert len(mine["default"].steps) == 1
    assert mine["default"].description == ""
    assert len(mine["identify"].steps) == 2


STEP = "[[pipelines.p.steps]]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "is not TOML"),
        ("pipeline = 1", "unknown key 'pipeline'; did you mean 'pipelines'"),
        ("pipelines = 1", "'pipelines' is a table"),
        ("[pipelines]\np = 1", 'pipeline "p": is a table'),
        ("[pipelines.P]\nsteps = []", "a pipeline's name is"),
        ("[pipelines.p]\ndescription = 'x'", "has no steps"),
        ("[pipelines.p]\nsteps = 1", "'steps' is a list of tables"),
        ("[pipelines.p]\nsteps = [1]", "'steps' is a list of tables"),
        ("[pipelines.p]\ndescription = 1\nsteps = []", "'description' is text, not 1"),
        ("[pipelines.p]\nstep = []", "unknown key 'step'; did you mean 'steps'"),
        ("[pipelines.p]\nzzz = []", "unknown key 'zzz'; known are description, steps"),
        (STEP + "name = 'a'", 'step "a": names no processor'),
        (STEP + "options = {}", "step 1: names no processor"),
        (STEP + "processor = 3", "step 1: 'processor' is text"),
        (STEP + "processor = 'checksun'", "no processor 'checksun'; did you mean 'checksum'"),
        (STEP + "processor = 'zzz'", "There is no processor 'zzz'."),
        (STEP + "processor = 'checksum'\nname = 'A b'", "A step's name is"),
        (STEP + "processor = 'checksum'\nname = 'a.partial'", "does not end in '.partial'"),
        (STEP + "processor = 'checksum'\noptions = 1", "'options' is a table"),
        (STEP + "processor = 'checksum'\nopts = {}", "unknown key 'opts'; did you mean 'options'"),
        (STEP + "processor = 'checksum'\ninput = '../x'", "The input is 'source' or"),
        (STEP + "processor = 'checksum'\ninput = 'later/x'", "not from an earlier step. Earlier steps: none"),
        ((STEP + "processor = 'checksum'\n") * 2, "the name is used by an earlier step"),
        (STEP + "processor = 'image.previews'\noptions = { size = 3 }", "unknown option 'size'; did you mean 'sizes'"),
        (STEP + "processor = 'media_type'\noptions = { zzz = 3 }", "unknown option 'zzz'; known are: it takes none"),
        (STEP + "processor = 'image.previews'\noptions = { sizes = [3] }", "option 'sizes.0': Input should be greater"),
        (
            STEP + "processor = 'image.previews'\noptions = { sizes = [64, 64] }",
            "option 'sizes': Value error, each size",
        ),
    ],
)
def test_what_cannot_work_is_said_with_its_place(tmp_path, text, message):
    with pytest.raises(PipelineError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"none\.toml: cannot be read: No such file"):
        load_pipelines(REGISTRY, tmp_path / "none.toml")


def test_a_file_that_is_not_utf8_is_not_toml(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PipelineError, match="is not TOML"):
        load_pipelines(REGISTRY, tmp_path / "x.toml")


def test_a_step_can_be_made_by_hand():
    assert make_step(REGISTRY, "checksum", options={"algorithms": ["md5"]}) == Step(
        "checksum", "checksum", {"algorithms": ["md5"]}
    )
