"""Whether the service may be used without a token: on this machine alone, or where somebody has said so."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from functools import lru_cache

from service.access.store import TokenStore
from service.errors import ConfigError
from service.settings import Settings


def require_tokens_or_loopback(settings: Settings, tokens: TokenStore) -> None:
    """Raise ConfigError when strangers could do everything: no token, and an address that others can reach."""
    if settings.open or is_loopback(settings.host) or tokens.any():
        return
    raise ConfigError(
        f"INTAKE_HOST={settings.host}: others can reach this address, and there is no token yet",
        hint="create one with `intake tokens create NAME`, or set INTAKE_OPEN=true if everybody may do everything",
    )


def is_open(settings: Settings, tokens: TokenStore) -> bool:
    """Tell whether requests without credentials are anybody's at this moment: as long as there is no token."""
    return (settings.open or is_loopback(settings.host)) and not tokens.any()


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Tell whether ``host``, as in a URL or without its brackets, names this machine and no other can reach it."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost" or host.lower().endswith(".localhost")
