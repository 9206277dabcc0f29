"""The clock by which things expire: it does not follow one that is put forward, for an hour."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.clock import HeldClock, UnhurriedClock
from tests.jobs import NOON

SECOND = timedelta(seconds=1)
YEAR = timedelta(days=365)


class Ticks:
    def __init__(self) -> None:
        self.wall, self.passed = HeldClock(NOON), 0.0
        self.clock = UnhurriedClock(self.wall, monotonic=lambda: self.passed)

    def wait(self, seconds: float) -> None:
        self.passed += seconds
        self.wall.advance(seconds)


def test_it_goes_with_a_clock_that_goes():
    time = Ticks()
    for _ in range(5):
        time.wait(1000)
        assert time.clock() == time.wall()
    time.wall.advance(9)  # as when it is set to the network's time
    assert time.clock() == time.wall()


@pytest.mark.parametrize("jump", [30 * SECOND, YEAR])
def test_it_follows_one_that_was_put_forward_an_hour_later(jump: timedelta):
    time = Ticks()
    time.wall.advance(jump)
    for _ in range(4):
        assert time.clock() == time.wall() - jump
        time.wait(899)
    assert time.clock() == time.wall() - jump
    time.wait(5)
    assert time.clock() == time.wall()
    time.wait(1)
    assert time.clock() == time.wall()


@pytest.mark.parametrize("jump", [30 * SECOND, YEAR])
def test_it_follows_one_that_was_put_back_at_once(jump: timedelta):
    time = Ticks()
    time.wall.advance(-jump)
    assert time.clock() == time.wall()
    time.wait(1)
    assert time.clock() == time.wall()


def test_a_jump_that_was_taken_back_is_forgotten():
    time = Ticks()
    time.wall.advance(YEAR)
    assert time.clock() == time.wall() - YEAR
    time.wait(3000)
    time.wall.advance(-YEAR)
    assert time.clock() == time.wall()
    time.wait(1000)
    time.wall.advance(YEAR)
    assert time.clock() == time.wall() - YEAR
