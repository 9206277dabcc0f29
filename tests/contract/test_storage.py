"""What every storage promises, run against each of them."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.durable import Disk
from service.errors import StorageFull
from service.ids import new_id
from service.storage.base import Storage, Stored, Upload
from service.storage.keys import marker_key
from service.storage.local import LocalStorage
from service.storage.local_upload import PIECE
from service.storage.memory import MemoryStorage
from tests.jobs import NOON, make_artifact
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.s3 import S3Server

pytestmark = pytest.mark.anyio
BYTES = b"one two three\n"
MANY = BYTES * 10_000  # too many to be held in memory


@dataclass
class Rig:
    """A storage under test, and what a test cannot do through its port."""

    storage: Storage
    die: Callable[[Upload], Awaitable[None]]  #: do what the death of an upload's process does
    full: Callable[[], Storage]  #: makes one without room
    files: Callable[[], list[str]]  #: what it has of jobs, wherever that is
    full_files: Callable[[], list[str]]


def files_in(root: Path) -> Callable[[], list[str]]:
    return lambda: [str(path) for path in root.rglob("*") if path.is_file()]


def local_rig(root: Path, _: object) -> Rig:
    async def die(upload: Upload) -> None:
        os.close(upload._descriptor)  # the kernel closes its descriptor, and with that its lock is free

    return Rig(
        LocalStorage(root / "data", disk=Disk(sync=False)),
        die,
        lambda: LocalStorage(root / "full", disk=Disk(sync=False), reserve=2**60),
        files_in(root / "data"),
        files_in(root / "full"),
    )


def memory_rig(_: Path, __: object) -> Rig:
    async def die(upload: Upload) -> None:
        del upload
        gc.collect()

    storage, full = MemoryStorage(), MemoryStorage(room=0)
    return Rig(storage, die, lambda: full, files_in(storage._folder), files_in(full._folder))


def s3_rig(root: Path, request: pytest.FixtureRequest) -> Rig:
    """Have a bucket; a full one is behind a proxy that says so."""
    server: S3Server = request.getfixturevalue("s3")
    from service.storage.objects import ObjectStorage

    name, full_name = server.create_bucket(), server.create_bucket()
    storage = ObjectStorage(server.bucket(name), root / "scratch")

    async def die(upload: Upload) -> None:
        upload._renewing.cancel()
        server.age(name, marker_key(upload._job_id))  # long after its last sign of life

    def files() -> list[str]:
        return server.keys(name) + [path for path in files_in(root / "scratch")() if not path.endswith("/lock")]

    def full() -> Storage:
        way = request.getfixturevalue("s3_proxy")
        way.trouble.judge = lambda method, _: 507 if method in ("PUT", "POST") else None
        return ObjectStorage(server.bucket(full_name, endpoint=way.url), root / "scratch-full")

    return Rig(storage, die, full, files, lambda: server.keys(full_name))


RIGS = {
    "local": local_rig,
    "memory": memory_rig,
    "s3": s3_rig,
}


@pytest.fixture(params=RIGS)
def rig(request, tmp_path):
    return RIGS[request.param](tmp_path, request)


@pytest.fixture
def s3_proxy(s3):
    from tests.s3 import proxy

    with proxy(s3) as way:
        yield way


@pytest.fixture
def storage(rig):
    return rig.storage


@pytest.fixture
def job_id():
    return new_id()


def read(storage: Storage, job_id: str) -> bytes:
    with storage.source(job_id) as path:
        return path.read_bytes()


async def stored(storage: Storage, job_id: str, *pieces: bytes) -> Stored:
    upload = storage.receive(job_id)
    for piece in pieces or (BYTES,):
        await upload.write(piece)
    result = await upload.digest()
    await upload.finish()
    await upload.close()
    return result


async def arriving(storage: Storage, job_id: str) -> Upload:
    """Return an upload whose bytes have arrived and are in no place yet."""
    upload = storage.receive(job_id)
    await upload.write(MANY)
    await upload.digest()
    return upload


def made(storage: Storage, job_id: str, attempt: int, **files: bytes):
    """Make files in the workspace of an attempt, as its process would, and return what it reports."""
    workspace = storage.workspace(job_id, attempt)
    reported = []
    for step, data in files.items():
        (workspace / step).mkdir()
        (workspace / step / "out.txt").write_bytes(data)
        reported.append((step, make_artifact(attempt=attempt, data=data)))
    return reported


def fetched(storage: Storage, job_id: str, step: str, artifact) -> bytes | None:
    try:
        with storage.artifact(job_id, step, artifact) as path:
            return path.read_bytes()
    except FileNotFoundError:
        return None


# uploads


async def test_a_source_is_stored_as_it_arrived(storage, job_id):
    pieces = [b"one ", b"", b"two ", b"three\n"]

    result = await stored(storage, job_id, *pieces)

    assert read(storage, job_id) == BYTES
    assert result == Stored(size=len(BYTES), sha256=hashlib.sha256(BYTES).hexdigest())


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
@pytest.mark.parametrize("chunk", [2**16, 2 * PIECE + 3])
async def test_sources_of_all_sizes_are_stored_and_hashed(storage, job_id, size, chunk):
    data = os.urandom(size)

    result = await stored(storage, job_id, *(data[at : at + chunk] for at in range(0, size, chunk)))

    assert result == Stored(size=size, sha256=hashlib.sha256(data).hexdigest())
    assert read(storage, job_id) == data


async def test_the_size_is_known_while_the_source_arrives(storage, job_id):
    upload = storage.receive(job_id)
    sizes = [upload.size]
    for piece in (b"one", b" two"):
        await upload.write(piece)
        sizes.append(upload.size)
    await upload.abort()

    assert sizes == [0, 3, 7]


async def test_a_source_is_in_its_place_only_when_it_is_finished(storage, job_id):
    upload = await arriving(storage, job_id)
    with pytest.raises(FileNotFoundError), storage.source(job_id):
        pass

    await upload.finish()

    assert read(storage, job_id) == MANY
    await upload.close()


async def test_an_upload_is_alive_until_it_is_closed(storage, job_id):
    before = storage.is_receiving(job_id)
    upload = await arriving(storage, job_id)
    arrived = storage.is_receiving(job_id)
    await upload.finish()
    finished = storage.is_receiving(job_id)
    living = list(storage.leftovers())
    await upload.close()

    assert (before, arrived, finished, storage.is_receiving(job_id)) == (False, True, True, False)
    assert living == list(storage.leftovers()) == []


@pytest.mark.parametrize("point", ["begun", "written", "digested", "finished"])
async def test_an_aborted_upload_leaves_nothing(rig, job_id, point):
    storage = rig.storage
    upload = storage.receive(job_id)
    if point != "begun":
        await upload.write(BYTES)
    if point in ("digested", "finished"):
        await upload.digest()
    if point == "finished":
        await upload.finish()

    await upload.abort()
    await upload.abort()

    with pytest.raises(FileNotFoundError), storage.source(job_id):
        pass
    assert not storage.is_receiving(job_id)
    assert list(storage.leftovers()) == []
    storage.sweep(NOON)
    assert rig.files() == []


async def test_a_closed_upload_cannot_be_aborted_any_more(storage, job_id):
    upload = await arriving(storage, job_id)
    await upload.finish()
    await upload.close()

    await upload.abort()

    assert read(storage, job_id) == MANY


async def test_uploads_do_not_mix(storage):
    ids = [new_id() for _ in range(5)]
    uploads = [storage.receive(job_id) for job_id in ids]
    for _ in range(3):
        for number, upload in enumerate(uploads):
            await upload.write(str(number).encode() * 10)
    for upload in uploads:
        await upload.digest()
        await upload.finish()
        await upload.close()

    assert [read(storage, job_id) for job_id in ids] == [str(number).encode() * 30 for number in range(5)]


async def test_a_full_storage_refuses_and_is_left_as_it_was(rig, job_id):
    full = rig.full()
    upload = full.receive(job_id)

    async def send() -> None:
        await upload.write(BYTES)
        await upload.digest()

    with pytest.raises(StorageFull) as caught:
        await send()
    await upload.abort()

    assert caught.value.retry_after
    assert full.free() <= 0
    assert list(full.leftovers()) == []
    assert rig.full_files() == []


async def test_free_room_is_what_can_still_be_written(storage):
    assert storage.free() > 2**20
    storage.probe()


# what a dead process leaves


@pytest.mark.parametrize("point", ["arrived", "finished"])
async def test_what_a_dead_process_left_is_found_and_can_be_deleted(rig, job_id, point):
    storage = rig.storage
    alive = await arriving(storage, new_id())
    upload = await arriving(storage, job_id)
    if point == "finished":
        await upload.finish()
    dead, upload = upload, None
    dying = rig.die(dead)
    del dead
    await dying

    assert list(storage.leftovers()) == [job_id]
    assert not storage.is_receiving(job_id)
    storage.delete(job_id)
    assert list(storage.leftovers()) == []
    with pytest.raises(FileNotFoundError), storage.source(job_id):
        pass
    await alive.abort()
    storage.sweep(NOON)
    assert rig.files() == []


async def test_what_a_dead_process_committed_is_tidied_and_kept(rig, job_id):
    storage = rig.storage
    upload = await arriving(storage, job_id)
    await upload.finish()
    dead, upload = upload, None
    dying = rig.die(dead)
    del dead
    await dying

    assert list(storage.leftovers()) == [job_id]
    storage.tidy(job_id)
    storage.tidy(job_id)

    assert list(storage.leftovers()) == []
    assert read(storage, job_id) == MANY


# artifacts


async def test_artifacts_are_published_as_they_were_made(storage, job_id):
    await stored(storage, job_id)
    reported = made(storage, job_id, 1, look=b"seen", count=b"three words")

    storage.publish(job_id, 1, reported)

    assert [fetched(storage, job_id, step, artifact) for step, artifact in reported] == [b"seen", b"three words"]


async def test_publishing_nothing_is_fine(storage, job_id):
    await stored(storage, job_id)
    storage.workspace(job_id, 1)

    storage.publish(job_id, 1, [])


def shorten(path: Path) -> None:
    path.write_bytes(b"se")


def lengthen(path: Path) -> None:
    path.write_bytes(b"seen more")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_link(path: Path) -> None:
    secret = path.parents[2] / "secret"
    secret.write_bytes(b"seen")
    path.unlink()
    path.symlink_to(secret)


def replace_folder_by_link(path: Path) -> None:
    folder = path.parents[2] / "secrets"
    path.parent.rename(folder)
    path.parent.symlink_to(folder)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "tamper",
    [shorten, lengthen, remove, replace_by_link, replace_folder_by_link, replace_by_fifo, replace_by_folder],
)
async def test_an_artifact_that_is_not_as_reported_is_refused(storage, job_id, tamper):
    await stored(storage, job_id)
    path = storage.workspace(job_id, 1) / "look" / "out.txt"
    path.parent.mkdir()
    path.write_bytes(b"seen")
    tamper(path)

    with pytest.raises(OSError, match=r"."):
        storage.publish(job_id, 1, [("look", make_artifact(data=b"seen"))])


async def test_a_workspace_is_empty_whatever_was_there_before(storage, job_id):
    await stored(storage, job_id)
    made(storage, job_id, 1, look=b"half")

    assert list(storage.workspace(job_id, 1).iterdir()) == []


async def test_attempts_have_workspaces_of_their_own(storage, job_id):
    await stored(storage, job_id)
    first, second = made(storage, job_id, 1, look=b"first"), made(storage, job_id, 2, look=b"second")
    storage.publish(job_id, 1, first)
    storage.publish(job_id, 2, second)

    assert fetched(storage, job_id, *first[0]) == b"first"
    assert fetched(storage, job_id, *second[0]) == b"second"


async def test_attempts_that_nothing_needs_are_pruned(storage, job_id):
    await stored(storage, job_id)
    first, second = made(storage, job_id, 1, look=b"first"), made(storage, job_id, 2, look=b"second")
    storage.publish(job_id, 1, first)
    storage.publish(job_id, 2, second)
    made(storage, job_id, 3, look=b"never published")

    storage.prune(job_id, [second[0][1]])

    assert fetched(storage, job_id, *first[0]) is None
    assert fetched(storage, job_id, *second[0]) == b"second"
    assert read(storage, job_id) == BYTES


async def test_pruning_leaves_other_jobs_alone(storage, job_id):
    other = new_id()
    await stored(storage, job_id)
    await stored(storage, other)
    reported = made(storage, other, 1, look=b"kept")
    storage.publish(other, 1, reported)

    storage.prune(job_id, [])

    assert fetched(storage, other, *reported[0]) == b"kept"


async def test_a_lost_artifact_is_not_found(storage, job_id):
    await stored(storage, job_id)

    with pytest.raises(FileNotFoundError), storage.artifact(job_id, "look", make_artifact()):
        pass


# reading bytes where they are


async def test_a_source_is_read_where_it_is_from_any_position(storage, job_id):
    await stored(storage, job_id)
    content = storage.source_content(job_id)

    assert content.size == len(BYTES)
    for start in (0, 4, len(BYTES) - 1):
        with content.open(start) as file:
            assert file.read() == BYTES[start:]
    with content.open() as file:
        assert (file.read(3), file.read(5), file.read(100), file.read(1)) == (BYTES[:3], BYTES[3:8], BYTES[8:], b"")


async def test_an_artifact_is_read_where_it_is(storage, job_id):
    await stored(storage, job_id)
    reported = made(storage, job_id, 1, look=b"seen", none=b"")
    storage.publish(job_id, 1, reported)

    for step, artifact in reported:
        content = storage.artifact_content(job_id, step, artifact)
        with content.open() as file:
            assert (content.size, file.read()) == (artifact.size, b"seen"[: artifact.size])


async def test_what_is_lost_cannot_be_read(storage, job_id):
    with pytest.raises(FileNotFoundError):
        storage.source_content(job_id)
    with pytest.raises(FileNotFoundError):
        storage.artifact_content(job_id, "look", make_artifact())


async def test_jobs_with_bytes_are_found(storage):
    ids = {new_id() for _ in range(3)}
    for job_id in ids:
        await stored(storage, job_id)
        storage.publish(job_id, 1, made(storage, job_id, 1, look=b"seen"))

    assert set(storage.walk()) == ids


async def test_a_closed_source_is_told_from_one_that_may_be_a_leftover(storage, job_id):
    before = storage.is_closed(job_id)
    upload = await arriving(storage, job_id)
    await upload.finish()
    finished = storage.is_closed(job_id)
    await upload.close()

    assert (before, finished, storage.is_closed(job_id)) == (False, False, True)


# delete, sweep


async def test_a_deleted_job_has_no_bytes(rig, job_id):
    storage = rig.storage
    await stored(storage, job_id)
    reported = made(storage, job_id, 1, look=b"seen")
    storage.publish(job_id, 1, reported)

    storage.delete(job_id)
    storage.delete(job_id)

    with pytest.raises(FileNotFoundError), storage.source(job_id):
        pass
    assert fetched(storage, job_id, *reported[0]) is None
    assert storage.sweep(NOON) >= 0
    assert storage.sweep(NOON) == 0
    assert rig.files() == []


async def test_deleting_what_was_never_there_is_fine(storage, job_id):
    storage.delete(job_id)
    storage.tidy(job_id)
    storage.prune(job_id, [])

    assert list(storage.leftovers()) == []


# several processes: storages that more than one can see


@pytest.fixture
def shared(tmp_path):
    return LocalStorage(tmp_path / "data", disk=Disk(sync=False))


def test_an_upload_in_another_process_is_alive_until_that_dies(shared, job_id, tmp_path):
    code = """if True:
        import asyncio, sys
        from pathlib import Path
        from service.storage.local import LocalStorage
        async def main():
            upload = LocalStorage(Path(sys.argv[1])).receive(sys.argv[2])
            await upload.write(b"x" * 2**20)
            await upload.write(b"x" * 2**20)
            print(flush=True)
            input()
        asyncio.run(main())
    """
    command = [sys.executable, "-c", code, tmp_path / "data", job_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as uploader:
        assert uploader.stdout.readline() == b"\n"
        alive = shared.is_receiving(job_id), list(shared.leftovers())
        uploader.kill()

    assert alive == (True, [])
    assert wait_until(lambda: not shared.is_receiving(job_id))
    assert list(shared.leftovers()) == [job_id]
    shared.delete(job_id)
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
