"""What the storage of objects does beyond the port: parts, signs of life, and a server that fails at any call."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import tracemalloc

import pytest

from service.errors import ConfigError, OutcomeUnknown, StorageFull
from service.ids import new_id
from service.storage.base import StorageUnreachable
from service.storage.keys import marker_key, source_key
from service.storage.objects import PART, ObjectStorage
from tests.http import NO_TLS
from tests.jobs import NOON, make_artifact
from tests.s3 import SECRET_KEY, proxy
from tests.waiting import find_free_port

pytestmark = pytest.mark.anyio
BYTES = b"one two three\n"


@pytest.fixture
def name(s3):
    return s3.create_bucket()


@pytest.fixture(scope="module")
def shared_way(s3):
    with proxy(s3) as way:
        yield way, s3.bucket("unnamed", endpoint=way.url)


@pytest.fixture
def way(shared_way):
    """Give the way to the server, on which nothing goes wrong yet."""
    way, _ = shared_way
    yield way
    way.trouble.gate.set()
    way.trouble.judge = lambda method, path: None
    way.trouble.seen.clear()


@pytest.fixture
def storage(s3, way, shared_way, name, tmp_path):
    bucket = shared_way[1]
    bucket.address = s3.bucket(name, prefix="a/b").address  # the client is slow to make, and knows of no bucket
    return ObjectStorage(bucket, tmp_path / "scratch")


@pytest.fixture
def job_id():
    return new_id()


async def stored(storage, job_id, data=BYTES):
    upload = storage.receive(job_id)
    await upload.write(data)
    result = await upload.digest()
    await upload.finish()
    await upload.close()
    return result


def read(storage, job_id):
    with storage.source_content(job_id).open() as file:
        return file.read()


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART + 7])
@pytest.mark.parametrize("chunk", [2**16, 3 * PART])
async def test_sources_of_any_number_of_parts_are_stored_and_hashed(storage, job_id, size, chunk):
    data = os.urandom(size)
    upload = storage.receive(job_id)

    for at in range(0, size, chunk):
        await upload.write(data[at : at + chunk])
    result = await upload.digest()
    await upload.finish()
    await upload.close()

    assert (result.size, result.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert read(storage, job_id) == data


async def test_what_arrives_in_parts_is_seen_only_when_it_is_finished(s3, storage, name, job_id):
    upload = storage.receive(job_id)
    await upload.write(b"x" * (PART + 1))
    await upload.digest()
    arrived = s3.keys(name)
    await upload.finish()
    finished = s3.keys(name)
    await upload.close()

    marker, source = f"a/b/{marker_key(job_id)}", f"a/b/{source_key(job_id)}"
    assert (arrived, finished, s3.keys(name)) == ([marker, f"{source}+"], [marker, source], [source])


async def test_memory_does_not_grow_with_the_file(s3, name, tmp_path):
    storage = ObjectStorage(s3.bucket(name), tmp_path)  # without the proxy, which is in this process
    piece, peaks = os.urandom(2**18), []
    tracemalloc.start()
    try:
        for parts in (4, 16):
            upload = storage.receive(new_id())
            tracemalloc.reset_peak()
            began = tracemalloc.get_traced_memory()[0]
            for _ in range(parts * PART // len(piece)):
                await upload.write(piece)
            await upload.digest()
            peaks.append(tracemalloc.get_traced_memory()[1] - began)
            await upload.abort()
    finally:
        tracemalloc.stop()

    assert max(peaks) < 4 * PART
    assert peaks[1] < peaks[0] + PART


async def test_parts_are_large_enough_for_the_largest_file(s3, name, tmp_path):
    largest = 200 * 2**30

    storage = ObjectStorage(s3.bucket(name), tmp_path, largest=largest)

    assert storage.part * 10_000 >= largest
    assert ObjectStorage(s3.bucket(name), tmp_path, largest=2**30).part == PART


@pytest.mark.parametrize("point", ["begun", "parts", "digested"])
async def test_a_server_that_goes_away_refuses_and_what_is_left_is_swept(s3, storage, way, name, job_id, point):
    """Nobody can remove anything meanwhile; afterwards the marker leads to all of it."""
    upload = storage.receive(job_id)

    async def send() -> None:
        await upload.write(b"x" * (PART + 1))
        if point == "parts":
            way.stop()
            await upload.write(b"x" * PART)
        await upload.digest()
        way.stop()
        await upload.finish()

    if point == "begun":
        way.stop()
    try:
        with pytest.raises(StorageUnreachable):
            await send()
        await upload.abort()
    finally:
        way.start()

    with pytest.raises(FileNotFoundError):
        storage.source_content(job_id)
    if point != "begun":
        s3.age(name, f"a/b/{marker_key(job_id)}")
        assert list(storage.leftovers()) == [job_id]
        storage.delete(job_id)
    assert s3.keys(name) == []


async def test_a_server_that_fails_now_and_then_costs_nothing(s3, storage, way, name, job_id):
    """Each call fails once."""
    failed = set()

    def judge(method, path):
        return None if (method, path) in failed else failed.add((method, path)) or 500

    way.trouble.judge = judge
    await stored(storage, job_id, b"x" * (PART + 1))

    assert read(storage, job_id) == b"x" * (PART + 1)
    assert s3.keys(name) == [f"a/b/{source_key(job_id)}"]
    assert len(failed) > 5


async def test_a_completion_whose_answer_is_lost_has_happened(storage, way, job_id):
    way.trouble.judge = lambda method, path: "lost" if method == "POST" and "uploadId" in path else None

    await stored(storage, job_id, b"x" * (PART + 1))

    assert read(storage, job_id) == b"x" * (PART + 1)


async def test_a_body_that_breaks_off_is_never_taken_for_whole(storage, way, job_id):
    await stored(storage, job_id, b"x" * 100_000)
    way.trouble.judge = lambda method, path: "cut" if method == "GET" else None

    with pytest.raises(StorageUnreachable):
        read(storage, job_id)
    with pytest.raises(StorageUnreachable), storage.source(job_id):
        pass


async def test_a_full_server_is_remembered_for_a_while(storage, way, job_id):
    way.trouble.judge = lambda method, _: 507 if method == "PUT" else None
    upload = storage.receive(job_id)

    with pytest.raises(StorageFull):
        await upload.write(BYTES)
    way.trouble.judge = lambda method, path: None
    await upload.abort()

    assert storage.free() == 0


# signs of life


async def test_an_upload_gives_signs_of_life_while_it_waits(storage, way, job_id):
    storage.lease = 0.3
    upload = storage.receive(job_id)
    await upload.write(BYTES)

    async with asyncio.timeout(30):
        while sum(method == "PUT" and "incoming" in path for method, path in way.trouble.seen) < 3:  # noqa: ASYNC110 - a proxy cannot set an event here
            await asyncio.sleep(0.01)

    assert storage.is_receiving(job_id)
    await upload.abort()


async def test_an_upload_that_was_silent_for_too_long_does_not_finish(s3, storage, way, name, job_id):
    """By the server's clock, that is: here its marker was put an age ago."""
    upload = storage.receive(job_id)
    await upload.write(BYTES)
    await upload.digest()
    upload._alive_at -= storage.lease

    with pytest.raises(StorageUnreachable):
        await upload.finish()
    await upload.abort()

    assert s3.keys(name) == []


async def test_who_may_have_been_swept_during_the_commit_is_told_that_nobody_knows(storage, job_id):
    upload = storage.receive(job_id)
    await upload.write(BYTES)
    await upload.digest()
    await upload.finish()
    upload._alive_at -= storage.lease

    with pytest.raises(OutcomeUnknown):
        await upload.close()


async def test_a_lease_that_has_lapsed_does_not_come_back(storage, job_id):
    upload = storage.receive(job_id)
    await upload.write(BYTES)
    await upload.digest()
    upload._alive_at -= storage.lease
    upload._mark()  # a late sign of life

    with pytest.raises(StorageUnreachable):
        await upload.finish()
    await upload.abort()


async def test_a_server_that_is_away_when_an_upload_is_closed_leaves_a_marker_that_is_tidied(
    s3, storage, way, name, job_id
):
    upload = storage.receive(job_id)
    await upload.write(BYTES)
    await upload.digest()
    await upload.finish()
    way.stop()
    try:
        with pytest.raises(StorageUnreachable):
            await upload.close()
    finally:
        way.start()
    s3.age(name, f"a/b/{marker_key(job_id)}")

    assert list(storage.leftovers()) == [job_id]
    storage.tidy(job_id)
    assert read(storage, job_id) == BYTES


# attempts, housekeeping, starts


async def test_scratch_holds_a_copy_for_as_long_as_it_is_needed(storage, job_id, tmp_path):
    await stored(storage, job_id)

    with storage.source(job_id) as path:
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (BYTES, 0o440)
        assert path.is_relative_to(tmp_path / "scratch")
    workspace = storage.workspace(job_id, 1)
    (workspace / "half").write_bytes(b"half")
    storage.prune(job_id, [])

    assert not path.exists()
    assert not workspace.exists()


async def test_scratch_of_the_living_stays_and_that_of_the_dead_goes(s3, name, storage, job_id, tmp_path):
    workspace = storage.workspace(job_id, 1)
    dead = tmp_path / "scratch" / new_id()
    (dead / "x").mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "x" / "file").write_bytes(b"12345")

    freed = ObjectStorage(s3.bucket(name), tmp_path / "scratch").sweep(NOON)

    assert (freed, dead.exists(), workspace.exists()) == (5, False, True)


async def test_parts_of_a_source_are_left_to_whom_its_marker_leads(s3, storage, name, job_id):
    storage.bucket.begin(source_key(job_id))
    other = storage.bucket.begin(
        source_key(new_id()).replace("source", "attempt-1/look/out.txt")
    )  # moto: began in 2010
    assert other

    storage.sweep(NOON)

    assert s3.keys(name) == [f"a/b/{source_key(job_id)}+"]


async def test_results_are_not_kept_while_the_server_is_away(storage, way, job_id):
    workspace = storage.workspace(job_id, 1)
    (workspace / "look").mkdir()
    (workspace / "look" / "out.txt").write_bytes(b"seen")
    reported = [("look", make_artifact(data=b"seen"))]

    way.stop()
    try:
        with pytest.raises(StorageUnreachable):
            storage.publish(job_id, 1, reported)
        storage.prune(job_id, [])  # says so in the log, and is no error of the attempt's
    finally:
        way.start()

    assert [*storage.bucket.objects("")] == []


async def test_what_is_kept_of_a_job_is_counted_over_all_pages(s3, storage, name, job_id):
    for number in range(3):
        storage.bucket.put(f"jobs/2026/11/22/{new_id()}/source", str(number).encode())
    pages, call = [], storage.bucket._client.list_objects_v2
    paged = lambda **asked: pages.append(1) or call(**asked, MaxKeys=1)  # noqa: E731

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.bucket._client, "list_objects_v2", paged)
        found = list(storage.walk())

    assert (len(found), len(pages)) == (3, 3)


def test_a_link_gives_the_bytes_to_whoever_has_it(s3, storage, name, job_id):
    import httpx

    storage.bucket.put(source_key(job_id), BYTES)

    url = storage.source_content(job_id).link(
        seconds=60, media_type="text/plain", disposition="attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
    )
    answer = httpx.get(url, headers={"Range": "bytes=4-6"}, trust_env=False, verify=NO_TLS)

    assert (answer.status_code, answer.content) == (206, b"two")
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="a b.txt"')
    assert SECRET_KEY not in url


def test_a_start_says_what_is_wrong(s3, name, monkeypatch, tmp_path):
    s3.bucket(name).check()
    with pytest.raises(ConfigError, match="there is no such bucket"):
        s3.bucket("no-such-bucket").check()
    with pytest.raises(ConfigError, match="does not answer"):
        s3.bucket(name, endpoint=f"http://127.0.0.1:{find_free_port()}").check()
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        s3.bucket(name, endpoint=s3.url).check()


def test_credentials_come_from_the_file_that_is_named(s3, name, monkeypatch, tmp_path):
    from service.storage.s3 import Bucket

    file = tmp_path / "keys"
    file.write_text("[default]\naws_access_key_id = fromfile\naws_secret_access_key = verysecret\n")

    bucket = Bucket(s3.bucket(name).address, credentials=file)

    assert "fromfile" in bucket.link("x", seconds=60, media_type="a/b", disposition="attachment")
    with pytest.raises(ConfigError, match=r"INTAKE_S3_CREDENTIALS=.*there is no such file"):
        Bucket(s3.bucket(name).address, credentials=tmp_path / "none")


def test_one_of_many_claims_a_key(s3, name):
    bucket, won = s3.bucket(name), []

    def claim():
        try:
            bucket.put("owner", b"me", new=True)
            won.append(1)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert won == [1]


def test_without_the_extra_the_service_works_and_asking_for_it_names_the_command(tmp_path):
    code = """if True:
        import sys
        sys.modules.update(botocore=None, urllib3=None)
        from pathlib import Path
        from service.app import create_app
        from service.errors import ConfigError
        from service.settings import Settings
        from service.wiring import build
        create_app(Settings.load(data_dir=Path(sys.argv[1]))).state.intake.services.close()
        try:
            build(Settings.load(data_dir=Path(sys.argv[1]) / "other", storage="s3://bucket"))
        except ConfigError as error:
            print(error)
    """
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )

    assert told.stdout == "INTAKE_STORAGE: botocore is not installed; pip install 'file-intake[s3]'\n"
