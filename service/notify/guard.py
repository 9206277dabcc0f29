"""Where webhooks may go: never into the service's own network, unless somebody has said so.

A URL is judged twice. When it is given, by what it says; when something is sent, by the addresses that its host has at that
moment, and the connection is made to an address that was judged, not to the name: a name that changes its mind between the two
changes nothing. ``is_global`` of Python is not enough by itself: it lets through what only leads to such addresses (NAT64, 6to4,
Teredo, IPv4-compatible), multicast, and site-local ones.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from service.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]

_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 2000  #: characters of a URL
_LEAD_ELSEWHERE: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # carriers' own
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "::/96",  # IPv4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local
    )
)


class RefusedError(Exception):
    """A webhook may not go there; the message says why, for whoever gave the URL."""


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the Internet, and not a way round to another."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback)
        and not address.is_link_local
        and not any(address in network for network in _LEAD_ELSEWHERE)
    )


def literal(host: str) -> Address | None:
    """Return the address that a host of a URL is, without its brackets; None for a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0])
    return None


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the system knows them now. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """The rule, with its exceptions: ``allow`` names hosts (``hooks.local``, ``*.lan``) and networks (``10.1.0.0/16``)."""

    def __init__(self, allow: Sequence[str] = (), *, resolve: Resolve = resolve) -> None:
        self._resolve = resolve
        self._hosts: list[str] = []
        self._networks: list[Network] = []
        for entry in allow:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or ":" in entry:
                    raise ConfigError(
                        f"INTAKE_WEBHOOK_ALLOW={entry}: write hosts and networks, such as hooks.lan, 10.1.0.0/16"
                    ) from None
                self._hosts.append(entry)

    def check(self, url: str) -> str:
        """Judge a URL by what it says, and return its host. Raises RefusedError."""
        if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
            raise RefusedError("it is no URL, or longer than 2000 characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise RefusedError("it is no URL") from None
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in _PORTS or not host:
            raise RefusedError("it does not begin with https:// or http:// and a host")
        if parts.username is not None or parts.password is not None:
            raise RefusedError("it has a user name in it")
        if parts.fragment:
            raise RefusedError("it has a fragment")
        self._judge(host, port or _PORTS[parts.scheme], literal(host))
        return host

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses that a connection may be made to now. Raises RefusedError when there is none, and OSError."""
        found = await self._resolve(host, port)
        refused: RefusedError | None = None
        good = []
        for text in found:
            try:
                self._judge(host, port, ipaddress.ip_address(text.partition("%")[0]))
                good.append(text)
            except RefusedError as error:
                refused = error
        if not good:
            raise refused or RefusedError(f"{host} has no address")
        return good

    def _judge(self, host: str, port: int, address: Address | None) -> None:
        if any(fnmatchcase(host.lower().rstrip("."), pattern) for pattern in self._hosts):
            return
        if address is not None and any(self._is_in(address, network) for network in self._networks):
            return
        if address is not None and not is_public(address):
            raise RefusedError(f"{host} is not on the Internet, and INTAKE_WEBHOOK_ALLOW does not name it")
        if port not in _PORTS.values() and (address is not None or not self._networks):
            raise RefusedError(f"port {port} is not 80 or 443, and INTAKE_WEBHOOK_ALLOW does not name {host}")

    @staticmethod
    def _is_in(address: Address, network: Network) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return address in network or (mapped is not None and mapped in network)
