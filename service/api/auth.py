"""Who makes a request, judged from its headers before one byte of its body is read (RFC 6750).

Routes that take, show or change jobs do not get at them but through ``Writes``, ``Reads`` and ``Deletes``: what they are given
is the service as it is for the one who asks. FastAPI resolves these before the route runs, and no route here lets it read a body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, cast

import structlog
from anyio.to_thread import run_sync
from fastapi import BackgroundTasks, Depends, Request

from service.access.links import used_up, verify
from service.access.model import ANYBODY, Principal, Scope, id_of
from service.access.opening import is_loopback, is_open
from service.access.store import judge, stands_for
from service.api.browsers import is_foreign, refused
from service.api.hosts import host_name
from service.errors import BadRequest, Forbidden, Misdirected, Unauthorized
from service.intake import Intake
from service.wiring import Services

_REALM: Final = "file-intake"
_HINT: Final = "Send a token: Authorization: Bearer fik_…; the operator makes one with `intake tokens create`."


async def authorize(request: Request, scope: Scope | None = None, *, links: bool = False) -> Principal:
    """Return who makes the request and has this scope; with None any good token is enough, with ``links`` a signed link too.

    Raises BadRequest, Unauthorized or Forbidden, with the challenge of RFC 6750, section 3; Misdirected; TooMany.
    """
    linked = links and "sig" in request.query_params
    principal = await (_linked(request) if linked else _principal(request))
    request.state.principal = principal
    if request.app.state.rates is not None:
        await request.app.state.rates.count(request, principal)
    if scope is not None:
        require_scope(principal, scope)
    return principal


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raise Forbidden unless the scope is allowed."""
    if not principal.may(scope):
        raise Forbidden(
            f"The token does not allow this: it lacks {scope}.",
            code="insufficient-scope",
            hint="Use a token with this scope.",
            scope=str(scope),
            headers=_challenge("insufficient_scope", "The token lacks a scope", scope=str(scope)),
        )


async def _principal(request: Request) -> Principal:
    text = _credentials(request)
    services = cast("Intake", request.app.state.intake).services
    if text is None:
        if not await _is_open(services):
            raise Unauthorized(
                "This service wants a token.", hint=_HINT, headers={"WWW-Authenticate": f'Bearer realm="{_REALM}"'}
            )
        if not (services.settings.open or services.settings.allowed_hosts):
            _require_own_name(request)
        _require_own_page(request)
        return ANYBODY
    principal = await run_sync(judge, services.tokens, text, services.clock())
    if principal is None:
        request.state.claimed = id_of(text)
        raise Unauthorized(
            "The token is unknown, has expired, or was revoked.",
            code="token-invalid",
            hint=_HINT,
            headers=_challenge("invalid_token", "The token is unknown, has expired, or was revoked"),
        )
    structlog.contextvars.bind_contextvars(token=principal.id)
    return principal


async def _linked(request: Request) -> Principal:
    """Return for whom a signed link stands: the token that made it, as long as that is good."""
    if _credentials(request) is not None:
        raise _malformed("The request carries a token and a signed link.")
    services = cast("Intake", request.app.state.intake).services
    root, path = services.settings.root_path, request.scope["path"]
    path = path.removeprefix(root) if path.startswith(f"{root}/") else path
    query = request.query_params.multi_items()
    link = verify(await run_sync(services.links.key), request.method, path, query, services.clock())
    if link.sub is None:
        principal = ANYBODY if await _is_open(services) else None
    else:
        principal = await run_sync(stands_for, services.tokens, link.sub, services.clock())
    if principal is None:
        raise Forbidden("Whoever made this link may no longer.", code="link-invalid", hint="Ask for a new one.")
    spent = link.nonce is not None and await run_sync(services.links.is_spent, link)
    if spent:
        raise used_up()
    request.state.link = link
    return principal


async def _is_open(services: Services) -> bool:
    if services.tokens.waits:
        return await run_sync(is_open, services.settings, services.tokens)
    return is_open(services.settings, services.tokens)


def _allowed(scope: Scope | None, *, links: bool = False) -> Callable[[Request, BackgroundTasks], Awaitable[Intake]]:
    async def intake(request: Request, tasks: BackgroundTasks) -> Intake:
        principal = await authorize(request, scope, links=links)
        request.app.state.token_uses.note(request, tasks, principal)
        return cast("Intake", request.app.state.intake).of(principal)

    return intake


#: The service as it is for who asks, where that is allowed.
Writes = Annotated[Intake, Depends(_allowed(Scope.WRITE))]
LinkedWrites = Annotated[Intake, Depends(_allowed(Scope.WRITE, links=True))]  #: or by a signed link
LinkedReads = Annotated[Intake, Depends(_allowed(Scope.READ, links=True))]
Reads = Annotated[Intake, Depends(_allowed(Scope.READ))]
Deletes = Annotated[Intake, Depends(_allowed(Scope.DELETE))]
Administers = Annotated[Intake, Depends(_allowed(Scope.ADMIN))]
Known = Annotated[Intake, Depends(_allowed(None))]  #: any good token will do


def _credentials(request: Request) -> str | None:
    """Return the token that the request carries, if any. Raises BadRequest for two, and for none where one is announced."""
    bearers = []
    for value in request.headers.getlist("authorization"):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            bearers.append(rest.strip())
    found = [*bearers, *(value.strip() for value in request.headers.getlist("x-api-key"))]
    if len(found) > 1:
        raise _malformed("The request carries credentials twice.")
    if found and (not found[0] or any(char.isspace() or not char.isprintable() for char in found[0])):
        raise _malformed("The token in the request is no token.")
    return found[0] if found else None


def _malformed(detail: str) -> BadRequest:
    return BadRequest(
        detail,
        code="credentials-malformed",
        hint="Send one header, either Authorization: Bearer fik_… or X-API-Key: fik_….",
        headers=_challenge("invalid_request", detail.rstrip(".")),
    )


def _challenge(error: str, description: str, **attributes: Any) -> dict[str, str]:
    given = {"realm": _REALM, "error": error, "error_description": description} | attributes
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{name}="{value}"' for name, value in given.items())}


def _require_own_name(request: Request) -> None:
    """Refuse a page of the Internet whose name was made to lead to this machine (DNS rebinding): it sends its own name.

    No page of the Internet has a name without a dot.
    """
    name = host_name(request.headers.get("host", "localhost"))
    if not is_loopback(name) and "." in name:
        raise Misdirected(
            "Without a token, this service answers only to names of this machine.",
            hint="Create a token, name the host in INTAKE_ALLOWED_HOSTS, or set INTAKE_OPEN=true.",
        )


def _require_own_page(request: Request) -> None:
    """Refuse changes by a page of another origin, which any browser sends along that can reach this service (CSRF)."""
    allowed = cast("Intake", request.app.state.intake).services.settings.names("cors_origins")
    if request.method not in ("GET", "HEAD") and is_foreign(request.headers, allowed):
        raise refused("Without a token, a page of another origin changes nothing here.")
