"""``intake tokens``: make, list, rotate and revoke the tokens of a data directory; a running service heeds it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.audited import audited
from service.cli.command import Cli, command
from service.cli.exits import Code, Fail
from service.cli.filters import duration_of, size_of
from service.cli.server import ConfigOption, DataDirOption, settings_of

if TYPE_CHECKING:
    from datetime import datetime

    from service.access.model import Scope, Token

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke the tokens that clients send.")


@app.command()
@command()
def create(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it; for people.")],
    scopes: Annotated[
        str, typer.Option(metavar="SCOPES", help="jobs:write, jobs:read, jobs:delete, admin; separated by commas.")
    ] = "jobs:write,jobs:read",
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it is good, such as 30d.", show_default="for ever")
    ] = None,
    quota_jobs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Jobs a day.", show_default="INTAKE_QUOTA_JOBS")
    ] = None,
    quota_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes a day, such as 10GiB.", show_default="INTAKE_QUOTA_BYTES")
    ] = None,
    quota_active: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Jobs at a time.", show_default="INTAKE_QUOTA_ACTIVE")
    ] = None,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a token and print it, alone, on stdout: it is shown this once and kept nowhere.

    From the first token on, the service asks every client for one.
    """
    from service.access.model import new_token
    from service.clock import utc_now
    from service.shared import build_tokens

    now = utc_now()
    lasting = duration_of(expires, "--expires")
    until = None if lasting is None else now + lasting
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise typer.BadParameter("give a name of 1 to 100 printable characters", param_hint="NAME")
    wanted = _scopes(scopes)
    size = size_of(quota_bytes, "--quota-bytes")
    settings = settings_of(config, data_dir=data_dir)
    tokens = build_tokens(settings)
    first = not tokens.any()
    text, kept = new_token(name, wanted, now, expires_at=until)
    tokens.add(kept.model_copy(update={"quota_jobs": quota_jobs, "quota_bytes": size, "quota_active": quota_active}))
    audited(settings, "token.create", token=kept.id, name=name)
    print(text)
    cli.say(f"token {kept.id} for {name}: {_words(kept)}; keep it now, it is not shown again")
    if first:
        cli.say("from now on every client needs a token", style="yellow")


@app.command("list")
@command(output=True)
def list_tokens(cli: Cli, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """List the tokens, oldest first, without their secrets."""
    from service.cli.output import Column, age, field, write
    from service.clock import utc_now
    from service.shared import build_tokens

    now = utc_now()
    documents = [_document(token, now) for token in build_tokens(settings_of(config, data_dir=data_dir)).all()]
    columns = {
        "Id": Column(field("id")),
        "Name": Column(field("name"), cut=True),
        "State": Column(field("state")),
        "Scopes": Column(lambda document: ", ".join(document["scopes"]), wrap=True),
        "Age": Column(age("created_at"), extra=True),
        "Expires": Column(field("expires_at"), extra=True),
    }
    write(cli, documents, columns, empty="there is no token")


@app.command()
@command()
def rotate(
    cli: Cli,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as `intake tokens list` shows it.")],
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Give a token a new secret and print it, alone, on stdout: from the next request on the old one is refused.

    Id, scopes, quotas, expiry, jobs and signed links stay.
    """
    from service.access.model import rotated
    from service.clock import utc_now
    from service.errors import NotFound
    from service.shared import build_tokens

    settings = settings_of(config, data_dir=data_dir)
    tokens = build_tokens(settings)
    shown = ""
    now = utc_now()

    def change(kept: Token) -> Token:
        nonlocal shown
        if not kept.is_valid(now):
            raise Fail(
                f"token {kept.id} has expired or was revoked",
                hint="make another: `intake tokens create`",
                code=Code.REFUSED,
            )
        shown, after = rotated(kept)
        return after

    try:
        token = tokens.change(token_id, change)
    except NotFound as error:
        raise Fail(error.detail.rstrip("."), hint=error.hint, code=Code.NOT_FOUND) from None
    audited(settings, "token.rotate", token=token.id, name=token.name)
    print(shown)
    cli.say(f"token {token.id} for {token.name}: {_words(token)}; its old secret is refused from now on")


@app.command()
@command()
def revoke(
    cli: Cli,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of the tokens, as `intake tokens list` shows them.")
    ],
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Revoke tokens: from the next request on they are refused. Their jobs stay.

    Revoking the last one does not open the service.
    """
    from service.clock import utc_now
    from service.errors import NotFound
    from service.shared import build_tokens

    settings = settings_of(config, data_dir=data_dir)
    tokens = build_tokens(settings)
    now, code = utc_now(), Code.OK
    for token_id in ids:
        try:
            token = tokens.change(token_id, lambda kept: kept.revoked(now))
        except NotFound as error:
            code = Code(cli.report(Fail(error.detail.rstrip("."), hint=error.hint, code=Code.NOT_FOUND)))
        else:
            audited(settings, "token.revoke", token=token.id, name=token.name)
            cli.say(f"token {token.id} for {token.name} is revoked")
    return code


def _scopes(text: str) -> frozenset[Scope]:
    from service.access.model import Scope

    words = [word.strip() for word in text.split(",") if word.strip()]
    known = {str(scope) for scope in Scope}
    if not words or (unknown := [word for word in words if word not in known]):
        found = repr(unknown[0]) if words else "nothing"
        raise typer.BadParameter(f"{found} is no scope; there are {', '.join(Scope)}", param_hint="--scopes")
    return frozenset(Scope(word) for word in words)


def _words(token: Token) -> str:
    until = f"until {token.expires_at:%Y-%m-%d %H:%M} UTC" if token.expires_at else "for ever"
    return f"{', '.join(sorted(token.scopes))}, {until}"


def _document(token: Token, now: datetime) -> dict[str, Any]:
    shown = token.model_dump(mode="json", exclude={"sha256"})
    state = "revoked" if token.revoked_at else "ok" if token.is_valid(now) else "expired"
    return {**shown, "scopes": sorted(token.scopes), "state": state}
