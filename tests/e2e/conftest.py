"""Brokers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import NEEDS, Broker, running

KINDS = [pytest.param(kind, marks=pytest.mark.needs(*needed)) for kind, needed in NEEDS.items()]


@pytest.fixture(scope="session", params=KINDS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Give each kind of broker in turn: one server of each for a test process. Tests clear it, and may stop it."""
    with running(request.param) as broker:
        yield broker
