"""Pipelines: named lists of steps, written in TOML, checked whole before the first file arrives.

::

    [pipelines.photos]
    description = "Small previews of a photo."

    [[pipelines.photos.steps]]
    processor = "image.previews"
    name = "thumbs"                 # defaults to the processor's name
    input = "source"                # or "<earlier step>/<artifact>"
    options = { sizes = [128] }
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import JsonValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from processors.registry import Registry

SOURCE = "source"
"""The input of a step that reads the file the client sent."""

PACKAGED = Path(__file__).with_name("pipelines.toml")
"""The pipelines that come with this package."""

_PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_STEP_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_INPUT = re.compile(r"(?P<step>[a-z0-9][a-z0-9._-]{0,63})/(?P<artifact>[A-Za-z0-9_-][A-Za-z0-9._-]{0,127})")


class PipelineError(Exception):
    """A pipeline cannot be used as written. The message names the file, the pipeline and the step."""


@dataclass(frozen=True)
class Step:
    """One use of a processor."""

    name: str
    """Unique in its pipeline; also the name of its folder of artifacts."""
    processor: str
    options: dict[str, JsonValue]
    """The processor's options, validated, every default filled in."""
    input: str = SOURCE
    """`source`, or `<earlier step>/<artifact>`."""

    def document(self) -> dict[str, JsonValue]:
        """Return the step as JSON."""
        return {"name": self.name, "processor": self.processor, "input": self.input, "options": self.options}


@dataclass(frozen=True)
class Pipeline:
    """A named list of steps, run in this order."""

    name: str
    description: str
    steps: tuple[Step, ...]

    def document(self) -> dict[str, JsonValue]:
        """Return the pipeline as JSON."""
        return {"name": self.name, "description": self.description, "steps": [step.document() for step in self.steps]}


def load_pipelines(registry: Registry, *files: Path) -> dict[str, Pipeline]:
    """Return the packaged pipelines and those of `files`, by name; a later file may replace a pipeline of an earlier.

    Raises PipelineError for the first thing that cannot work: a file that is not TOML, an unknown key, processor or
    option, a bad value, a step's name used twice, an input that no earlier step can make, a pipeline without steps.
    """
    pipelines: dict[str, Pipeline] = {}
    for file in (PACKAGED, *files):
        pipelines |= _read(file, registry)
    return pipelines


def make_step(
    registry: Registry,
    processor: str,
    *,
    name: str | None = None,
    input: str = SOURCE,  # noqa: A002 - the contract's word
    options: Mapping[str, Any] | None = None,
) -> Step:
    """Return a step with its options checked. Raises PipelineError for an unknown processor or a bad option or name."""
    if processor not in registry:
        raise PipelineError(f"There is no processor {processor!r}{_did_you_mean(processor, registry)}.")
    name = processor if name is None else name
    if not _STEP_NAME.fullmatch(name) or name.endswith(".partial"):
        raise PipelineError(
            f"A step's name is 1 to 64 of a-z 0-9 . _ -, starts with a letter or digit and does not end in '.partial', "
            f"not {name!r}."
        )
    if input != SOURCE and not _INPUT.fullmatch(input):
        raise PipelineError(f"The input is 'source' or '<earlier step>/<artifact>', not {input!r}.")
    try:
        checked = registry[processor].options.model_validate(dict(options or {}))
    except pydantic.ValidationError as error:
        raise PipelineError(_retold(error, registry[processor].options)) from None
    return Step(name=name, processor=processor, options=checked.model_dump(mode="json"), input=input)


def _read(file: Path, registry: Registry) -> dict[str, Pipeline]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PipelineError(f"{file}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PipelineError(f"{file}: is not TOML: {error}.") from error
    _only_keys(document, {"pipelines"}, f"{file}")
    tables = document.get("pipelines", {})
    if not isinstance(tables, dict):
        raise PipelineError(f"{file}: 'pipelines' is a table of pipelines: write [pipelines.<name>].")
    return {name: _pipeline(name, table, registry, f'{file}: pipeline "{name}"') for name, table in tables.items()}


def _pipeline(name: str, table: Any, registry: Registry, where: str) -> Pipeline:
    if not _PIPELINE_NAME.fullmatch(name):
        raise PipelineError(
            f"{where}: a pipeline's name is 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit."
        )
    if not isinstance(table, dict):
        raise PipelineError(f"{where}: is a table: write [pipelines.{name}].")
    _only_keys(table, {"description", "steps"}, where)
    description = _text(table, "description", "", where)
    entries = table.get("steps", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PipelineError(f"{where}: 'steps' is a list of tables: write [[pipelines.{name}.steps]].")
    if not entries:
        raise PipelineError(f"{where}: has no steps: write at least one [[pipelines.{name}.steps]].")
    steps: dict[str, Step] = {}
    for number, entry in enumerate(entries, start=1):
        step = _step(entry, registry, _place(where, number, entry), earlier=steps)
        steps[step.name] = step
    return Pipeline(name=name, description=description, steps=tuple(steps.values()))


def _step(entry: dict[str, Any], registry: Registry, where: str, *, earlier: Mapping[str, Step]) -> Step:
    _only_keys(entry, {"processor", "name", "input", "options"}, where)
    if "processor" not in entry:
        raise PipelineError(f"{where}: names no processor.")
    processor = _text(entry, "processor", "", where)
    options = entry.get("options", {})
    if not isinstance(options, dict):
        raise PipelineError(f"{where}: 'options' is a table: write options = {{ key = value }}.")
    name = _text(entry, "name", processor, where)
    source = _text(entry, "input", SOURCE, where)
    try:
        step = make_step(registry, processor, name=name, input=source, options=options)
    except PipelineError as error:
        raise PipelineError(f"{where}: {error}") from None
    if step.name in earlier:
        raise PipelineError(f'{where}: the name is used by an earlier step. Give this one its own with name = "…".')
    if source != SOURCE and source.partition("/")[0] not in earlier:
        known = ", ".join(earlier) or "none"
        raise PipelineError(f"{where}: the input {source!r} is not from an earlier step. Earlier steps: {known}.")
    return step


def _place(where: str, number: int, entry: Mapping[str, Any]) -> str:
    name = entry.get("name", entry.get("processor"))
    return f'{where}, step "{name}"' if isinstance(name, str) else f"{where}, step {number}"


def _text(table: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise PipelineError(f"{where}: {key!r} is text, not {value!r}.")
    return value


def _only_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            hint = _did_you_mean(key, known) or f"; known are {', '.join(sorted(known))}"
            raise PipelineError(f"{where}: unknown key {key!r}{hint}.")


def _retold(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """Pydantic's findings in one line: which option, why."""
    findings = []
    for finding in error.errors(include_url=False, include_context=False):
        option = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "it takes none"
            hint = _did_you_mean(option, model.model_fields) or f"; known are: {known}"
            findings.append(f"unknown option {option!r}{hint}")
        else:
            findings.append(f"option {option!r}: {finding['msg']}" if option else finding["msg"])
    return "; ".join(findings) + "."


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
