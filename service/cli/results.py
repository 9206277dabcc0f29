"""``intake results``: what the steps of a job have learned and made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from service.cli.command import Cli, Output, command
from service.cli.exits import Code, Fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.client import Artifact, Job

app = typer.Typer(no_args_is_help=True, help="List and fetch what the steps of a job have learned and made.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")]
_SOURCE = "source"


@app.command("list")
@command(server=True, output=True)
def list_(cli: Cli, job_id: _Id) -> None:
    """List the facts and artifacts of a job's steps; `-o id` prints what `results get` takes."""
    from service.cli.output import Column, field, form, size, write

    with cli.client() as client:
        job = client.job(job_id)
    if form(cli) in (Output.table, Output.id):
        columns = {
            "Result": Column(field("name")),
            "Type": Column(field("media_type")),
            "Size": Column(size("size")),
            "Content": Column(field("content"), cut=True),
        }
        write(cli, _lines(cli, job), columns, key="name", empty="no results")
        return
    steps = ({key: step.get(key) for key in ("name", "status", "facts", "artifacts")} for step in job.steps)
    write(cli, steps, {}, key="name")


@app.command()
@command(server=True)
def get(
    cli: Cli,
    job_id: _Id,
    what: Annotated[
        str | None, typer.Argument(metavar="[STEP[/NAME]]", help="A step, one of its artifacts, or `source`.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR|FILE|-", help="Where to put it; - for stdout.")
    ] = ".",
) -> None:
    """Fetch artifacts: all of a job, those of a step, or one. Prints the paths of the files.

    Every file is checked against the size and SHA-256 the service knows, and appears only whole. `source` is the file as
    it was uploaded.
    """
    with cli.client(patient=True) as client:
        job = client.job(job_id)
        if what == _SOURCE:
            _fetch_source(cli, job, sys.stdout.buffer if output == "-" else output)
            return
        chosen = _choose(job, what)
        if output == "-":
            if len(chosen) != 1:
                raise Fail(f"{len(chosen)} artifacts cannot all go to stdout", hint=_hint(job), code=Code.USAGE)
            _fetch(cli, job, chosen[0], sys.stdout.buffer)
            return
        for artifact in chosen:
            place = output if what and "/" in what else f"{output}/" if what else f"{output}/{artifact.step}/"
            _fetch(cli, job, artifact, place)


def _choose(job: Job, what: str | None) -> list[Artifact]:
    """Return the artifacts that ``what`` names; there is at least one."""
    step, _, name = (what or "").partition("/")
    if name:
        return [job.artifact(step, name)]
    results = job.results
    if step and step not in results:
        raise Fail(f"job {job.id} has no step {step}", hint=_hint(job), code=Code.NOT_FOUND)
    chosen = [a for result_step, r in results.items() if step in ("", result_step) for a in r.artifacts]
    if not chosen:
        detail = f"job {job.id} is {job.status} and has no artifacts{f' of {step}' if step else ''}"
        raise Fail(detail, hint=None if job.done else f"intake jobs wait {job.id}", code=Code.NOT_FOUND)
    return chosen


def _hint(job: Job) -> str:
    names = [f"{artifact.step}/{artifact.name}" for result in job.results.values() for artifact in result.artifacts]
    return f"name one of: {', '.join([*names, _SOURCE])}"


def _fetch(cli: Cli, job: Job, artifact: Artifact, to: str | BinaryIO) -> None:
    from service.cli.watching import Bars

    with Bars(cli) as bars, bars.transfer(artifact.name, artifact.size) as progress:
        path = job.download(artifact.step, artifact.name, to=to, progress=progress)
    if path:
        print(path, flush=True)


def _fetch_source(cli: Cli, job: Job, to: str | BinaryIO) -> None:
    from service.cli.watching import Bars

    with Bars(cli) as bars, bars.transfer(job.file["name"], job.file["size"]) as progress:
        path = job.source(to=to, progress=progress)
    if path:
        print(path, flush=True)


def _lines(cli: Cli, job: Job) -> list[Mapping[str, Any]]:
    """Return a line for each artifact and, where people read it, for the facts of each step."""
    import json

    from service.cli.output import form

    lines: list[Mapping[str, Any]] = []
    for step, result in job.results.items():
        if result.facts and form(cli) is Output.table:
            lines.append({"name": step, "content": json.dumps(result.facts, ensure_ascii=False)})
        for artifact in result.artifacts:
            name = f"{step}/{artifact.name}"
            lines.append({"name": name, "media_type": artifact.media_type, "size": artifact.size})
    return lines
