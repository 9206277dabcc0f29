"""Telling a broker of jobs from a thread of its own: nobody waits, nothing is told twice for nothing, and all of it is bounded."""

from __future__ import annotations

import threading

import pytest

from service.engines.dispatch import BrokerAway, Dispatcher
from service.errors import NotFound
from tests.waiting import wait_until


class Post:
    """A broker that takes what it is told, or is away."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.looks = 0
        self.tries = 0
        self.away = False
        self.gate = threading.Event()
        self.gate.set()

    def tell(self, job_id: str) -> None:
        self.tries += 1
        self.gate.wait()
        if self.away:
            raise BrokerAway("nobody there")
        if job_id == "gone":
            raise NotFound("There is no such job.")
        if job_id == "odd":
            raise ZeroDivisionError("an ordinary mistake")
        self.told.append(job_id)

    def look(self) -> None:
        self.looks += 1
        if self.away:
            raise BrokerAway("nobody there")


@pytest.fixture
def post():
    return Post()


@pytest.fixture
def dispatcher(post):
    dispatcher = Dispatcher(post.tell, post.look, room=3, first_wait=0.01)
    yield dispatcher
    post.gate.set()
    dispatcher.stop()


def test_jobs_are_told_of_in_their_order(dispatcher, post):
    assert dispatcher.problem is not None, "nobody has looked yet"
    dispatcher.start()
    assert all(dispatcher.ring(name) for name in "abc")
    wait_until(lambda: post.told == ["a", "b", "c"])
    assert dispatcher.problem is None


def test_whoever_rings_does_not_wait_and_what_has_no_room_is_dropped(dispatcher, post):
    post.gate.clear()
    dispatcher.start()
    dispatcher.ring("a")
    wait_until(lambda: post.tries == 1)
    assert [dispatcher.ring(name) for name in "bcdef"] == [True, True, True, False, False]
    post.gate.set()
    wait_until(lambda: post.told == ["a", "b", "c", "d"])


def test_what_a_broker_that_is_away_did_not_take_is_told_when_it_is_back(dispatcher, post):
    post.away = True
    dispatcher.start()
    dispatcher.ring("a")
    dispatcher.ring("b")
    wait_until(lambda: post.tries > 2)
    assert dispatcher.problem == "nobody there"
    assert post.told == []
    post.away = False
    wait_until(lambda: post.told == ["a", "b"])
    wait_until(lambda: dispatcher.problem is None)


def test_the_waits_between_tries_double_up_to_a_bound(post):
    post.away = True
    dispatcher = Dispatcher(post.tell, post.look)
    waits = []
    for _ in range(8):
        dispatcher._try("a")
        waits.append(dispatcher._wait)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    post.away = False
    dispatcher._try("a")
    assert dispatcher._wait == 0


@pytest.mark.parametrize("name", ["gone", "odd"])
def test_a_job_that_cannot_be_told_of_does_not_hold_up_the_others(dispatcher, post, name):
    dispatcher.start()
    dispatcher.ring(name)
    dispatcher.ring("b")
    wait_until(lambda: post.told == ["b"])


def test_a_broker_that_nobody_has_anything_to_tell_is_looked_at(dispatcher, post):
    dispatcher.start()
    dispatcher.ring("")
    wait_until(lambda: post.looks == 1)
    assert dispatcher.problem is None


def test_at_the_end_what_is_left_is_told(post):
    dispatcher = Dispatcher(post.tell, post.look)
    post.gate.clear()
    dispatcher.start()
    dispatcher.ring("a")
    wait_until(lambda: post.tries == 1)
    dispatcher.ring("b")
    stopping = threading.Thread(target=dispatcher.stop)
    stopping.start()
    post.gate.set()
    stopping.join()
    assert post.told == ["a", "b"]


def test_the_end_does_not_wait_for_a_broker_that_is_away(post):
    post.away = True
    dispatcher = Dispatcher(post.tell, post.look, first_wait=60)
    dispatcher.start()
    dispatcher.ring("a")
    wait_until(lambda: post.tries == 1)
    wait_until(lambda: dispatcher.problem == "nobody there")
    dispatcher.stop()
    assert (post.tries, post.told) == (1, [])
