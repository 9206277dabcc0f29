"""Data on stdout, as a table, JSON, JSON lines or ids; and how sizes, times and strangers' text are written for people."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from service.cli.command import Cli, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.text import Text

    #: Makes the text of a table's cell from a document.
    Cell = Callable[[Mapping[str, Any]], str]

_WIDE = 110
_STYLES = {
    "succeeded": "green",
    "ok": "green",
    "failed": "red",
    "fail": "red",
    "running": "cyan",
    "queued": "yellow",
    "warn": "yellow",
    "canceled": "dim",
    "skipped": "dim",
    "waiting": "dim",
}


def form(cli: Cli) -> Output:
    """Return the form that ``auto`` stands for here: a table on a terminal, JSON lines in a pipe."""
    if cli.output is not Output.auto:
        return cli.output
    return Output.table if sys.stdout.isatty() else Output.jsonl


@dataclass(frozen=True)
class Column:
    """A column of a table: what stands in it, and what happens where the terminal is too narrow for all.

    A ``cut`` column ends its lines with an ellipsis, a ``wrap`` column takes more lines, any other keeps its width. One
    that is ``extra`` is left out on a terminal of less than 110 columns.
    """

    cell: Cell
    cut: bool = False
    wrap: bool = False
    extra: bool = False


def write(
    cli: Cli,
    documents: Iterable[Mapping[str, Any]],
    columns: Mapping[str, Column],
    *,
    key: str = "id",
    empty: str = "",
) -> None:
    """Write documents to stdout; JSON lines and ids as they come, so that a long listing can be read from its start.

    ``columns`` make the table, ``key`` names the member that ``--output id`` prints, ``empty`` is said to a person when
    there are none.
    """
    match form(cli):
        case Output.json:
            _line(json.dumps(list(documents), ensure_ascii=False, indent=2))
        case Output.jsonl:
            for document in documents:
                _line(json.dumps(document, ensure_ascii=False))
        case Output.id:
            for document in documents:
                _line(plain(str(document[key])))
        case _:
            rows = list(documents)
            if rows:
                _table(cli, rows, columns)
            elif empty:
                cli.say(empty)


def write_one(cli: Cli, document: Mapping[str, Any], rows: Mapping[str, Cell], *, key: str = "id") -> None:
    """Write a single document: a table has one line for each of ``rows`` that has something to show."""
    from rich.table import Table

    match form(cli):
        case Output.json:
            _line(json.dumps(document, ensure_ascii=False, indent=2))
        case Output.table:
            table = Table.grid(padding=(0, 2))
            for name, cell in rows.items():
                if text := cell(document):
                    table.add_row(name, styled(text))
            cli.stdout.print(table)
        case _:
            write(cli, [document], {}, key=key)


def styled(text: str) -> Text:
    """Return a text in the color of the status it starts with, if it does; nothing in it is taken for markup."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text.partition(" ")[0], ""))


def _table(cli: Cli, documents: list[Mapping[str, Any]], columns: Mapping[str, Column]) -> None:
    from rich.table import Table

    shown = {name: column for name, column in columns.items() if not column.extra or cli.stdout.width >= _WIDE}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, column in shown.items():
        table.add_column(name, no_wrap=not (column.cut or column.wrap))
    for document in documents:
        cells = [(styled(column.cell(document)), column.cut) for column in shown.values()]
        for text, cut in cells:
            text.no_wrap, text.overflow = (True, "ellipsis") if cut else (None, None)
        table.add_row(*(text for text, _ in cells))
    cli.stdout.print(table, soft_wrap=False)


def _line(text: str) -> None:
    print(text, flush=True)


def plain(text: str) -> str:
    """Return the text with everything a terminal might obey, or that turns writing around, made visible."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def member(document: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path of a document, None where it ends early."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def field(path: str) -> Cell:
    """Return a cell that shows the member at a dotted path as text."""

    def cell(document: Mapping[str, Any]) -> str:
        value = member(document, path)
        return "" if value is None else plain(str(value))

    return cell


def size(path: str) -> Cell:
    """Return a cell that shows a number of bytes."""

    def cell(document: Mapping[str, Any]) -> str:
        value = member(document, path)
        return "" if value is None else format_bytes(value)

    return cell


def age(path: str) -> Cell:
    """Return a cell that shows how long ago a moment was."""

    def cell(document: Mapping[str, Any]) -> str:
        value = member(document, path)
        return "" if value is None else format_seconds((datetime.now(UTC) - moment(value)).total_seconds())

    return cell


def moment(text: str) -> datetime:
    """Return the moment an RFC 3339 text names."""
    return datetime.fromisoformat(text)


def format_bytes(count: float) -> str:
    """Write a number of bytes in three or four digits."""
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    unit = units.pop()
    while count >= 1000 and units:
        count, unit = count / 1024, units.pop()
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """Write a duration with its largest unit, or its two largest."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d"
