"""Turns: every owner gets one, in the order in which they had their last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.execution.turns import Turns


def taken(turns: Turns) -> list[str]:
    found = []
    while turns:
        found.append(turns.take())
    return found


def filled(*ids: str) -> Turns:
    """Return turns of ids whose first letter is their owner."""
    turns = Turns()
    for one in ids:
        turns.add(one, one[0])
    return turns


def test_one_owner_is_served_in_order():
    assert taken(filled("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_owners_take_turns_whatever_order_they_came_in():
    assert taken(filled("a1", "a2", "a3", "b1", "c1", "c2")) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_who_comes_late_is_next_and_has_one_turn_like_all():
    turns = filled("a1", "a2", "a3", "a4")
    assert turns.take() == "a1"
    turns.add("b1", "b")
    turns.add("b2", "b")
    assert taken(turns) == ["b1", "a2", "b2", "a3", "a4"]


def test_who_comes_again_and_again_with_one_job_has_no_more_turns_than_others():
    turns, found = filled("a1", "a2", "a3"), []
    for number in range(3):
        turns.add(f"b{number}", "b")
        found += [turns.take(), turns.take()]
    assert [one[0] for one in found].count("a") == 3


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_everything_comes_out_once_and_nobody_waits_longer_than_a_round(owners: list[str]):
    ids = [f"{owner}{number}" for number, owner in enumerate(owners)]
    turns = filled(*ids)
    assert len(turns) == len(ids)
    order = taken(turns)
    assert sorted(order) == sorted(ids)
    for owner in set(owners):
        mine = [one for one in ids if one[0] == owner]
        assert [one for one in order if one[0] == owner] == mine
        for number, one in enumerate(mine):
            assert order.index(one) < (number + 1) * len(set(owners))
