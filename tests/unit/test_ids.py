"""Ids: ordered by time, and nothing that is one can lead a caller astray."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ids import created_at, first_id, is_id, new_id
from service.jobs.folders import job_folder
from tests.jobs import NOON, make_id

bounds = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
moments = bounds.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def test_ids_of_one_process_sort_by_their_making():
    ids = [new_id() for _ in range(1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_an_id_tells_when_it_was_made():
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    assert before <= created_at(new_id()) <= datetime.now(UTC)


@given(moments)
def test_the_moment_of_an_id_is_exact_to_the_millisecond(moment):
    assert created_at(make_id(moment)) == moment


@given(moments, bounds)
def test_a_bound_parts_ids_at_its_moment(moment, bound):
    assert (make_id(moment) >= first_id(bound)) == (moment >= bound)


@given(moments, st.integers(1, 999))
def test_a_bound_between_two_milliseconds_belongs_to_the_later(moment, microseconds):
    bound = moment + timedelta(microseconds=microseconds)

    assert make_id(moment) < first_id(bound) <= make_id(moment + timedelta(milliseconds=1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "0199c1f2-0000-7000-8000-00000000000",
        "0199c1f2-0000-7000-8000-0000000000000",
        "0199C1F2-0000-7000-8000-000000000000",
        "0199c1f2-0000-4000-8000-000000000000",
        "0199c1f2-0000-7000-c000-000000000000",
        "0199c1f2000070008000000000000000",
        "{0199c1f2-0000-7000-8000-000000000000}",
        "0199c1f2-0000-7000-8000-00000000000\n",
        "0199c1f2-0000-7000-8000-00000000000٣",
        "../../../../../etc/passwd/0199c1f2-00",
    ],
)
def test_only_the_canonical_form_of_a_uuid7_is_an_id(text):
    assert not is_id(text)


def test_an_id_later_than_any_date_is_none(tmp_path):
    assert is_id("e677d21f-dbff-7fff-bfff-ffffffffffff")
    assert job_folder(tmp_path, "e677d21f-dbff-7fff-bfff-ffffffffffff").parent == tmp_path / "jobs/9999/12/31"
    assert not is_id("e677d21f-dc00-7000-8000-000000000000")
    assert not is_id("ffffffff-ffff-7fff-bfff-ffffffffffff")


def test_the_folder_follows_from_the_id(tmp_path):
    job_id = make_id(NOON)

    assert job_folder(tmp_path, job_id) == tmp_path / "jobs" / "2026" / "11" / "22" / job_id
