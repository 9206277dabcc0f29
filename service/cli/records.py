"""The commands for the records of jobs: migrate, export, import."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.command import Cli, command
from service.cli.exits import Code
from service.cli.server import ConfigOption, DataDirOption, settings_of

if TYPE_CHECKING:
    from service.transfer import Moved

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the export.")]


@command()
def migrate(
    cli: Cli,
    check: Annotated[
        bool, typer.Option("--check", metavar="", help="Change nothing; exit code 1 if there is something to do.")
    ] = False,
    config: ConfigOption = None,
) -> int:
    """Bring the PostgreSQL database that INTAKE_RECORDS names up to the schema of this version.

    The service does not start on another one. Run it before the new version starts; running it twice, or from several
    machines at once, does no harm.
    """
    from service import records

    before, after = records.migrate(settings_of(config), check=check)
    if before == after:
        cli.say(f"the schema is at {after}; there is nothing to do")
        return Code.OK
    if check:
        has = f"is at {before}" if before else "has no tables yet"
        cli.error(f"the database {has}, and this version needs {after}", "run `intake migrate`")
        return Code.ERROR
    cli.say(f"the schema is at {after} now; it {'was at ' + before if before else 'is new'}")
    return Code.OK


@command()
def export(cli: Cli, folder: FolderArgument, data_dir: DataDirOption = None, config: ConfigOption = None) -> int:
    """Write the records of all jobs into a folder, to be imported where INTAKE_RECORDS names another place.

    The service must be stopped. Only records are written: bytes stay in the data directory, which both places use.
    """
    from service import transfer, wiring

    with closing(wiring.build(settings_of(config, data_dir=data_dir))) as services:
        return _tell(cli, transfer.export(services, folder), "exported; the bytes stay in the data directory")


@command()
def import_(cli: Cli, folder: FolderArgument, data_dir: DataDirOption = None, config: ConfigOption = None) -> int:
    """Take the records of an export that are not there yet, or are older there.

    The service must be stopped. The bytes must be in the data directory. Running it twice is the same as once.
    """
    from service import transfer, wiring

    with closing(wiring.build(settings_of(config, data_dir=data_dir))) as services:
        return _tell(cli, transfer.load(services, folder), "imported; the bytes are not touched")


def _tell(cli: Cli, moved: Moved, done: str) -> int:
    for reason in moved.failed:
        cli.error(reason)
    skipped = f", {moved.skipped} were there already" if moved.skipped else ""
    failed = f", {len(moved.failed)} could not be" if moved.failed else ""
    cli.say(f"{moved.records} records {done}{skipped}{failed}")
    return Code.ERROR if moved.failed else Code.OK
