"""``intake jobs``: look at jobs, wait for them, and act on one or on all that match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.command import Cli, Output, command
from service.cli.exits import Code, Fail
from service.cli.filters import Filters, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.client import Client, Job

app = typer.Typer(no_args_is_help=True, help="Look at jobs, wait for them, cancel, retry or delete them.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")]
_Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of jobs.")]
_IdsOrFilters = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of jobs, or use a filter.")]
_Timeout = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Longest wait, such as 30s or 10m; then exit code 8.")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", metavar="", help="Only tell which jobs it would be.")]
_ENDS = ("succeeded", "failed", "canceled")


@app.command("list")
@command(server=True, output=True, filters=True)
def list_(
    cli: Cli,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Most jobs to show; 0 for all.")] = 50,
    *,
    filters: Filters,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from service.cli.describe import COLUMNS
    from service.cli.output import write

    query = filters.query() | {"limit": min(limit or 500, 500)}
    with cli.client() as client:
        jobs = (job.document for job in client.jobs(**query))
        write(cli, islice(jobs, limit or None), COLUMNS, empty="no jobs")


@app.command()
@command(server=True, output=True)
def show(cli: Cli, job_id: _Id) -> None:
    """Show one job with its steps."""
    from service.cli.describe import ROWS, timeline
    from service.cli.output import form, write_one

    with cli.client() as client:
        job = client.job(job_id)
    write_one(cli, job.document, ROWS)
    if form(cli) is Output.table:
        cli.stdout.print(timeline(job.document))


@app.command()
@command(server=True, output=True)
def watch(cli: Cli, job_id: _Id, timeout: _Timeout = None) -> int:
    """Follow one job to its end: its steps as they run on a terminal, each change as a JSON line in a pipe.

    Exit code 3 if the job failed or was canceled.
    """
    from service.cli.output import form
    from service.cli.watching import draw, narrate, record

    with cli.client(patient=True) as client:
        job = client.job(job_id)
        states = record(cli, job.watch(timeout=seconds_of(timeout)))
        if cli.live:
            draw(cli, states)
        else:
            narrate(cli, states)
    if form(cli) is Output.table and not cli.live:
        from service.cli.describe import timeline

        cli.stdout.print(timeline(job.document))
    return _verdict([job])


@app.command()
@command(server=True, output=True)
def wait(cli: Cli, job_ids: _Ids, timeout: _Timeout = None) -> int:
    """Wait until all of these jobs have ended. Exit code 3 if one failed or was canceled, 8 after --timeout."""
    import time

    from service.cli.describe import COLUMNS, reason
    from service.cli.output import write

    seconds = seconds_of(timeout)
    deadline = None if seconds is None else time.monotonic() + seconds
    jobs: list[Job] = []

    def ended(client: Client) -> Iterator[dict[str, Any]]:
        for job_id in job_ids:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            job = client.job(job_id).wait(timeout=left)
            jobs.append(job)
            cli.say(": ".join(filter(None, (f"job {job.id} {job.status}", reason(job.document)))))
            yield job.document

    with cli.client(patient=True) as client:
        write(cli, ended(client), COLUMNS)
    return _verdict(jobs)


@app.command()
@command(server=True, output=True, filters=True)
def cancel(
    cli: Cli, job_ids: _IdsOrFilters = None, yes: _Yes = False, dry_run: _DryRun = False, *, filters: Filters
) -> int:
    """Cancel jobs that wait or run: by id, or all that match the filters."""
    return _act(cli, "cancel", "canceled", ("queued", "running"), job_ids or [], filters, yes=yes, dry_run=dry_run)


@app.command()
@command(server=True, output=True, filters=True)
def retry(
    cli: Cli, job_ids: _IdsOrFilters = None, yes: _Yes = False, dry_run: _DryRun = False, *, filters: Filters
) -> int:
    """Queue failed or canceled jobs again, from the step they failed at: by id, or all that match the filters."""
    return _act(cli, "retry", "retried", ("failed", "canceled"), job_ids or [], filters, yes=yes, dry_run=dry_run)


@app.command()
@command(server=True, output=True, filters=True)
def delete(
    cli: Cli, job_ids: _IdsOrFilters = None, yes: _Yes = False, dry_run: _DryRun = False, *, filters: Filters
) -> int:
    """Delete ended jobs with their files and artifacts: by id, or all that match the filters."""
    return _act(cli, "delete", "deleted", _ENDS, job_ids or [], filters, yes=yes, dry_run=dry_run)


def _act(
    cli: Cli,
    verb: str,
    participle: str,
    statuses: tuple[str, ...],
    job_ids: list[str],
    filters: Filters,
    *,
    yes: bool,
    dry_run: bool,
) -> int:
    """Do ``verb`` to the jobs named, or to those in ``statuses`` that match; one that fails does not stop the others."""
    from service.cli.describe import COLUMNS
    from service.cli.output import write

    if bool(job_ids) == bool(filters):
        raise Fail(
            f"{verb} takes either the ids of jobs or a filter", hint=f"intake jobs {verb} --help", code=Code.USAGE
        )
    with cli.client() as client:
        if filters or dry_run:
            chosen = _matching(client, statuses, filters) if filters else [client.job(job_id) for job_id in job_ids]
            cli.say(f"{_count(len(chosen))} {'would' if dry_run else 'will'} be {participle}{_ages(chosen)}")
            if dry_run or not chosen:
                write(cli, [job.document for job in chosen], COLUMNS)
                return Code.OK
            cli.ask("Go on?", yes=yes)
            job_ids = [job.id for job in chosen]
        codes: list[int] = []
        action: Callable[[str], Any] = getattr(client, verb)
        write(cli, _outcomes(cli, action, job_ids, codes), COLUMNS)
    return next((code for code in codes if code), Code.OK)


def _matching(client: Client, statuses: tuple[str, ...], filters: Filters) -> list[Job]:
    query = filters.query()
    query["status"] = query["status"] or ",".join(statuses)
    return [job for job in client.jobs(limit=500, **query) if job.status in statuses]


def _outcomes(cli: Cli, action: Callable[[str], Any], job_ids: list[str], codes: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the document of each job acted on; report the others, and note every exit code."""
    from service.client import ClientError

    for job_id in job_ids:
        try:
            job = action(job_id)
        except ClientError as error:
            codes.append(cli.report(error, about=job_id))
        else:
            codes.append(Code.OK)
            yield job.document if job else {"id": job_id, "status": "deleted"}


def _count(number: int) -> str:
    return f"{number} job" if number == 1 else f"{number} jobs"


def _ages(jobs: list[Job]) -> str:
    if not jobs:
        return ""
    from datetime import UTC, datetime

    from service.cli.output import format_seconds

    ages = [(datetime.now(UTC) - job.created_at).total_seconds() for job in jobs]
    return f" (oldest {format_seconds(max(ages))}, newest {format_seconds(min(ages))})"


def _verdict(jobs: list[Job]) -> int:
    return Code.OK if all(job.status == "succeeded" for job in jobs) else Code.FAILED
