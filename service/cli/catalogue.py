"""``intake pipelines`` and ``intake processors``: what there is on this machine, and whether a file of pipelines is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.command import Cli, Output, command
from service.cli.exits import Code, Fail
from service.cli.process import ProcessorsDirOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors.contract import Processor
    from service.cli.output import Cell
    from service.wiring import Catalogue

pipelines = typer.Typer(no_args_is_help=True, help="Look at the pipelines of this machine, and check one's own.")
processors = typer.Typer(no_args_is_help=True, help="Look at the processors of this machine and their options.")


@pipelines.command("list")
@command(output=True)
def list_pipelines(cli: Cli, processors_dir: ProcessorsDirOption = None) -> None:
    """List the pipelines."""
    from service.cli.output import Column, field, write

    catalogue = _load(processors_dir)
    columns = {
        "Name": Column(field("name")),
        "": Column(_default(catalogue)),
        "Steps": Column(_step_names, wrap=True),
        "Description": Column(field("description"), wrap=True),
    }
    write(cli, [catalogue.pipelines[name].document() for name in sorted(catalogue.pipelines)], columns, key="name")


@pipelines.command("show")
@command(output=True)
def show_pipeline(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a pipeline.")],
    processors_dir: ProcessorsDirOption = None,
) -> None:
    """Show one pipeline: its steps, their inputs and their options with every default."""
    from service.cli.output import Column, field, form, write, write_one

    catalogue = _load(processors_dir)
    if name not in catalogue.pipelines:
        names = ", ".join(sorted(catalogue.pipelines))
        raise Fail(f"there is no pipeline {name}", hint=f"there are {names}", code=Code.NOT_FOUND)
    document = catalogue.pipelines[name].document()
    write_one(cli, document, {"Pipeline": field("name"), "For": field("description")}, key="name")
    if form(cli) is Output.table:
        columns = {
            "Step": Column(field("name")),
            "Processor": Column(field("processor")),
            "Input": Column(field("input")),
            "Options": Column(_options, wrap=True),
        }
        write(cli, [step.document() for step in catalogue.pipelines[name].steps], columns)


@pipelines.command("check")
@command()
def check_pipelines(
    cli: Cli,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file with pipelines.")],
    processors_dir: ProcessorsDirOption = None,
) -> None:
    """Check a file of pipelines as a start of the service would; exit code 2 names the first mistake."""
    from service.settings import Settings
    from service.wiring import load_catalogue

    settings = Settings.load(pipelines=file, processors_dir=processors_dir)
    catalogue = load_catalogue(settings)
    cli.say(f"{file} is right; with it there are the pipelines {', '.join(sorted(catalogue.pipelines))}")


@processors.command("list")
@command(output=True)
def list_processors(cli: Cli, processors_dir: ProcessorsDirOption = None) -> None:
    """List the processors."""
    from service.cli.output import Column, field, write

    columns = {
        "Name": Column(field("name")),
        "Accepts": Column(_accepts, wrap=True),
        "Description": Column(field("description"), wrap=True),
    }
    registry = _load(processors_dir).registry
    write(cli, [_processor(one) for _, one in sorted(registry.items())], columns, key="name")


@processors.command("show")
@command(output=True)
def show_processor(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a processor.")],
    processors_dir: ProcessorsDirOption = None,
) -> None:
    """Show one processor with its options, as a JSON Schema or a table."""
    from service.cli.output import Column, field, form, write, write_one

    registry = _load(processors_dir).registry
    if name not in registry:
        raise Fail(
            f"there is no processor {name}", hint=f"there are {', '.join(sorted(registry))}", code=Code.NOT_FOUND
        )
    document = _processor(registry[name])
    rows = {"Processor": field("name"), "Accepts": _accepts, "Does": field("description")}
    write_one(cli, document, rows, key="name")
    if form(cli) is Output.table:
        options = [{"name": key, **schema} for key, schema in document["options"].get("properties", {}).items()]
        columns = {
            "Option": Column(field("name")),
            "Type": Column(_type, wrap=True),
            "Default": Column(_default_value),
            "Meaning": Column(field("description"), wrap=True),
        }
        write(cli, options, columns, empty="no options")


def _load(processors_dir: Path | None) -> Catalogue:
    from service.settings import Settings
    from service.wiring import load_catalogue

    return load_catalogue(Settings.load(processors_dir=processors_dir))


def _processor(one: Processor) -> dict[str, Any]:
    return {"name": one.name, "description": one.description, "accepts": list(one.accepts), "options": one.schema()}


def _step_names(document: Mapping[str, Any]) -> str:
    return ", ".join(step["name"] for step in document["steps"])


def _default(catalogue: Catalogue) -> Cell:
    return lambda document: "default" if document["name"] == catalogue.default else ""


def _options(step: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in step["options"].items())


def _accepts(document: Mapping[str, Any]) -> str:
    return " ".join(document["accepts"])


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    items = f" of {_type(schema['items'])}" if schema.get("items") else ""
    return f"{schema.get('type', 'any')}{items}"


def _default_value(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema["default"], ensure_ascii=False) if "default" in schema else ""
