"""Brokers for the tests of this folder: one server of each kind for a test process. Tests clear it, and may stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import NEEDS, Broker, running

KINDS = [pytest.param(kind, marks=pytest.mark.needs(*needed)) for kind, needed in NEEDS.items()]


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Broker]:
    """Give RabbitMQ."""
    with running("rabbitmq") as broker:
        yield broker


@pytest.fixture(scope="session")
def redis() -> Iterator[Broker]:
    """Give Redis."""
    with running("redis") as broker:
        yield broker


@pytest.fixture(scope="session", params=KINDS)
def broker(request: pytest.FixtureRequest) -> Broker:
    """Give each kind of broker in turn."""
    broker: Broker = request.getfixturevalue(request.param)
    return broker
