"""``intake config``: the settings in force, where each comes from, and their reference."""

from __future__ import annotations

import inspect
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from service.cli.command import Cli, command
from service.cli.server import ConfigOption, DataDirOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

    from service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show, check and document the settings.")
_FILE = "INTAKE_CONFIG"


@app.command()
@command(server=True, output=True)
def show(
    cli: Cli,
    source: Annotated[bool, typer.Option("--source", metavar="", help="Tell where each value comes from.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the settings in force here: flags go before variables, those before the file, that before the defaults."""
    from service.cli.output import Column, field, write
    from service.settings import Settings

    flags = {"data_dir": data_dir, "server": cli.server}
    settings = Settings.load(config, **flags)
    values = settings.model_dump(mode="json")
    origin = _origins(config, flags)
    documents = [
        {"variable": f"INTAKE_{name.upper()}", "value": values[name]} | ({"source": origin(name)} if source else {})
        for name in Settings.model_fields
    ]
    columns = {"Setting": Column(field("variable")), "Value": Column(field("value"), wrap=True)}
    columns |= {"From": Column(field("source"), wrap=True)} if source else {}
    write(cli, documents, columns, key="variable")


@app.command()
@command()
def check(cli: Cli, config: ConfigOption = None) -> None:
    """Check settings, processors and pipelines as a start of the service would; exit code 2 names the first mistake."""
    from service.engine import require_engine
    from service.settings import Settings
    from service.wiring import load_catalogue

    settings = Settings.load(config)
    require_engine(settings)
    catalogue = load_catalogue(settings)
    cli.say(f"settings are right; {len(catalogue.registry)} processors, {len(catalogue.pipelines)} pipelines")


@app.command()
@command()
def docs(_: Cli) -> None:
    """Print the reference of all settings as Markdown."""
    from service.settings import Settings

    print("\n".join(_reference(Settings)))


def _origins(config: Path | None, flags: dict[str, Any]) -> Callable[[str], str]:
    """Return the function that tells where the value of a setting comes from."""
    import tomllib

    path = config or (Path(value) if (value := os.environ.get(_FILE)) else None)
    keys = tomllib.loads(path.read_text()) if path else {}

    def origin(name: str) -> str:
        if flags.get(name) is not None:
            return "flag"
        if os.environ.get(f"INTAKE_{name.upper()}"):
            return "environment"
        return f"file {path}" if name in keys else "default"

    return origin


def _reference(settings: type[Settings]) -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Written by `intake config docs` from `service/settings.py`; do not edit."
    yield ""
    yield (
        f"Each setting is an environment variable, and, without the prefix and in lower case, a key of the TOML file that "
        f"`{_FILE}` or `--config` names. Flags go before variables, those before the file, that before the defaults. "
        "An unknown variable or key stops the start."
    )
    yield ""
    yield "Sizes are written like `500MB`, `2GiB` or `1048576` (bytes), durations like `250ms`, `30s`, `5m`, `12h`, `30d`."
    for title, names in _groups(settings):
        yield ""
        yield f"## {title}"
        yield ""
        yield "| Variable | Type | Default | Meaning |"
        yield "|---|---|---|---|"
        if title == "The settings file":
            yield f"| `{_FILE}` | path | none | TOML file with settings. |"
        for name in names:
            field = settings.model_fields[name]
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"| `INTAKE_{name.upper()}` | {_kind(field)} | {_default(settings, name)} | {meaning} |"


def _groups(settings: type[Settings]) -> Iterator[tuple[str, list[str]]]:
    """Yield the groups of the class, which its comments name, with their settings in order; none is left out."""
    yield "The settings file", []
    title, names, left = "General", list[str](), set(settings.model_fields)
    sources = [inspect.getsource(part) for part in settings.__mro__ if part.__module__.startswith("service.")]
    for line in "\n".join(sources).splitlines():
        if heading := re.fullmatch(r"    # (\w.*)", line):
            if names:
                yield title, names
            title, names = heading[1][0].upper() + heading[1][1:], []
        elif (name := re.match(r"    (\w+): ", line)) and name[1] in left:
            left.remove(name[1])
            names.append(name[1])
    yield title, names
    for part in settings.__bases__:  # whose docstrings say what they are about
        if own := [name for name in getattr(part, "model_fields", ()) if name in left]:
            yield (part.__doc__ or "").split("\n")[0].rstrip("."), own
            left.difference_update(own)
    assert not left, left


def _kind(field: FieldInfo) -> str:
    """Return the type of a setting in words: unit, choices or range."""
    from service.settings import parse_size

    annotation, optional = field.annotation, type(None) in get_args(field.annotation)
    if optional:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        *others, last = (f"`{value}`" for value in get_args(annotation))
        return f"{', '.join(others)} or {last}" if others else last
    if annotation is bool:
        return "`true` or `false`"
    if annotation is timedelta:
        return "duration or `off`" if optional else "duration"
    if annotation is not int:
        return "path" if annotation is Path else "text"
    if any(getattr(item, "func", None) is parse_size for item in field.metadata):
        return "size"
    low, high = (
        next((getattr(item, name) for item in field.metadata if hasattr(item, name)), None) for name in ("ge", "le")
    )
    return "integer" + ("" if low is None else f" from {low}" if high is None else f" from {low} to {high}")


def _default(settings: type[Settings], name: str) -> str:
    field = settings.model_fields[name]
    if field.default_factory is not None:
        return "of the machine"
    if field.default is None and timedelta in get_args(get_args(field.annotation)[0]):
        return "`off`"
    if field.default is None or field.default == "":
        return "none"
    if field.annotation is bool:
        return f"`{str(field.default).lower()}`"
    value = settings.model_construct().model_dump(mode="json", include={name})[name]
    return f"`{value}`"
