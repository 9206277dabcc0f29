"""``intake webhooks``: who is told of the ends of jobs; a running service heeds it at once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.audited import audited
from service.cli.command import Cli, command
from service.cli.exits import Code, Fail
from service.cli.filters import duration_of
from service.cli.server import ConfigOption, DataDirOption, settings_of

if TYPE_CHECKING:
    from service.errors import IntakeError
    from service.notify.endpoints import Endpoint
    from service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Tell other services of the ends of jobs.")


@app.command()
@command()
def add(
    cli: Cli,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to post: https://….")],
    events: Annotated[
        str,
        typer.Option(
            metavar="EVENTS",
            help="job.succeeded, job.failed, job.canceled; separated by commas.",
            show_default="all of them",
        ),
    ] = "",
    description: Annotated[str, typer.Option(metavar="TEXT", help="For people.")] = "",
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell this URL of the end of every job, and print the secret that signs, alone, on stdout.

    It is shown this once. The receiver checks every webhook with it (https://www.standardwebhooks.com).
    """
    from service.clock import utc_now
    from service.notify.endpoints import new_endpoint
    from service.shared import build_endpoints

    settings = settings_of(config, data_dir=data_dir)
    wanted = checked_events(word.strip() for word in events.split(",") if word.strip())
    _require_url(settings, url)
    now = utc_now()
    secret, endpoint = new_endpoint(url, now, events=wanted, description=description).rotated(now, timedelta(0))
    build_endpoints(settings).put(endpoint)
    audited(settings, "webhook.create", endpoint=endpoint.id)
    print(secret)
    cli.say(f"webhook endpoint {endpoint.id} for {url}; keep the secret now, it is not shown again")


@app.command("list")
@command(output=True)
def list_endpoints(cli: Cli, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """List the endpoints, oldest first, without their secrets."""
    from service.cli.output import Column, age, field, write
    from service.shared import build_endpoints

    found = build_endpoints(settings_of(config, data_dir=data_dir)).standing()
    documents = [endpoint.public() for endpoint in found]
    columns = {
        "Id": Column(field("id")),
        "URL": Column(field("url"), cut=True),
        "State": Column(field("state")),
        "Events": Column(lambda one: ", ".join(one["events"]) or "all", wrap=True),
        "Description": Column(field("description"), cut=True, extra=True),
        "Age": Column(age("created_at"), extra=True),
    }
    write(cli, documents, columns, empty="there is no webhook endpoint")


@app.command()
@command()
def remove(
    cli: Cli,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of the endpoints, as `intake webhooks list` shows them.")
    ],
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Remove endpoints: nothing more is sent to them, also of what was waiting."""
    from service.errors import NotFound
    from service.shared import build_endpoints

    settings, code = settings_of(config, data_dir=data_dir), Code.OK
    endpoints = build_endpoints(settings)
    for name in ids:
        try:
            endpoints.remove(name)
        except NotFound as error:
            code = Code(_missing(cli, error))
        else:
            audited(settings, "webhook.delete", endpoint=name)
            cli.say(f"webhook endpoint {name} is removed")
    return code


@app.command()
@command()
def rotate(
    cli: Cli,
    endpoint_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the endpoint.")],
    keep: Annotated[str, typer.Option(metavar="DURATION", help="How long the old secret signs along.")] = "24h",
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Give an endpoint a new secret and print it, alone, on stdout.

    For a while everything is signed with both, so that the receiver can be changed without haste.
    """
    from service.clock import utc_now
    from service.errors import NotFound
    from service.shared import build_endpoints

    now, made = utc_now(), list[str]()
    length = duration_of(keep, "--keep") or timedelta(0)

    def change(endpoint: Endpoint) -> Endpoint:
        secret, after = endpoint.rotated(now, length)
        made.append(secret)
        return after

    settings = settings_of(config, data_dir=data_dir)
    try:
        build_endpoints(settings).change(endpoint_id, change)
    except NotFound as error:
        return _missing(cli, error)
    audited(settings, "webhook.rotate", endpoint=endpoint_id)
    print(made[0])
    cli.say(f"webhook endpoint {endpoint_id} has a new secret; the old one signs along for {keep}")
    return Code.OK


@app.command("callback-secret")
@command()
def callback_secret(
    cli: Cli,
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN_ID", help="Whose jobs: id of a token; without it those of nobody.")
    ] = None,
    keep: Annotated[str, typer.Option(metavar="DURATION", help="How long an old secret signs along.")] = "24h",
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make the secret that signs the callbacks of a token's jobs, and print it, alone, on stdout.

    Clients can do the same by POST /v1/callback-secret. An upload can name its callback_url from then on.
    """
    from service.access.model import is_token_id
    from service.clock import utc_now
    from service.notify.endpoints import Endpoint, callback_id
    from service.shared import build_endpoints

    if token is not None and not is_token_id(token):
        raise typer.BadParameter(f"{token!r} is no id of a token", param_hint="TOKEN_ID")
    now, name = utc_now(), callback_id(token)
    length = duration_of(keep, "--keep") or timedelta(0)
    settings = settings_of(config, data_dir=data_dir)
    endpoints = build_endpoints(settings)
    secret, after = (endpoints.get(name) or Endpoint(id=name, created_at=now)).rotated(now, length)
    endpoints.put(after)
    audited(settings, "webhook.secret", endpoint=name)
    print(secret)
    cli.say("keep the secret now, it is not shown again")


@app.command("test")
@command()
def try_out(
    cli: Cli,
    endpoint_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the endpoint.")],
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Send one webhook.ping to an endpoint now, and say what it answered.

    Exit code 1 if it was not delivered. It is sent from here, and not tried again.
    """
    import asyncio

    from service.errors import NotFound
    from service.notify.ping import ping

    settings = settings_of(config, data_dir=data_dir)
    try:
        outcome = asyncio.run(ping(settings, endpoint_id))
    except NotFound as error:
        return _missing(cli, error)
    audited(settings, "webhook.test", endpoint=endpoint_id, outcome="delivered" if outcome.ok else "failed")
    if outcome.ok:
        cli.say(f"delivered: it answered {outcome.status}")
        return Code.OK
    cli.error(outcome.detail.rstrip("."))
    return Code.ERROR


@app.command()
@command(output=True)
def replay(
    cli: Cli,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB_ID...]", help="Jobs whose ends are told once more.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", metavar="", help="All jobs of which something was given up.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", metavar="", help="What was delivered too, and not only what was given up.")
    ] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Send once more what was given up, under the same ids; the service does it.

    With --dead and --output id it prints the jobs it was done for.
    """
    from contextlib import closing

    from service.cli.output import Column, field, write
    from service.errors import Conflict, NotFound
    from service.notify.replay import replay
    from service.wiring import build

    if bool(ids) == dead:
        raise typer.BadParameter("name jobs, or give --dead", param_hint="JOB_ID")
    with closing(build(settings_of(config, data_dir=data_dir))) as services:
        chosen = services.store.dead_letters() if dead else list(ids or ())
        try:
            done = []
            for job_id in chosen:
                done.append({"id": job_id, "deliveries": replay(services, job_id, delivered=everything)})
                audited(services.settings, "job.replay", job_id=job_id)
        except (NotFound, Conflict) as error:
            return _missing(cli, error)
    columns = {"Job": Column(field("id")), "Deliveries": Column(field("deliveries"))}
    write(cli, done, columns, empty="nothing was given up")
    return Code.OK


def checked_events(words: Any) -> tuple[str, ...]:
    """Return the names of events; one that is none is refused."""
    from service.notify.base import END_EVENTS

    given = tuple(dict.fromkeys(words))
    if unknown := next((word for word in given if word not in END_EVENTS), None):
        raise typer.BadParameter(f"{unknown!r} is no event; there are {', '.join(END_EVENTS)}", param_hint="--events")
    return given


def _missing(cli: Cli, error: IntakeError) -> int:
    code = Code.NOT_FOUND if error.code == "not-found" else Code.REFUSED
    return cli.report(Fail(error.detail.rstrip("."), hint=error.hint, code=code))


def _require_url(settings: Settings, url: str) -> None:
    from service.notify.guard import Guard, RefusedError

    try:
        Guard(settings.names("webhook_allow")).check(url)
    except RefusedError as error:
        raise typer.BadParameter(f"{url[:200]!r}: {error}", param_hint="URL") from None
