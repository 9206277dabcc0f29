"""What every command shares: the global options, the ``Cli`` object they become, and the one place where errors end it."""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from service.cli.exits import Code, explain
from service.cli.filters import OPTIONS as FILTERS
from service.cli.filters import Filters

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from service.client import Client


class Output(StrEnum):
    """How a command writes its data to stdout; ``auto`` is ``table`` on a terminal and ``jsonl`` in a pipe."""

    auto = "auto"
    table = "table"
    json = "json"
    jsonl = "jsonl"
    id = "id"


_PANEL = "Global options"
_ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        "-s",
        metavar="URL",
        help="Service to talk to, instead of INTAKE_SERVER.",
        rich_help_panel=_PANEL,
    ),
]
_OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", help="Form of the data on stdout.", show_default="auto", rich_help_panel=_PANEL),
]
_QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="Say nothing but errors.", rich_help_panel=_PANEL)
]
_VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        help="Say more; -vv adds tracebacks.",
        rich_help_panel=_PANEL,
    ),
]
_NoColorOption = Annotated[
    bool, typer.Option("--no-color", metavar="", help="Write without colors.", rich_help_panel=_PANEL)
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "server": (_ServerOption, None),
    "output": (_OutputOption, None),
    "quiet": (_QuietOption, False),
    "verbose": (_VerboseOption, 0),
    "no_color": (_NoColorOption, False),
}


@dataclass(frozen=True)
class Cli:
    """The global options of one run. Data goes to stdout (``service.cli.output``), all else to stderr, through here."""

    server: str | None = None
    output: Output = Output.auto
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False

    @property
    def live(self) -> bool:
        """Tell whether bars may be drawn: stderr is a terminal that can move its cursor, with a person behind it."""
        dumb = os.environ.get("TERM", "") in ("", "dumb") or bool(os.environ.get("CI"))
        return sys.stderr.isatty() and not dumb and not self.quiet

    @cached_property
    def stdout(self) -> Console:
        """A Rich console for data. It writes text as it is: no markup, no highlighting."""
        return self._console(stderr=False)

    @cached_property
    def stderr(self) -> Console:
        """The console for all else; only what is printed to this one appears above bars that are being drawn."""
        return self._console(stderr=True)

    def _console(self, *, stderr: bool) -> Console:
        from rich.console import Console

        return Console(
            stderr=stderr, no_color=self.no_color or None, markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    def say(self, message: str, *, style: str | None = None) -> None:
        """Tell the person something on stderr, unless --quiet."""
        if not self.quiet:
            self._write(message, style)

    def error(self, message: str, hint: str | None = None) -> None:
        """Report an error, with what to do about it, on stderr; --quiet does not silence it."""
        self._write(f"error: {message}", "red")
        if hint:
            self._write(f"hint: {hint}", None)

    def report(self, error: Exception, *, about: str | None = None) -> int:
        """Report an error in one line and a hint, with its traceback after -vv, and return its exit code."""
        if self.verbose > 1:
            import traceback

            traceback.print_exception(error)
        known = explain(error)
        code, message, hint = known or (
            Code.ERROR,
            f"unexpected {type(error).__name__}: {error}",
            "run it again with -vv for the traceback",
        )
        self.error(f"{about}: {message}" if about else message, hint)
        return code

    def _write(self, message: str, style: str | None) -> None:
        if sys.stderr.isatty():
            self.stderr.print(message, style=style)
        else:
            print(message, file=sys.stderr, flush=True)

    def client(self, *, patient: bool = False) -> Client:
        """Return a client of the service that --server or INTAKE_SERVER names; the caller closes it.

        A ``patient`` one tries again for a quarter of a minute when the service is away, any other only once.
        """
        from service.client import Client

        def tell(failure: Exception, seconds: float) -> None:
            self.say(f"{failure}; trying again in {seconds:.1f} s", style="yellow")

        return Client(self.server, retries=5 if patient else 1, on_retry=tell)

    def ask(self, question: str, *, yes: bool) -> None:
        """Return when the person agrees, or has done so with --yes.

        Raises:
            typer.Exit: they do not, or there is no terminal to ask at (exit code 2).

        """
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            self.error("there is no terminal to ask at", "add --yes, or --dry-run to see what would happen")
            raise typer.Exit(Code.USAGE)
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise typer.Exit(Code.ERROR)


def root(
    ctx: typer.Context,
    server: _ServerOption = None,
    output: _OutputOption = None,
    quiet: _QuietOption = False,
    verbose: _VerboseOption = 0,
    no_color: _NoColorOption = False,
) -> None:
    """Take files, process them in the background, and report on each job.

    Data goes to stdout and all else to stderr. A terminal gets tables, a pipe gets JSON lines.
    """
    ctx.obj = Cli(server, output or Output.auto, quiet, verbose, no_color)


def command(
    *, server: bool = False, output: bool = False, filters: bool = False
) -> Callable[[Callable[..., object]], Callable[..., None]]:
    """Make a Typer command of a function whose first parameter is a ``Cli``.

    The global options are accepted before the command's name and after it; ``server`` and ``output`` only where asked
    for. With ``filters`` the function gets the filters on jobs as a keyword of this name. An int the function returns is
    the exit code. Errors end the run here, in one line and a hint, with their code.
    """
    names = ["server"] * server + ["output"] * output + ["quiet", "verbose", "no_color"]
    options = (FILTERS if filters else {}) | {name: _OPTIONS[name] for name in names}

    def decorate(function: Callable[..., object]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]
            if parameter.name != "filters"
        ]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in options.items()
        ]

        @wraps(function)
        def wrapper(ctx: typer.Context, **values: Any) -> None:
            cli = _merge(ctx.obj or Cli(), {name: values.pop(name) for name in names})
            if filters:
                values["filters"] = Filters(**{name: values.pop(name) for name in FILTERS})
            if code := _run(cli, lambda: function(cli, **values)):
                raise typer.Exit(code)

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *own, *shared]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__doc__ = _reflow(function.__doc__ or "")
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapper.__wrapped__  # Typer would read the options of the inner function
        return cast("Callable[..., None]", wrapper)

    return decorate


def _reflow(text: str) -> str:
    """Join the lines of each paragraph, so that --help wraps them at the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _merge(cli: Cli, given: dict[str, Any]) -> Cli:
    given["verbose"] += cli.verbose
    given["quiet"] |= cli.quiet
    given["no_color"] |= cli.no_color
    return replace(cli, **{name: value for name, value in given.items() if value is not None})


def _run(cli: Cli, function: Callable[[], object]) -> int:
    try:
        result = function()
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter, KeyboardInterrupt):
        raise
    except BrokenPipeError:  # the reader has seen enough, as in `intake jobs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Code.OK
    except Exception as error:  # noqa: BLE001 - the last line of defence says so in one line
        return cli.report(error)
    return int(result) if isinstance(result, int) else Code.OK
