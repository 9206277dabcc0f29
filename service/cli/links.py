"""``intake links``: signed links for one download or one upload, for those who have no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.command import Cli, command
from service.cli.filters import duration_of, size_of

if TYPE_CHECKING:
    from service.client import Link

app = typer.Typer(no_args_is_help=True, help="Make links that let somebody without a token fetch or send one file.")

_Expires = Annotated[str, typer.Option(metavar="DURATION", help="How long it is good, up to 7d.")]


@app.command()
@command(server=True)
def download(
    cli: Cli,
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")],
    what: Annotated[
        str, typer.Argument(metavar="[STEP[/NAME]]", help="A step with one artifact, or an artifact, or `source`.")
    ] = "source",
    expires: _Expires = "15m",
) -> None:
    """Make a link to a file of a job and print it, alone, on stdout."""
    seconds = _seconds(expires)
    step, _, name = what.partition("/")
    with cli.client() as client:
        link = client.job(job_id).link(None if what == "source" else step, name or None, expires_in=seconds)
    _show(cli, link, "anybody who has it fetches the file")


@app.command()
@command(server=True)
def upload(
    cli: Cli,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file.", show_default="INTAKE_MAX_UPLOAD")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="What the file goes through.")] = None,
    filename: Annotated[str | None, typer.Option(metavar="NAME", help="The only name the file can have.")] = None,
    expires: _Expires = "15m",
) -> None:
    """Make a link for one upload and print it, alone, on stdout.

    The file becomes a job of the token that makes the link.
    """
    size, seconds = size_of(max_size, "--max-size"), _seconds(expires)
    with cli.client() as client:
        link = client.upload_link(max_size=size, pipeline=pipeline, filename=filename, expires_in=seconds)
    _show(cli, link, f"one file is sent by: curl {'-T FILE' if link.method == 'PUT' else '-F file=@FILE'} URL")


def _seconds(expires: str) -> int:
    duration = duration_of(expires, "--expires")
    assert duration is not None, "it has a default"
    return int(duration.total_seconds())


def _show(cli: Cli, link: Link, use: str) -> None:
    print(link.url)
    cli.say(f"good until {link.expires_at:%Y-%m-%d %H:%M} UTC; {use}")
