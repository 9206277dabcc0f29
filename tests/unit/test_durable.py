"""File operations that promise something: what is visible when, what is synced in which order, who holds a lock."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.durable import CommitUnknown, Disk, free_bytes, is_locked, locked, open_lock


class Watched(Disk):
    """A disk that writes down each sync with what the file held at that moment, and fails the one it is told to."""

    def __init__(self, target: Path | None = None, *, fail: str | None = None) -> None:
        super().__init__()
        self.target = target
        self.fail = fail
        self.syncs: list[tuple[str, bytes | None]] = []

    def sync_file(self, descriptor):
        self._note(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        super().sync_file(descriptor)

    def sync_folder(self, folder):
        self._note(f"{folder.name}/")
        super().sync_folder(folder)

    def _note(self, name):
        self.syncs.append((name, self.target.read_bytes() if self.target and self.target.exists() else None))
        if name == self.fail:
            raise OSError(errno.EIO, "the disk fails")


def test_a_write_syncs_the_file_before_it_is_visible_and_its_name_after(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    target = folder / "job.json"
    disk = Watched(target)

    disk.write(target, b"old")
    disk.write(target, b"new")

    assert disk.syncs == [("job.json.new", None), ("job/", b"old"), ("job.json.new", b"old"), ("job/", b"new")]
    assert [path.name for path in folder.iterdir()] == ["job.json"]


def test_a_failed_sync_of_the_file_leaves_the_old_content_and_no_trace(tmp_path):
    target = tmp_path / "job.json"
    target.write_bytes(b"old")
    disk = Watched(target, fail="job.json.new")

    with pytest.raises(OSError, match="the disk fails") as caught:
        disk.write(target, b"new")

    assert not isinstance(caught.value, CommitUnknown)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
    assert len(disk.syncs) == 1  # a second sync of the same file would lie


def test_a_failed_sync_of_the_folder_is_an_unknown_commit(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    target = folder / "job.json"

    with pytest.raises(CommitUnknown) as caught:
        Watched(target, fail="job/").write(target, b"new")

    assert caught.value.errno == errno.EIO
    assert target.read_bytes() == b"new"


def test_a_write_that_the_disk_takes_in_part_only_is_no_write(tmp_path):
    target = tmp_path / "job.json"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Disk().write(target, b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_readers_see_whole_contents_only(tmp_path):
    target = tmp_path / "job.json"
    contents = [bytes([value]) * 50_000 for value in b"ab"]
    disk = Disk(sync=False)
    disk.write(target, contents[0])
    seen = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        disk.write(target, contents[number % 2])
    done.set()
    reader.join()

    assert seen <= set(contents)


def test_without_durability_a_write_is_atomic_and_unsynced(tmp_path):
    disk = Watched(tmp_path / "note")

    disk.write(tmp_path / "note", b"text", durable=False)

    assert disk.syncs == []
    assert (tmp_path / "note").read_bytes() == b"text"


def test_a_disk_without_sync_calls_no_fsync(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("synced"))
    disk = Disk(sync=False)

    disk.make_folders(tmp_path / "a" / "b")
    disk.write(tmp_path / "a" / "b" / "file", b"text")

    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"text"


def test_new_folders_are_synced_into_their_parents_from_the_top(tmp_path):
    disk = Watched()
    disk.make_folders(tmp_path)
    disk.syncs.clear()

    disk.make_folders(tmp_path / "jobs" / "2026" / "11")

    assert [name for name, _ in disk.syncs] == [f"{tmp_path.name}/", "jobs/", "2026/"]
    assert (tmp_path / "jobs" / "2026" / "11").is_dir()


def test_a_folder_this_disk_has_made_costs_nothing_more(tmp_path):
    disk = Watched()
    disk.make_folders(tmp_path / "jobs" / "2026")
    disk.syncs.clear()

    disk.make_folders(tmp_path / "jobs" / "2026")

    assert disk.syncs == []


def test_a_folder_somebody_else_is_just_making_is_synced_by_whoever_builds_on_it(tmp_path):
    disk = Watched()
    disk.make_folders(tmp_path / "jobs")
    disk.syncs.clear()
    (tmp_path / "jobs" / "22").mkdir()  # by another process, which has not synced it yet

    disk.make_folders(tmp_path / "jobs" / "22" / "one")
    disk.make_folders(tmp_path / "jobs" / "22" / "two")

    assert [name for name, _ in disk.syncs] == ["jobs/", "22/", "22/"]


def test_a_folder_that_exists_is_synced_once_by_each_process(tmp_path):
    (tmp_path / "keys").mkdir()
    disk = Watched()

    disk.make_folders(tmp_path / "keys")
    disk.make_folders(tmp_path / "keys")

    assert [name for name, _ in disk.syncs] == [f"{tmp_path.name}/"]


def test_a_folder_that_was_removed_is_made_again(tmp_path):
    disk = Disk()
    disk.make_folders(tmp_path / "a" / "b")
    shutil.rmtree(tmp_path / "a")

    disk.make_folders(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b").is_dir()


def test_a_lock_is_held_by_one_at_a_time_and_freed_at_the_end(tmp_path):
    path = tmp_path / "lock"

    with locked(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    assert not is_locked(path)


def test_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lock"
    order = []

    def follow() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=follow)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_shared_locks_stand_together_and_against_an_exclusive_one(tmp_path):
    path = tmp_path / "lock"

    with locked(path, shared=True), locked(path, shared=True, wait=False), pytest.raises(BlockingIOError):
        open_lock(path, wait=False)


def test_a_folder_can_be_locked(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_a_missing_file_is_not_locked_and_not_made_by_looking(tmp_path):
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_a_lock_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_lock(tmp_path / "gone" / "lock")


def test_the_kernel_frees_the_lock_of_a_process_that_dies(tmp_path):
    path = tmp_path / "lock"
    code = """if True:
        import sys
        from pathlib import Path
        from service.durable import open_lock
        open_lock(Path(sys.argv[1]))
        print(flush=True)
        input()
    """
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"\n"
        assert is_locked(path)
        holder.kill()
        holder.wait()

        assert not is_locked(path)


def test_free_bytes_are_those_of_the_folder(tmp_path):
    assert 0 < free_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total
