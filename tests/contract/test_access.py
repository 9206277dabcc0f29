"""What tokens, usage, links and endpoints promise wherever they are kept, and what machines that share a database may rely on."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from datetime import timedelta

import pytest

from service.access.links import FileLinks, Link, MemoryLinks
from service.access.model import Scope, new_token
from service.access.postgres_store import PostgresLinks, PostgresTokenStore, PostgresUsage
from service.access.quota import Quota
from service.access.store import judge
from service.durable import Disk
from service.errors import NotFound, TooMany
from service.jobs.postgres.schema import opened
from service.notify.endpoints import KEPT, Endpoint, FileEndpoints, MemoryEndpoints, callback_id, new_endpoint
from service.notify.postgres_endpoints import PostgresEndpoints
from tests.jobs import NOON
from tests.postgres import running
from tests.waiting import wait_until

KINDS = ["file", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres"))]


@pytest.fixture(params=KINDS)
def links(request, tmp_path):
    if request.param == "postgres":
        return PostgresLinks(request.getfixturevalue("database"))
    return MemoryLinks() if request.param == "memory" else FileLinks(tmp_path, disk=Disk(sync=False))


@pytest.fixture(params=KINDS)
def endpoints(request, tmp_path):
    if request.param == "postgres":
        return PostgresEndpoints(request.getfixturevalue("database"))
    return MemoryEndpoints() if request.param == "memory" else FileEndpoints(tmp_path, disk=Disk(sync=False))


def link(nonce: str, *, lasts: int = 900) -> Link:
    return Link(sub=None, nonce=nonce, exp=int(time.time()) + lasts)


def test_the_key_is_made_once(links):
    assert links.key() == links.key()
    assert len(links.key()) == 32


def test_a_link_is_spent_once_it_was_used(links):
    one, other = link("one"), link("other")

    before = links.is_spent(one)
    links.spend(one)
    links.spend(one)

    assert (before, links.is_spent(one), links.is_spent(other)) == (False, True, False)


def test_an_endpoint_is_kept_changed_and_forgotten(endpoints):
    secret, endpoint = new_endpoint("https://hooks.example.org", NOON, events=("job.failed",)).rotated(NOON, KEPT)
    endpoints.put(endpoint)
    found = endpoints.get(endpoint.id)
    changed = endpoints.change(endpoint.id, lambda one: one.evolve(description="new"))

    assert found == endpoint
    assert found.valid_secrets(NOON) == [secret]
    assert endpoints.get(endpoint.id) == changed
    endpoints.remove(endpoint.id)
    assert endpoints.get(endpoint.id) is None
    with pytest.raises(NotFound):
        endpoints.remove(endpoint.id)
    with pytest.raises(NotFound):
        endpoints.change(endpoint.id, lambda one: one)


def test_standing_endpoints_come_oldest_first_and_callbacks_are_none(endpoints):
    times = [NOON + timedelta(minutes=minute) for minute in (2, 0, 1)]
    made = [new_endpoint(f"https://{at.minute}.example.org", at) for at in times]
    callback = Endpoint(id=callback_id("a"), created_at=NOON)
    for one in (*made, callback):
        endpoints.put(one)

    assert endpoints.standing() == sorted(made, key=lambda one: one.created_at)
    assert {one.id for one in endpoints.all()} == {callback.id, *(one.id for one in made)}


def test_nothing_is_known_at_first(endpoints, links):
    assert endpoints.standing() == endpoints.all() == []
    assert endpoints.get("ep_nothing") is None
    assert endpoints.get("../etc/passwd") is None
    assert not links.is_spent(link("x"))


# machines that share a database


@pytest.mark.needs("postgres")
def test_what_one_machine_does_counts_on_the_other_at_once(records_url):
    with (
        closing(opened(records_url, durable=False, size=2)) as one,
        closing(opened(records_url, durable=False, size=2)) as other,
    ):
        here, there = PostgresTokenStore(one), PostgresTokenStore(other)
        text, kept = new_token("scanner", frozenset({Scope.READ}), NOON)
        before = there.any()
        here.add(kept)
        good = judge(there, text, NOON)
        here.change(kept.id, lambda token: token.revoked(NOON))

        assert (before, there.any(), judge(there, text, NOON)) == (False, True, None)
        assert good is not None
        assert PostgresLinks(one).key() == PostgresLinks(other).key()
        PostgresLinks(one).spend(link("n"))
        assert PostgresLinks(other).is_spent(link("n"))
        endpoint = new_endpoint("https://hooks.example.org", NOON)
        PostgresEndpoints(one).put(endpoint)
        assert PostgresEndpoints(other).standing() == [endpoint]


@pytest.mark.needs("postgres")
def test_machines_together_never_go_over_a_quota(records_url):
    refused = []

    def add() -> None:
        with closing(opened(records_url, durable=False, size=1)) as database:
            usage = PostgresUsage(database)
            for _ in range(20):
                try:
                    usage.add("abcdefghij", jobs=1, size=1, now=NOON, quota=Quota(jobs=70))
                except TooMany as error:
                    refused.append(error)

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)

    with closing(opened(records_url, durable=False, size=1)) as database:
        assert PostgresUsage(database).read("abcdefghij").jobs == 70
    assert len(refused) == 30


@pytest.mark.needs("postgres")
def test_links_that_have_ended_are_forgotten(database):
    links = PostgresLinks(database)
    links.spend(link("old", lasts=-3600))
    links.spend(link("new"))

    assert len(database.rows("select link from spent_links")) == 1


@pytest.mark.needs("postgres")
def test_records_that_cannot_be_read_let_nobody_in(database):
    tokens, endpoints = PostgresTokenStore(database), PostgresEndpoints(database)
    text, kept = new_token("scanner", frozenset({Scope.READ}), NOON)
    endpoint = new_endpoint("https://hooks.example.org", NOON)
    tokens.add(kept)
    endpoints.put(endpoint)
    database.run(lambda cursor: cursor.execute("update tokens set token = '{'"))
    database.run(lambda cursor: cursor.execute("update endpoints set endpoint = '{'"))

    assert judge(tokens, text, NOON) is None
    assert tokens.any()
    assert tokens.all() == []
    assert endpoints.standing() == []


@pytest.mark.needs("postgres")
def test_a_server_that_is_away_lets_nobody_in(tmp_path):
    from service.jobs.postgres.schema import migrate

    with running() as server:
        server.sql("create database own")
        migrate(server.url("own"))
        with closing(opened(server.url("own"), durable=False, size=2)) as database:
            tokens = PostgresTokenStore(database)
            text, kept = new_token("scanner", frozenset({Scope.READ}), NOON)
            server.stop()
            with pytest.raises(OSError, match="does not answer"):
                tokens.any()
            with pytest.raises(OSError, match="does not answer"):
                judge(tokens, text, NOON)
            server.start()

            def add() -> bool:
                with suppress(OSError):  # the pool connects by itself
                    tokens.add(kept)
                    return True
                return False

            wait_until(add, 60, "a connection")
            assert judge(tokens, text, NOON)
