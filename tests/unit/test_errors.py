"""The tree of errors: as drawn, each with a stable code of its own."""

from __future__ import annotations

import re

import pytest

from service import errors
from service.errors import Conflict, Gone, IntakeError, KeyInFlight, NotFound, QueueFull, Unavailable


def children(cls: type[IntakeError]) -> list[type[IntakeError]]:
    return [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]


def tree(root: type[IntakeError]) -> list[type[IntakeError]]:
    return [root, *(found for child in children(root) for found in tree(child))]


ALL = tree(IntakeError)


def test_the_drawing_shows_every_error_where_it_stands():
    rows = re.findall(r"^    ([│ ├└─]*)([A-Z]\w+)(?: .*)?$", errors.__doc__ or "", flags=re.MULTILINE)
    drawn = [(len(branch) // 4, name) for branch, name in rows]

    def walk(cls: type[IntakeError], depth: int = 0) -> list[tuple[int, str]]:
        return [(depth, cls.__name__), *(row for child in children(cls) for row in walk(child, depth + 1))]

    assert drawn == walk(IntakeError)


def test_codes_are_stable_words_and_nobody_shares_one():
    codes = [cls.code for cls in ALL]

    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", ALL)
def test_every_error_says_when_it_happens_and_has_a_title(cls):
    assert cls.__doc__
    assert cls.__doc__.split("\n")[0].endswith(".")
    assert "title" in vars(cls)
    assert cls.title[0].isupper()


@pytest.mark.parametrize("cls", ALL)
def test_without_words_the_title_is_the_message(cls):
    error = cls()

    assert str(error) == error.detail == cls.title
    assert error.problem == cls.code
    assert (error.hint, error.retry_after, error.extras) == (None, None, {})


def test_an_error_carries_what_its_problem_document_says():
    error = QueueFull("10 jobs wait.", hint="Try later.", code="too-many", retry_after=3, waiting=10)

    assert str(error) == error.detail == "10 jobs wait."
    assert (error.hint, error.problem, error.retry_after, error.extras) == (
        "Try later.",
        "too-many",
        3,
        {"waiting": 10},
    )
    assert QueueFull.code == "queue-full"


def test_a_family_is_caught_by_its_head():
    for cls, head in ((Gone, NotFound), (KeyInFlight, Conflict), (QueueFull, Unavailable)):
        with pytest.raises(head):
            raise cls
