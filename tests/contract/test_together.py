"""Uploads that are committed together: all of them or those whose own disk has not failed, in the order of one alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.acceptance import Acceptance, Together
from service.access.quota import Allowance, MemoryUsage, Quota
from service.errors import NotFound, OutcomeUnknown, TooMany
from service.jobs.file_store import FileJobStore
from service.jobs.model import Job
from service.jobs.store import JobQuery
from service.joint import Joint
from service.storage.local import LocalStorage
from service.storage.local_upload import SMALL, LocalUpload
from tests.contract.watched import WatchedDisk
from tests.jobs import NOON, make_job

pytestmark = pytest.mark.anyio


@dataclass
class Rig:
    disk: WatchedDisk
    store: FileJobStore
    storage: LocalStorage
    together: Together

    async def arrived(self, content: bytes = b"content", allowance: Allowance | None = None) -> Acceptance:
        """Return an upload that waits for its commit."""
        job = make_job()
        upload = self.storage.receive(job.id)
        await upload.write(content)
        await upload.digest()
        return Acceptance(upload=upload, job=job, allowance=allowance)

    async def accept(self, *those: Acceptance) -> list[BaseException | None]:
        """Commit these at once; return what each is told."""
        self.disk.syncs.clear()
        return list(await asyncio.gather(*map(self.together.accept, those), return_exceptions=True))

    def promised(self, one: Acceptance, content: bytes = b"content") -> bool:
        """Tell whether bytes, record, marker and row are there."""
        with self.storage.source(one.job.id) as source:
            assert source.read_bytes() == content
        listed = [job.id for job in self.store.page(JobQuery(limit=500)).jobs]
        return self.store.get(one.job.id) == one.job and one.job.id in listed and one.job.id in self.store.pending()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    root = tmp_path / "data"
    disk = WatchedDisk(root)
    store, storage = FileJobStore(root, disk=disk), LocalStorage(root, disk=disk)
    store.listing.rebuild()
    rig = Rig(disk, store, storage, Together(store, storage))
    assert await rig.accept(await rig.arrived()) == [None]  # the day's folder is there
    yield rig
    rig.together.close()
    store.close()


@pytest.mark.parametrize("number", [1, 3, 40])
async def test_all_are_promised_and_nothing_is_left_in_incoming(rig: Rig, number: int) -> None:
    those = [await rig.arrived() for _ in range(number)]

    assert await rig.accept(*those) == [None] * number

    assert all(rig.promised(one) for one in those)
    assert list((rig.storage.root / "incoming").iterdir()) == []


async def test_big_ones_are_synced_before_they_join_the_others(rig: Rig) -> None:
    big = b"x" * (SMALL + 1)
    those = [await rig.arrived(big), await rig.arrived()]

    assert await rig.accept(*those) == [None, None]

    assert rig.promised(those[0], big)
    own = f"incoming/{those[0].job.id}"
    assert rig.disk.syncs.count(own) == 2, "by itself, and with the others, when there is nothing left to write"


async def test_a_few_sync_each_file_by_itself_and_the_folders_they_share_once(rig: Rig) -> None:
    those = [await rig.arrived() for _ in range(3)]
    folders = [str(rig.store.folder(one.job.id).relative_to(rig.storage.root)) for one in those]
    days = {folder.rpartition("/")[0] for folder in folders}

    await rig.accept(*those)

    assert rig.disk.syncs == [
        *(f"incoming/{one.job.id}" for one in those),
        *sorted(days),
        *folders,
        "pending",
        *(f"{folder}/job.json.new" for folder in folders),
        *folders,
    ]


async def test_many_sync_the_file_system_before_and_after_their_records_get_their_names(rig: Rig) -> None:
    those = [await rig.arrived() for _ in range(5)]
    rig.disk.syncs.clear()
    stages: list[tuple[bool, bool]] = []

    class Watching(Joint):
        def end(self, *, barrier: bool = False) -> None:
            super().end(barrier=barrier)
            stages.append((barrier, all((rig.store.folder(one.job.id) / "job.json").exists() for one in those)))

    with Watching(rig.disk, rig.storage.root) as joint:
        assert rig.storage.place_all([one.upload for one in those], joint) == [None] * 5
        assert rig.store.create_all([one.job for one in those], joint) == [None] * 5
    for one in those:
        one.upload.leave()

    assert rig.disk.syncs == []
    assert [named for barrier, named in stages if barrier] == [False, True]
    assert all(rig.promised(one) for one in those)


Failing = Callable[[Job], str]


@pytest.mark.parametrize("where", [lambda job: f"incoming/{job.id}", lambda job: f"{job.id}/job.json.new"])
async def test_one_whose_file_cannot_be_synced_fails_alone(rig: Rig, where: Failing) -> None:
    those = [await rig.arrived() for _ in range(3)]
    rig.disk.fail = where(those[1].job)

    first, failed, last = await rig.accept(*those)

    assert (first, type(failed), last) == (None, OSError, None)
    assert rig.promised(those[0])
    assert rig.promised(those[2])
    with pytest.raises(NotFound):
        rig.store.get(those[1].job.id)
    assert those[1].job.id not in rig.store.pending()
    await those[1].upload.abort()
    assert not rig.store.folder(those[1].job.id).exists()


async def test_a_shared_folder_that_cannot_be_synced_fails_all_before_any_record(rig: Rig) -> None:
    those = [await rig.arrived() for _ in range(3)]
    before = rig.store.pending()
    rig.disk.fail = "pending"

    assert [type(error) for error in await rig.accept(*those)] == [OSError] * 3

    assert rig.store.pending() == before
    for one in those:
        with pytest.raises(NotFound):
            rig.store.get(one.job.id)


async def test_when_the_last_sync_fails_nobody_knows_and_nothing_is_taken_away(rig: Rig) -> None:
    those = [await rig.arrived() for _ in range(3)]

    class Failing(Joint):
        def end(self, *, barrier: bool = False) -> None:
            if (rig.store.folder(those[0].job.id) / "job.json").exists():
                raise OSError(5, "the disk fails")
            super().end(barrier=barrier)

    with Failing(rig.disk) as joint:
        rig.storage.place_all([one.upload for one in those], joint)
        errors = rig.store.create_all([one.job for one in those], joint)

    assert [type(error) for error in errors] == [OutcomeUnknown] * 3
    assert {one.job.id for one in those} <= set(rig.store.pending())
    for one in those:
        assert rig.store.get(one.job.id) == one.job


async def test_those_of_one_token_do_not_take_one_place_together(rig: Rig) -> None:
    usage = MemoryUsage()
    allowance = Allowance("token", Quota(active=2), usage=usage, active=lambda _: 0, clock=lambda: NOON)
    those = [await rig.arrived(allowance=allowance) for _ in range(3)]

    told = await rig.accept(*those)

    assert [type(error) for error in told] == [type(None), type(None), TooMany]
    assert usage.read("token").jobs == 2
    assert rig.store.pending().count(those[2].job.id) == 0


async def test_a_job_that_fails_is_not_charged(rig: Rig) -> None:
    usage = MemoryUsage()
    allowance = Allowance("token", Quota(jobs=9), usage=usage, active=lambda _: 0, clock=lambda: NOON)
    those = [await rig.arrived(allowance=allowance) for _ in range(2)]
    rig.disk.fail = f"incoming/{those[0].job.id}"

    told = await rig.accept(*those)

    assert [type(error) for error in told] == [OSError, type(None)]
    assert usage.read("token").jobs == 1


async def test_an_upload_that_is_left_has_nothing_to_close(rig: Rig) -> None:
    one = await rig.arrived()
    await rig.accept(one)
    upload: LocalUpload = one.upload
    await upload.close()

    assert rig.promised(one)
