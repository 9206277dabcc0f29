"""What tests share that speak plain HTTP."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

#: No certificates: for each client without this, httpx reads those of the world's authorities, which takes 20 ms of a core.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def answers(url: str) -> bool:
    """Tell whether a service answers at this address, of its own or of a proxy."""
    try:
        return httpx.get(f"{url}/livez", trust_env=False, verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False
