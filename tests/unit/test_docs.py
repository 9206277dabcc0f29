"""The documents keep up with the program: what it has stands in them, and what stands in them is there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from packaging.requirements import Requirement
from PIL import Image
from pydantic import BaseModel

import processors
from processors.pipeline import load_pipelines
from processors.registry import load_registry
from processors.testing import run
from service import errors
from service.api.problems import FRAMEWORK, status_of
from service.api.schemas import ArtifactDocument, JobView, Limits, Links, StepDocument
from service.app import create_app
from service.cli.app import app as command_line
from service.cli.exits import Code
from service.cli.filters import OPTIONS as FILTERS
from service.figures import METRICS
from service.jobs.model import TRANSITIONS, FileInfo, JobStatus, Problem, Reason, StepStatus
from service.jobs.problem import JOB_PROBLEMS
from service.settings import PREFIX, Settings

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_GLOBAL: Final = {"--server", "--output", "--quiet", "--verbose", "--no-color"}


@cache
def _text(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def _sections(name: str) -> dict[str, str]:
    """Return the text below each heading of a document, up to the next heading of any level."""
    parts = re.split(r"(?m)^#{1,6} (.*)$", re.sub(r"(?ms)^```.*?^```$", "", _text(name)))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of all table rows, without heads and rulers."""
    for table in re.findall(r"(?m)(?:^\|.*\|\n)+", text):
        for row in table.splitlines()[2:]:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _quoted(text: str) -> set[str]:
    """Return what stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _names(*documents: Path) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in documents]


# links


@pytest.mark.parametrize("name", _names(*DOCUMENTS))
def test_links_lead_somewhere(name: str) -> None:
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", _text(name))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor:
            slugs = {_slug(heading) for heading in re.findall(r"(?m)^#+ (.*)$", path.read_text())}
            assert anchor in slugs, f"{name}: {target}"


def test_every_page_is_in_the_index() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} <= set(re.findall(r"\]\(([^)]+)\)", _text("docs/index.md")))


@pytest.mark.parametrize("name", _names(*DOCUMENTS))
def test_every_variable_that_is_named_exists(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields} | {
        f"{PREFIX}CONFIG",
        f"{PREFIX}TEST_REQUIRE",
    }
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", _text(name))) <= known


def test_every_module_the_architecture_names_exists() -> None:
    for path in re.findall(r"`([\w/]+/\w+\.py|[\w/]+/)`", _text("ARCHITECTURE.md")):
        assert (ROOT / path).exists() or (ROOT / "service" / path).exists() or path in _on_disk(), path


@pytest.mark.parametrize("name", _names(*DOCUMENTS))
def test_every_test_that_is_named_exists(name: str) -> None:
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/]+\.py)`", _text(name)))


def _on_disk() -> set[str]:
    """Return the folders of a data directory, and of a step, as the architecture writes them."""
    return set(re.findall(r"(\w+/)", _sections_with_code("ARCHITECTURE.md")["Data on disk"])) | {"1/"}


def _sections_with_code(name: str) -> dict[str, str]:
    parts = re.split(r"(?m)^## (.*)$", _text(name))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_architecture_gives_a_reason_for_every_library() -> None:
    declared = tomllib.loads(_text("pyproject.toml"))["project"]["dependencies"]
    listed = {name for cells in _rows(_sections("ARCHITECTURE.md")["Libraries"]) for name in _quoted(cells[0])}
    assert listed == {Requirement(line).name for line in declared}


# settings


def test_the_reference_of_settings_is_the_generated_one() -> None:
    command = [sys.executable, "-m", "service.cli", "config", "docs"]
    generated = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert generated == _text("docs/reference/settings.md"), "run `make docs`"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_in_its_reference(field: str) -> None:
    assert f"`{PREFIX}{field.upper()}`" in _text("docs/reference/settings.md")


def test_the_readme_tells_the_defaults_as_they_are() -> None:
    defaults = {cells[0]: cells[2] for cells in _rows(_text("docs/reference/settings.md"))}
    for cells in _rows(_sections("README.md")["Settings most used"]):
        for variable, default in zip(cells[0].split(", "), cells[1].split(", "), strict=False):
            if default.startswith("`"):
                assert defaults[variable] == default


# errors


def _classes() -> Iterator[type[errors.IntakeError]]:
    pending = [errors.IntakeError]
    while pending:
        kind = pending.pop()
        yield kind
        pending.extend(kind.__subclasses__())


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the source, with the name of what is called."""
    for package in ("service", "processors"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Call):
                    yield getattr(node.func, "id", getattr(node.func, "attr", "")), node


@cache
def _codes() -> dict[str, int | None]:
    """Return every code of an error in the source, and its status where the source tells."""
    found: dict[str, int | None] = {kind.code: status_of(kind()) for kind in _classes()}
    found |= {code: status for status, code in FRAMEWORK.items()}
    found |= dict.fromkeys([code for code, *_ in JOB_PROBLEMS.values()])
    statuses = {kind.__name__: status_of(kind()) for kind in _classes()}
    for name, call in _calls():
        values = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        positional = {"Reject": 0, "StepError": 0, "_end": 1}.get(name)
        if positional is not None and len(call.args) > positional and isinstance(call.args[positional], ast.Constant):
            found.setdefault(str(ast.literal_eval(call.args[positional])), None)
        if isinstance(code := values.get("code"), str):
            found.setdefault(code, statuses.get(name, values.get("status")))
    return found


@pytest.mark.parametrize("code", sorted(_codes()))
def test_every_code_is_in_the_reference_of_errors(code: str) -> None:
    assert code in {
        quoted for cells in _rows(_text("docs/reference/errors.md")) for quoted in _quoted(cells[0] + cells[1])
    }


def test_the_reference_of_errors_has_no_code_that_nothing_raises() -> None:
    sections = _sections("docs/reference/errors.md")
    listed = {
        code
        for name in sections
        for cells in _rows(sections[name])
        if name != "Jobs that failed"
        for code in _quoted(cells[0])
    }
    listed |= {
        code
        for cells in _rows(sections["Jobs that failed"])
        for code in _quoted(cells[1])
        if not code.startswith(PREFIX)
    }
    assert listed - set(_codes()) == {"request-refused"}  # named where the framework's other statuses are told


def test_the_reference_of_errors_has_the_right_statuses() -> None:
    for cells in _rows(_sections("docs/reference/errors.md")["Requests that were refused"]):
        (code,) = _quoted(cells[0])
        if _codes().get(code) is not None:
            assert str(_codes()[code]) == cells[1], code


def test_every_reason_has_its_row() -> None:
    ends = {Reason.SUCCEEDED, Reason.INTERRUPTED, Reason.CANCELED}  # of attempts, never of a problem
    rows = list(_rows(_sections("docs/reference/errors.md")["Jobs that failed"]))
    assert {reason for cells in rows for reason in _quoted(cells[0])} == set(Reason) - ends
    for reason, (code, *_) in JOB_PROBLEMS.items():
        assert any(f"`{reason}`" == cells[0] and code in _quoted(cells[1]) for cells in rows), reason


def test_a_page_names_the_codes_with_which_each_processor_rejects() -> None:
    sections = _sections("docs/reference/errors.md")
    for cells in _rows(sections["Files that were rejected"]):
        (code,) = _quoted(cells[0])
        for processor in _quoted(cells[1]):
            assert (
                code in _quoted(_sections("docs/reference/processors.md")[f"`{processor}`"])
                or processor == "image.previews"
            )


# the API


@cache
def _openapi(folder: Path) -> dict[str, Any]:
    return create_app(Settings.load(data_dir=folder)).openapi()


@pytest.fixture
def operations(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Give the operations of the OpenAPI document by what a heading of the reference calls them."""
    paths = _openapi(tmp_path)["paths"]
    return {f"{method.upper()} {path}": operation for path, item in paths.items() for method, operation in item.items()}


def test_every_operation_has_a_section_and_every_section_an_operation(operations: dict[str, dict[str, Any]]) -> None:
    headings = {quoted for heading in _sections("docs/reference/api.md") for quoted in _quoted(heading)}
    assert headings == {*operations, "GET /openapi.json", "GET /docs"}


def test_every_path_is_in_the_readme(operations: dict[str, dict[str, Any]]) -> None:
    table = _sections("README.md")["Endpoints"]
    for operation in operations:
        assert operation.partition(" ")[2] in table


def test_every_parameter_and_header_is_in_the_reference(operations: dict[str, dict[str, Any]]) -> None:
    page, sections = _text("docs/reference/api.md"), _sections("docs/reference/api.md")
    for name, operation in operations.items():
        section = sections["`POST /v1/jobs`" if name.startswith("PUT") else f"`{name}`"]
        for parameter in operation.get("parameters", []):
            place = {"path": name, "header": page, "query": section}[parameter["in"]]
            assert re.search(rf"[`?{{]{re.escape(parameter['name'])}[`.=}}]", place), f"{name}: {parameter['name']}"
        for response in operation["responses"].values():
            for header in response.get("headers", {}):
                assert header in page or header == "Accept-Ranges", f"{name}: {header}"


def test_every_status_is_in_the_reference(operations: dict[str, dict[str, Any]]) -> None:
    page = _text("docs/reference/api.md")
    statuses = {status for operation in operations.values() for status in operation["responses"]}
    assert all(re.search(rf"\b{status}\b", page) for status in statuses - {"default"})


def test_every_code_with_a_status_is_in_the_reference_of_the_api() -> None:
    never = {
        "client-closed-request",
        "stale-attempt",
        "configuration-error",
        "internal-error",
        "unavailable",
        "conflict",
    }
    general = {"method-not-allowed"} | never
    page = _quoted(_text("docs/reference/api.md"))
    assert {code for code, status in _codes().items() if status is not None} - general <= page


def test_every_limit_is_in_the_reference() -> None:
    rows = _rows(_sections("docs/reference/api.md")["`GET /v1/limits`"])
    assert {member for cells in rows for member in _quoted(cells[0])} == set(Limits.model_fields)


# metrics


def test_every_metric_has_its_row_and_every_row_a_metric() -> None:
    rows = {next(iter(_quoted(cells[0]))): cells for cells in _rows(_text("docs/reference/metrics.md"))}
    assert rows.keys() == METRICS.keys()
    for name, cells in rows.items():
        assert cells[1] == METRICS[name].kind, name
        assert _quoted(cells[2]) == set(METRICS[name].labels), name


# the job document


def _members(model: type[BaseModel]) -> set[str]:
    return set(model.model_json_schema(mode="serialization")["properties"])


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("The job", JobView),
        ("File", FileInfo),
        ("Steps", StepDocument),
        ("Artifacts", ArtifactDocument),
        ("Error", Problem),
        ("Links", Links),
    ],
)
def test_every_member_of_the_job_document_has_its_row(section: str, model: type[BaseModel]) -> None:
    rows = _rows(_sections("docs/reference/job-document.md")[section])
    assert {name for cells in rows for name in _quoted(cells[0])} == _members(model)


def test_the_example_of_a_job_is_one() -> None:
    block = re.search(r"(?ms)^```json\n(.*?)^```$", _text("docs/reference/job-document.md"))
    assert block
    example = json.loads(block[1])
    JobView.model_validate(example)
    assert example.keys() == _members(JobView)
    assert example["file"].keys() == _members(FileInfo)
    assert example["steps"][0].keys() == _members(StepDocument)


def test_the_transitions_are_told_as_they_are() -> None:
    rows = _rows(_sections("docs/reference/job-document.md")["Status"])
    told = {next(iter(_quoted(cells[0]))): _quoted(cells[2]) for cells in rows}
    assert told == {str(status): {str(after) for after in TRANSITIONS[status]} for status in JobStatus}


def test_every_status_of_a_step_and_every_reason_is_told() -> None:
    sections = _sections("docs/reference/job-document.md")
    assert set(StepStatus) <= _quoted(sections["Steps"])
    assert set(JOB_PROBLEMS) <= _quoted(sections["Error"])


# processors


@pytest.mark.parametrize("name", load_registry(entry_points=False))
def test_every_processor_has_a_section_with_its_types_and_options(name: str) -> None:
    processor = load_registry(entry_points=False)[name]
    section = _sections("docs/reference/processors.md")[f"`{name}`"]
    assert set(processor.accepts) <= _quoted(section) or "Accepts the same types as `image.info`" in section
    options = [cells for cells in _rows(section) if len(cells) == 4]
    assert {option for cells in options for option in _quoted(cells[0])} == set(processor.options.model_fields)


@pytest.mark.parametrize("name", load_registry(entry_points=False))
def test_every_fact_is_in_the_section_of_its_processor(name: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.png" if name.startswith("image") else "a.txt")
    if name.startswith("image"):
        Image.new("RGB", (20, 10)).save(file)
    else:
        file.write_text("one\n")
    section = _sections("docs/reference/processors.md")[f"`{name}`"]
    options = {"unless_clean": "note"} if name == "malware" else None  # there is no scanner here
    assert set(run(name, file, tmp_path=tmp_path, options=options).facts) <= _quoted(section)


def test_every_pipeline_has_its_row() -> None:
    pipelines = load_pipelines(load_registry(entry_points=False))
    rows = _rows(_sections("docs/reference/processors.md")["Pipelines"])
    told = {cells[0].strip("`"): re.findall(r"`([^`]+)`", cells[1]) for cells in rows}
    assert told == {name: [step.name for step in pipeline.steps] for name, pipeline in pipelines.items()}


def test_all_an_author_imports_is_named_in_the_tutorial_or_the_reference() -> None:
    told = _text("docs/tutorial/write-a-processor.md") + _text("docs/reference/processors.md")
    inner = {"Limits", "Processor", "warm"}  # for whoever runs processors
    assert all(re.search(rf"\b{name}\b", told) for name in set(processors.__all__) - inner)


# the command line


def _commands(command: Any, path: tuple[str, ...] = ("intake",)) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands(inner, (*path, name))
        else:
            yield " ".join((*path, name)), inner


@cache
def _all_commands() -> dict[str, Any]:
    return dict(_commands(typer.main.get_command(command_line)))


def _section_of(command: str) -> str:
    for heading, text in _sections("docs/reference/cli.md").items():
        if any(re.match(rf"{command}(?![\w-])", quoted) for quoted in _quoted(heading)):
            return text
    raise AssertionError(f"docs/reference/cli.md has no section for {command}")


@pytest.mark.parametrize("command", sorted(_all_commands()))
def test_every_command_has_a_section_with_its_options(command: str) -> None:
    section = _section_of(command)
    filters = {f"--{name}" for name in FILTERS}
    for parameter in _all_commands()[command].params:
        option = next((name for name in parameter.opts if name.startswith("--")), None)
        if option in ("--quiet", "--verbose", "--no-color", None):
            continue
        if option in filters and "filters" in section:
            assert option in _section_of("intake jobs list")
        else:
            assert option in section, option


@pytest.mark.parametrize("command", sorted(_all_commands()))
def test_no_section_of_a_command_has_an_option_too_many(command: str) -> None:
    rows = [cells[0] for cells in _rows(_section_of(command))]
    told = {option for cell in rows for option in re.findall(r"--[a-z-]+", cell)}
    known = {option for parameter in _all_commands()[command].params for option in parameter.opts}
    assert told <= known


def test_the_sections_name_no_command_that_is_not_there() -> None:
    headings = [quoted for heading in _sections("docs/reference/cli.md") for quoted in _quoted(heading)]
    assert headings
    for heading in headings:
        assert any(re.match(rf"{command}(?![\w-])", heading) for command in _all_commands()), heading


def test_the_global_options_are_told() -> None:
    told = {
        option for cells in _rows(_sections("docs/reference/cli.md")["Global options"]) for option in _quoted(cells[0])
    }
    known = {option for parameter in typer.main.get_command(command_line).params for option in parameter.opts}
    assert known | _GLOBAL <= told


def test_the_exit_codes_are_told_as_they_are() -> None:
    rows = _rows(_sections("docs/reference/cli.md")["Exit codes"])
    assert [cells[0] for cells in rows] == [str(int(code)) for code in Code]
