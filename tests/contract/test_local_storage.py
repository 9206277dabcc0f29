"""What the local storage does beyond the port: what it syncs and in which order, and what a crash at each point leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import anyio
import pytest

from service.ids import new_id
from service.storage.local import LocalStorage
from tests.contract.watched import WatchedDisk
from tests.jobs import NOON, make_artifact

pytestmark = pytest.mark.anyio


@pytest.fixture
def disk(tmp_path):
    return WatchedDisk(tmp_path / "data")


@pytest.fixture
def storage(disk, tmp_path):
    storage = LocalStorage(tmp_path / "data", disk=disk)
    disk.syncs.clear()
    return storage


@pytest.fixture
def job_id():
    return new_id()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


async def arriving(storage, job_id):
    upload = storage.receive(job_id)
    await upload.write(b"one two three\n")
    await upload.digest()
    return upload


async def test_bytes_are_synced_then_folders_from_the_top_then_the_name(storage, disk, job_id):
    upload = await arriving(storage, job_id)
    assert disk.syncs == []

    await upload.finish()

    folder = storage.folder(job_id).relative_to(storage.root)
    year, month, day = folder.parents[2], folder.parents[1], folder.parents[0]
    assert disk.syncs == [f"incoming/{job_id}", "jobs", str(year), str(month), str(day), str(folder)]
    await upload.close()


async def test_the_place_of_arrival_keeps_its_name_until_the_upload_is_closed(storage, job_id):
    folder = storage.folder(job_id).relative_to(storage.root)
    upload = await arriving(storage, job_id)
    await upload.finish()
    finished = files(storage.root)
    await upload.close()

    assert finished == [f"incoming/{job_id}", f"{folder}/source"]
    assert files(storage.root) == [f"{folder}/source"]


async def test_a_slow_upload_is_written_as_it_comes_and_not_held_until_there_is_a_whole_piece_of_it(storage, job_id):
    arrived = storage.root / "incoming" / job_id
    upload = storage.receive(job_id)
    for _ in range(5):
        await upload.write(b"x" * 20_000)
    assert not arrived.exists()  # what is quick enough is written in larger pieces

    await anyio.sleep(0.3)
    await upload.write(b"y")
    await anyio.sleep(0.3)
    written = arrived.stat().st_size

    stored = await upload.digest()
    await upload.abort()
    assert written == 100_001
    assert (stored.size, stored.sha256) == (100_001, hashlib.sha256(b"x" * 100_000 + b"y").hexdigest())


@pytest.mark.parametrize("what", ["bytes", "name"])
async def test_a_disk_that_fails_to_sync_is_told_and_nothing_stays(storage, disk, job_id, what):
    folder = storage.folder(job_id).relative_to(storage.root)
    upload = await arriving(storage, job_id)
    disk.fail = f"incoming/{job_id}" if what == "bytes" else str(folder)

    with pytest.raises(OSError, match="the disk fails"):
        await upload.finish()
    await upload.abort()
    storage.sweep(NOON)

    assert disk.syncs.count(disk.fail) == 1
    assert files(storage.root) == []


async def test_the_name_that_leads_to_a_leftover_goes_after_the_folder(storage, job_id, monkeypatch):
    upload = await arriving(storage, job_id)
    await upload.finish()
    os.close(upload._descriptor)  # its process is dead

    def fail(*_):
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="the disk fails"):
            storage.delete(job_id)
    found = list(storage.leftovers())
    storage.delete(job_id)

    assert found == [job_id]
    assert list(storage.leftovers()) == []
    storage.sweep(NOON)
    assert files(storage.root) == []


async def test_what_is_published_is_synced_file_step_attempt_job(storage, disk, job_id):
    upload = await arriving(storage, job_id)
    await upload.finish()
    await upload.close()
    workspace = storage.workspace(job_id, 1)
    (workspace / "look").mkdir()
    (workspace / "look" / "out.txt").write_bytes(b"made\n")
    disk.syncs.clear()

    storage.publish(job_id, 1, [("look", make_artifact())])

    folder = storage.folder(job_id).relative_to(storage.root)
    assert disk.syncs == [
        f"{folder}/attempt-1/look/out.txt",
        f"{folder}/attempt-1/look",
        f"{folder}/attempt-1",
        f"{folder}",
    ]


async def test_a_sweep_frees_the_bytes_of_deleted_jobs_and_says_how_many(storage, job_id):
    upload = await arriving(storage, job_id)
    await upload.finish()
    await upload.close()
    storage.delete(job_id)
    trashed = files(storage.root)

    freed = storage.sweep(NOON)

    assert trashed == [f"trash/{job_id}/source"]
    assert freed == len(b"one two three\n")
    assert list((storage.root / "trash").iterdir()) == []


async def test_two_sweeps_at_once_do_not_trip_over_each_other(storage, job_id, monkeypatch):
    (storage.root / "trash" / job_id / "attempt-1").mkdir(parents=True)
    for number in range(3):
        (storage.root / "trash" / job_id / "attempt-1" / f"{number}.txt").write_bytes(b"made\n")
    stat = os.stat

    def raced(path, *arguments, **options):
        for folder in (storage.root / "trash").iterdir() if options.get("dir_fd") else ():
            shutil.rmtree(folder, ignore_errors=True)  # the other one is quicker
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", raced)

    assert storage.sweep(NOON) == 0
    assert list((storage.root / "trash").iterdir()) == []


async def test_stray_files_are_no_uploads(storage):
    (storage.root / "incoming" / "notes.txt").write_text("from an operator")

    assert list(storage.leftovers()) == []
