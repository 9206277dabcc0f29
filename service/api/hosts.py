"""Which names the service answers to: those of INTAKE_ALLOWED_HOSTS, if there are any."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem_of
from service.errors import Misdirected

_PROBES: Final = ("/livez", "/readyz")  #: asked by address, by whoever watches over the process


class Hosts:
    """Wraps the application; answers 421 to a Host that is not among ``allowed`` (RFC 9110, section 15.5.20)."""

    def __init__(self, app: ASGIApp, *, allowed: tuple[str, ...]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] == "http" and not scope["path"].endswith(_PROBES):
            name = host_name(Headers(scope=scope).get("host", ""))
            if not any(_matches(name, pattern) for pattern in self._allowed):
                error = Misdirected("The service does not answer to this host.", hint="See INTAKE_ALLOWED_HOSTS.")
                await problem_of(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def host_name(host: str) -> str:
    """Return the name or address in a Host header, in lower case, without its port and brackets."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))
