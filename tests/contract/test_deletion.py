"""Jobs that are deleted together: each or all of those whose own disk has not failed, in the order of one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from service.deletion import Deleting, delete_apart, delete_together
from service.errors import Conflict, Gone, NotFound, OutcomeUnknown
from service.jobs.file_store import FileJobStore
from service.jobs.model import Job
from service.jobs.store import JobQuery
from service.joint import Joint
from service.maintenance import sweep_job
from service.storage.local import LocalStorage
from tests.contract.watched import WatchedDisk
from tests.jobs import NOON, make_id, make_job


@dataclass
class Rig:
    disk: WatchedDisk
    store: FileJobStore
    storage: LocalStorage
    delete_all: Deleting

    def done(self, number: int) -> list[str]:
        """Add so many jobs that are over; return their ids in order."""
        jobs = sorted((make_job(labels={"box": "7"}) for _ in range(number)), key=lambda job: job.id)
        for job in jobs:
            self.store.create(job)
            (self.store.folder(job.id) / "source").write_bytes(b"content")
            self.store.update(job.id, lambda job: job.canceled(NOON))
        self.disk.syncs.clear()
        return [job.id for job in jobs]

    def delete(self, job_ids: Sequence[str]) -> list[type[Exception] | None]:
        """Delete them; return what each is told."""
        return [error and type(error) for error in self.delete_all(job_ids, no_check)]

    def listed(self) -> set[str]:
        return {job.id for job in self.store.page(JobQuery(labels={"box": "7"}, limit=500)).jobs}

    def is_gone(self, job_id: str) -> bool:
        """Tell whether nothing is left of the job but its tombstone."""
        with pytest.raises(Gone):
            self.store.get(job_id)
        assert job_id not in self.store.pending()
        return not self.store.folder(job_id).exists()


def no_check(job: Job) -> None:
    pass


@pytest.fixture(params=[delete_apart, delete_together])
def way(request: pytest.FixtureRequest) -> Callable[..., Sequence[Exception | None]]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def rig(tmp_path: Path, way: Callable[..., Sequence[Exception | None]]) -> Iterator[Rig]:
    root = tmp_path / "data"
    disk = WatchedDisk(root)
    store, storage = FileJobStore(root, disk=disk), LocalStorage(root, disk=disk)
    store.listing.rebuild()
    yield Rig(disk, store, storage, partial(way, store, storage))
    store.close()


only_together = pytest.mark.parametrize("way", [delete_together])


@pytest.mark.parametrize("number", [1, 3, 40])
def test_all_are_gone_with_their_bytes_and_rows_and_leave_tombstones(rig: Rig, number: int) -> None:
    *those, stays = rig.done(number + 1)

    assert rig.delete(those) == [None] * number

    assert all(rig.is_gone(job_id) for job_id in those)
    assert rig.listed() == {stays}
    assert rig.storage.sweep(NOON) > number * len(b"content")
    assert list((rig.storage.root / "trash").iterdir()) == []
    assert rig.store.get(stays).done


def test_one_that_is_to_stay_or_is_not_there_keeps_no_other(rig: Rig) -> None:
    first, stays, last = those = rig.done(3)

    def check(job: Job) -> None:
        if job.id == stays:
            raise Conflict("not this one")

    told = rig.delete_all([*those, make_id()], check)

    assert [error and type(error) for error in told] == [None, Conflict, None, NotFound]
    assert rig.is_gone(first)
    assert rig.is_gone(last)
    assert rig.store.get(stays).id == stays
    assert stays not in rig.store.pending()
    with rig.storage.source(stays) as source:
        assert source.read_bytes() == b"content"


def test_a_corrupt_one_goes_with_the_others(rig: Rig) -> None:
    corrupt, other = rig.done(2)
    (rig.store.folder(corrupt) / "job.json").write_bytes(b"?")

    assert rig.delete([corrupt, other]) == [None, None]

    with pytest.raises(NotFound):
        rig.store.get(corrupt)
    assert not rig.store.folder(corrupt).exists()


@only_together
def test_a_few_sync_the_folders_they_share_once(rig: Rig) -> None:
    those = rig.done(3)
    folders = [str(rig.store.folder(job_id).relative_to(rig.storage.root)) for job_id in those]
    days = dict.fromkeys(folder.rpartition("/")[0] for folder in folders)

    rig.delete(those)

    assert rig.disk.syncs == ["pending", *folders, *days]


@only_together
def test_many_sync_the_file_system_before_and_after_their_records_go_and_once_for_their_bytes(rig: Rig) -> None:
    those = rig.done(5)
    stages: list[tuple[bool, bool, bool]] = []

    class Watching(Joint):
        def end(self, *, barrier: bool = False) -> None:
            super().end(barrier=barrier)
            assert barrier
            folders = [rig.store.folder(job_id) for job_id in those]
            marked = set(those) <= set(rig.store.pending())
            stages.append((marked, (folders[0] / "job.json").exists(), folders[0].exists()))

    with Watching(rig.disk, rig.storage.root) as joint:
        assert rig.store.delete_all(those, no_check, joint) == [None] * 5
        assert rig.storage.delete_all(those, joint) == [None] * 5

    assert rig.disk.syncs == []
    assert stages == [(True, True, True), (True, False, True), (True, False, False)]


@only_together
@pytest.mark.parametrize("stage", ["pending", "record", "bytes"])
def test_where_the_disk_fails_in_the_middle_nothing_is_lost_sight_of(rig: Rig, stage: str) -> None:
    those = rig.done(3)
    folder = str(rig.store.folder(those[1]).relative_to(rig.storage.root))
    rig.disk.fail = {"pending": "pending", "record": folder, "bytes": folder.rpartition("/")[0]}[stage]

    told = rig.delete(those)

    assert told == [OutcomeUnknown if stage == "record" else OSError] * 3
    assert set(those) <= set(rig.store.pending()), "so that whoever looks at them finds what is left"
    rig.disk.fail = None
    for job_id in those:
        if stage == "pending":
            assert rig.store.settle(job_id), "it is as it was"
        else:
            assert sweep_job(rig.store, rig.storage, job_id)
    assert rig.store.pending() == []
    assert rig.listed() == (set(those) if stage == "pending" else set())
