"""The commands for whoever runs the service: serve, worker, gc, doctor, fsck, health, version."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.command import Cli, command
from service.cli.exits import Code

if TYPE_CHECKING:
    from service.findings import Finding
    from service.settings import Settings

_PANEL = "Settings"


class Ready(StrEnum):
    """How ``intake serve`` tells on stdout that it takes uploads."""

    text = "text"
    json = "json"
    off = "off"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with settings.", show_default="INTAKE_CONFIG"),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Directory of all records and bytes.",
        show_default="uploads",
        rich_help_panel=_PANEL,
    ),
]


@command()
def serve(
    _: Cli,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Address to listen on.", show_default="127.0.0.1", rich_help_panel=_PANEL),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=65535, help="Port; 0 takes a free one.", show_default="8000", rich_help_panel=_PANEL
        ),
    ] = None,
    data_dir: DataDirOption = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="API processes.", show_default="1", rich_help_panel=_PANEL)
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Path prefix a proxy publishes it under.", rich_help_panel=_PANEL),
    ] = None,
    config: ConfigOption = None,
    ready: Annotated[
        Ready, typer.Option(help="Say when uploads are taken: a line for people on stderr, JSON on stdout.")
    ] = Ready.text,
) -> int:
    """Run the service: the API and, on this machine, the jobs.

    Flags go before INTAKE_ variables, those before the settings file. Ctrl-C or SIGTERM ends it after running
    attempts had
    their chance to finish.
    """
    settings = settings_of(config, host=host, port=port, data_dir=data_dir, workers=workers, root_path=root_path)
    import service.server

    return service.server.serve(settings, ready=ready.value)


@command()
def worker(
    _: Cli,
    data_dir: DataDirOption = None,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots",
            "--concurrency",
            metavar="N",
            min=1,
            help="Jobs at the same time.",
            show_default="cores, at most 4",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Queues to take jobs from, such as image,bulk; with the engine celery.",
            show_default="all",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Run jobs without an API.

    Another process of the service takes the uploads. With the engine celery, any number of workers may run, on any
    machines.
    """
    settings = settings_of(config, data_dir=data_dir, slots=slots, queues=queues)
    if settings.engine == "celery":
        import service.execution.worker

        return service.execution.worker.serve(settings)
    from service.errors import ConfigError

    if queues:
        raise ConfigError("--queues: the engine local has none; it is for INTAKE_ENGINE=celery")
    import service.execution.supervisor

    return service.execution.supervisor.serve(settings)


@command(output=True)
def gc(
    cli: Cli,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only tell what would be deleted.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete expired jobs and what interrupted uploads left behind.

    The service does so by itself now and then; this is for doing it at once.
    """
    from service import maintenance, wiring
    from service.cli.output import field, size, write_one
    from service.kernel import give_way

    give_way()
    collected = maintenance.collect(wiring.build(settings_of(config, data_dir=data_dir)), dry_run=dry_run)
    found = {"expired": collected.expired, "swept": collected.swept, "bytes": collected.bytes, "dry_run": dry_run}
    rows = {"Expired jobs": field("expired"), "Left-overs": field("swept"), "Freed": size("bytes")}
    write_one(cli, found, rows)


@command(output=True)
def doctor(cli: Cli, data_dir: DataDirOption = None, config: ConfigOption = None) -> int:
    """Check that the service can run well on this machine.

    Looks at settings, processors, disk, supervisor and records. Exit code 1 if something is wrong.
    """
    from service.doctor import diagnose

    return _tell(cli, diagnose(settings_of(config, data_dir=data_dir)))


@command(output=True)
def fsck(
    cli: Cli,
    repair: Annotated[bool, typer.Option("--repair", metavar="", help="Bring back what can be brought back.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Read every byte of the data directory and tell what is not as it was written.

    It may run beside the service. A repair deletes nothing that might be the only copy: what belongs to no job goes to
    lost+found/. Exit code 1 if something is wrong and still is.
    """
    from contextlib import closing

    from service.doctor import examine
    from service.wiring import build

    with closing(build(settings_of(config, data_dir=data_dir))) as services:
        return _tell(cli, list(examine(services, deep=True, repair=repair)))


def _tell(cli: Cli, findings: list[Finding]) -> int:
    from service.cli.output import Column, field, write

    documents = [{"level": f.level, "subject": f.subject, "detail": f.detail, "hint": f.hint} for f in findings]
    columns = {
        "": Column(field("level")),
        "What": Column(field("subject")),
        "Found": Column(field("detail"), wrap=True),
        "What to do": Column(field("hint"), wrap=True),
    }
    write(cli, documents, columns, key="subject")
    return Code.ERROR if any(f.level == "fail" for f in findings) else Code.OK


@command(server=True)
def health(
    cli: Cli,
    timeout: Annotated[float, typer.Option(metavar="N", min=0.1, help="Seconds to wait for the answer.")] = 3,
    worker: Annotated[
        bool, typer.Option("--worker", metavar="", help="Ask for an `intake worker` of this machine instead.")
    ] = False,
    config: ConfigOption = None,
) -> int:
    """Ask the service whether it takes uploads.

    Exit code 0 if so, else 1: made for the health checks of containers. Without --server or INTAKE_SERVER, it asks
    the address that `intake serve` listens on with the same settings. A worker has no address: --worker asks over the
    broker, with the engine local by the lock of the data directory.
    """
    if worker:
        return _worker_health(cli, settings_of(config), timeout)
    import urllib.error
    import urllib.request

    url = (cli.server or _own_address(settings_of(config))).rstrip("/") + "/readyz"
    if not url.startswith(("http://", "https://")):
        cli.error(f"{url} is not the address of a service", "write it like http://127.0.0.1:8000")
        return Code.USAGE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a health check never leaves by a proxy
    try:
        with opener.open(url, timeout=timeout):
            cli.say("ready")
            return Code.OK
    except urllib.error.HTTPError as error:
        cli.error(f"{url} answered {error.code}: not ready")
    except OSError as error:
        cli.error(f"{url} does not answer: {getattr(error, 'reason', error)}")
    return Code.ERROR


@command()
def version(_: Cli) -> None:
    """Print the version."""
    from service import __version__

    print(__version__)


def settings_of(config: Path | None, **flags: Any) -> Settings:
    """Return the settings with these flags over them; those that are None do not count."""
    from service.settings import Settings

    return Settings.load(config, **flags)


def _worker_health(cli: Cli, settings: Settings, timeout: float) -> int:
    from service.engine import build_worker
    from service.engines.dispatch import BrokerAway
    from service.jobs.lease import is_led

    try:
        is_celery, root = settings.engine == "celery", settings.data_dir.resolve()
        is_there = build_worker(settings).answers(timeout) if is_celery else is_led(root)
    except BrokerAway as error:
        cli.error(f"the broker does not answer: {error}")
        return Code.ERROR
    if is_there:
        cli.say("runs")
        return Code.OK
    cli.error("no worker answers here")
    return Code.ERROR


def _own_address(settings: Settings) -> str:
    if settings.server != type(settings).model_fields["server"].default:
        return settings.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - replaced, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
