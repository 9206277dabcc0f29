"""``intake upload``: files to the service, several at a time, with bars for people and lines for logs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from service.cli.command import Cli, Output, command
from service.cli.exits import Code, Fail
from service.cli.filters import pairs, seconds_of


class Ends(StrEnum):
    """Which ends somebody is told of."""

    failure = "failure"
    success = "success"
    both = "both"


@command(server=True, output=True)
def upload(
    cli: Cli,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files to upload; - is the standard input.")],
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="What the files go through.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Label to find the jobs by.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the file, instead of its own.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", metavar="", help="Wait for the jobs to end.")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Longest --wait for each job, such as 10m; then exit code 8.")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Files sent at the same time.")] = 3,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key again gives the same job.")
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Is told of the jobs' ends by a signed webhook.")
    ] = None,
    notify_email: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Is told of the jobs' ends by e-mail.")
    ] = None,
    notify_on: Annotated[Ends | None, typer.Option(help="Which ends the e-mail is for.", show_default="both")] = None,
) -> int:
    """Upload files and print their jobs.

    They are printed in the order of the arguments. Exit code 3 if a job waited for failed. One file that is refused
    does not stop the others; the exit code is then that
    of the first.
    """
    from service.cli.describe import COLUMNS
    from service.cli.output import form, write
    from service.cli.uploading import Batch, item_of
    from service.cli.watching import Bars

    if len(paths) > 1 and (name or idempotency_key):
        raise Fail("--name and --idempotency-key are for a single file", code=Code.USAGE)
    if timeout and not wait:
        raise Fail("--timeout is for --wait", hint="add --wait", code=Code.USAGE)
    items = [item_of(path, name) for path in paths]
    if notify_on and not notify_email:
        raise Fail("--notify-on is for --notify-email", hint="add --notify-email", code=Code.USAGE)
    options = {"pipeline": pipeline, "labels": pairs(label or [], "--label"), "idempotency_key": idempotency_key}
    options |= {"callback_url": callback_url, "notify_email": notify_email}
    options |= {"notify_on": notify_on.value if notify_on else None}
    rows: list[dict[str, Any]] = []
    with cli.client(patient=True) as client, Bars(cli) as bars:
        batch = Batch(cli, client, bars, items, options, wait=wait, timeout=seconds_of(timeout))
        if form(cli) is Output.table:
            rows.extend(batch.run(concurrency))  # a table is written when the bars are gone
        else:
            write(cli, batch.run(concurrency), COLUMNS)
    if rows:
        write(cli, rows, COLUMNS)
    return next((item.code for item in items if item.code), Code.OK)
