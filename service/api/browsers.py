"""What browsers are told: headers that every response carries, and what pages of other origins may read (CORS) and change."""

from __future__ import annotations

from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.problems import problem_of
from service.errors import Forbidden

#: Nothing here is a page, nothing is shown within another, and no address, which may be a signed link, is told to anybody.
SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_SECURITY: Final = [(name.lower().encode(), value.encode()) for name, value in SECURITY.items()]
#: ``/docs``, the one page there is, has a script within itself and shows pictures from its style sheet.
_PAGE: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: What a page of an allowed origin may read beside the few headers that browsers show anyway.
EXPOSED: Final = (
    "Location", "Content-Location", "Retry-After", "ETag", "Link", "Preference-Applied", "Idempotency-Replayed", "RateLimit",
    "RateLimit-Policy", "X-Request-ID", "Content-Disposition", "Repr-Digest", "Accept-Ranges", "Content-Range", "WWW-Authenticate",
)  # fmt: skip
_PREFLIGHT: Final = {b"origin", b"access-control-request-method"}
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE")


def harden(headers: MutableHeaders) -> None:
    """Add the headers to a response that does not have its own."""
    given = {name for name, _ in headers.raw}
    headers.raw.extend(header for header in _SECURITY if header[0] not in given)
    if headers.get("content-type", "").startswith("text/html"):
        headers["Content-Security-Policy"] = _PAGE


def is_foreign(headers: Headers, allowed: tuple[str, ...]) -> bool:
    """Tell whether a request was made by a page of another origin that is not ``allowed``; a program's never is.

    What a browser says of it decides (Fetch Metadata, ``Sec-Fetch-Site``); of one that does not say, the page's ``Origin``
    is compared with the ``Host`` that was asked.
    """
    origins = headers.getlist("origin")
    if "*" in allowed or (origins and all(origin in allowed for origin in origins)):
        return False
    if sites := headers.getlist("sec-fetch-site"):
        return any(site not in ("same-origin", "none") for site in sites)
    return any(origin.partition("://")[2] != headers.get("host") for origin in origins)


def refused(detail: str, **extras: Any) -> Forbidden:
    """Return the error for a page that may not do what it has tried."""
    hint = "The operator can name the page's origin in INTAKE_CORS_ORIGINS, or make a token for it."
    return Forbidden(detail, code="cross-origin-refused", hint=hint, **extras)


class Cors(CORSMiddleware):
    """Starlette's, with a problem document for the refused preflight."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if (
            scope["type"] == "http"
            and scope["method"] == "OPTIONS"
            and {name for name, _ in scope["headers"]} >= _PREFLIGHT
        ):
            answer = self.preflight_response(Headers(scope=scope))
            if answer.status_code != 200:
                error = refused(f"{bytes(answer.body).decode()}.", headers={"Vary": answer.headers["Vary"]})
                await problem_of(Request(scope), error)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)
