"""Where webhooks may go, by address, spelling, port and exception."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from service.errors import ConfigError
from service.notify.guard import Guard, RefusedError, is_public, resolve

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fec0::1",
    "ff00::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "172.15.255.255",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
]
SPELLINGS = ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "127.0.0.1"]


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_what_is_not_on_the_internet_or_leads_elsewhere_is_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_on_the_internet_is_public(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("host", SPELLINGS)
def test_every_spelling_of_this_machine_is_refused_when_it_is_resolved(host):
    with pytest.raises(RefusedError, match="not on the Internet"):
        asyncio.run(Guard().addresses(host, 80))


def answering(*addresses):
    async def resolve(host, port):
        return list(addresses)

    return resolve


def test_of_several_addresses_only_the_public_ones_are_connected_to():
    guard = Guard(resolve=answering("10.0.0.1", "8.8.8.8", "::1", "2606:4700:4700::1111"))
    assert asyncio.run(guard.addresses("hooks.example.org", 443)) == ["8.8.8.8", "2606:4700:4700::1111"]


def test_a_link_local_address_with_its_zone_is_refused():
    with pytest.raises(RefusedError):
        asyncio.run(Guard(resolve=answering("fe80::1%eth0")).addresses("hooks.example.org", 443))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org/in",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "gopher://hooks.example.org/",
        "https://",
        "https:///path",
        "https://user@hooks.example.org/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org/#part",
        "https://hooks.example.org:0x50/",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org:22/",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/a\r\nHost: other",
        "https://hooks.exämple.org/",
        "https://[::1/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "https://hooks.example.org/" + "a" * 2000,
    ],
)
def test_a_url_that_cannot_be_right_is_refused_at_once(url):
    with pytest.raises(RefusedError):
        Guard().check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/in?key=1",
        "http://hooks.example.org",
        "https://hooks.example.org:443/",
        "http://8.8.8.8/",
    ],
)
def test_a_url_of_the_internet_is_taken(url):
    Guard().check(url)


def test_exceptions_are_hosts_patterns_and_networks():
    guard = Guard(["hooks.lan", "*.inside", "10.1.0.0/16", "::1/128"])
    for url in ("http://hooks.lan:8080/", "https://a.inside/", "http://10.1.2.3:9000/", "http://[::1]:9000/"):
        guard.check(url)
    for url in ("http://10.2.0.1/", "http://127.0.0.1/", "http://[::ffff:10.2.0.1]/"):
        with pytest.raises(RefusedError):
            guard.check(url)


def test_an_allowed_name_may_lead_anywhere_and_another_may_not_lead_where_networks_do_not_reach():
    guard = Guard(["hooks.lan", "10.1.0.0/16"], resolve=answering("127.0.0.1"))
    assert asyncio.run(guard.addresses("hooks.lan", 8080)) == ["127.0.0.1"]
    with pytest.raises(RefusedError):
        asyncio.run(guard.addresses("other.lan", 8080))


def test_a_wrong_exception_stops_the_start():
    with pytest.raises(ConfigError, match=r"INTAKE_WEBHOOK_ALLOW=10\.1\.0\.0/33"):
        Guard(["10.1.0.0/33"])


def test_names_are_resolved_by_the_system():
    assert set(asyncio.run(resolve("localhost", 80))) <= {"127.0.0.1", "::1"}
