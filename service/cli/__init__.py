"""The ``intake`` command: one module per group of commands.

The modules that define commands import only Typer and the standard library at their top, so that ``intake --help`` and
shell completion answer at once; a command loads what it needs when it runs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; ends it with one of ``service.cli.exits.Code``."""
    import io
    import sys

    from service.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name no terminal can show is not a reason to stop
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="intake")
