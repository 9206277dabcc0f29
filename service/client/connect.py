"""Which service to talk to, and how to get there."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING

import httpx

from service import __version__
from service.client.operations import Api
from service.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.client.errors import ClientError


def connect(
    url: str | None,
    *,
    token: str | None,
    timeout: float,
    retries: int,
    on_retry: Callable[[ClientError, float], None] | None,
) -> Api:
    """Return the operations on the service at ``url``, or at INTAKE_SERVER; ConfigError when that is not an address.

    ``token`` goes with every request; None takes that of INTAKE_TOKEN, an empty one sends none.
    """
    if url is None or token is None:
        from service.settings import Settings

        settings = Settings.load()
        url = settings.server if url is None else url
        token = settings.token.get_secret_value() if token is None and settings.token else token
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r} is not the address of a service", hint="write it like http://127.0.0.1:8000")
    headers = {"Accept": "application/json", "User-Agent": f"file-intake/{__version__}"}
    if token:
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError("INTAKE_TOKEN is no token", hint="`intake tokens create NAME` prints one")
        headers["Authorization"] = f"Bearer {token}"
    return Api(url.rstrip("/"), timeout=timeout, retries=retries, headers=headers, on_retry=on_retry)


def loopback(url: str) -> bool:
    """Tell whether ``url`` is on this machine, where no proxy of the environment can reach it."""
    host = httpx.URL(url).host
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
