"""The client against a real service: uploads, waiting, results, refusals, and a service that dies meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.client import AsyncClient, Client, Conflict, JobFailed, NotFound, Refused, WaitTimeout
from service.testing import Server
from tests.e2e.rig import serve
from tests.http import NO_TLS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(max_upload="3MiB") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


def test_a_file_goes_in_and_its_results_come_out(client: Client, tmp_path: Path) -> None:
    orders = tmp_path / "naïve “orders” 100%.txt"
    orders.write_text("write small.bin 300000")
    labels = {"from": "a test", "run": uuid.uuid4().hex}
    job = client.submit(orders, pipeline="checked", labels=labels).wait(timeout=30).check()
    assert job.labels == labels
    assert job.file["name"] == orders.name
    assert job.results["checksum"].facts["sha256"] == hashlib.sha256(orders.read_bytes()).hexdigest()
    moved: list[tuple[int, int | None]] = []
    path = job.download("obey", to=tmp_path, progress=lambda got, size: moved.append((got, size)))
    assert path == tmp_path / "small.bin"
    assert path.stat().st_size == 300_000
    assert moved[-1] == (300_000, 300_000)
    assert job.source(to=tmp_path / "back") == tmp_path / "back"
    assert (tmp_path / "back").read_bytes() == orders.read_bytes()
    assert [found.id for found in client.jobs(labels={"run": labels["run"]})] == [job.id]


def test_a_pipe_and_an_empty_name_are_taken(client: Client) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"nothing a\nnothing b\n")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        job = client.submit(pipe, wait=30)
    assert job.results["obey"].facts["obeyed"] == 2


def test_watching_shows_a_job_change_up_to_its_end(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = client.submit(f"wait {go}".encode(), name="orders")
    seen = []
    for state in job.watch(timeout=30):
        seen.append(state.status)
        if state.status == "running":
            go.touch()
    assert seen[-1] == "succeeded"
    assert "running" in seen


def test_a_job_that_takes_too_long_is_left_alone(client: Client) -> None:
    with pytest.raises(WaitTimeout) as caught:
        client.submit(b"hang", wait=0.3)
    job = client.job(caught.value.job.id)
    assert not job.refresh().done
    assert job.cancel().wait(timeout=20).status == "canceled"


def test_a_job_is_canceled_retried_and_deleted(client: Client, tmp_path: Path) -> None:
    job = client.submit(f"wait {tmp_path / 'go'}".encode())
    with pytest.raises(Conflict):
        job.delete()
    client.cancel(job.id)
    assert job.wait(timeout=20).status == "canceled"
    with pytest.raises(JobFailed):
        job.check()
    (tmp_path / "go").touch()
    assert job.retry().wait(timeout=20).status == "succeeded"
    with pytest.raises(Conflict) as caught:
        client.retry(job.id)
    assert caught.value.hint
    job.delete()
    with pytest.raises(NotFound):
        job.refresh()


def test_the_same_key_gives_the_same_job_and_never_another_file(client: Client) -> None:
    key = f'key "{uuid.uuid4()}"'
    first = client.submit(b"nothing", name="a", idempotency_key=key)
    assert client.submit(b"nothing", name="a", idempotency_key=key).id == first.id
    with pytest.raises(Refused) as caught:
        client.submit(b"nothing else", name="a", idempotency_key=key)
    assert caught.value.code == "idempotency-key-reused"


def test_bytes_with_another_sha256_are_refused(client: Client) -> None:
    right = hashlib.sha256(b"nothing").hexdigest()
    assert client.submit(b"nothing", sha256=right).file["sha256"] == right
    with pytest.raises(Refused) as caught:
        client.submit(b"nothing!", sha256=right)
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_that_is_too_large_is_refused_in_words(client: Client, tmp_path: Path, declared: bool) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(8 * 2**20))
    with large.open("rb") as file, pytest.raises(Refused) as caught:
        client.submit(file if declared else _Unseekable(file))  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.code) == (413, "file-too-large")
    assert caught.value.request_id


class _Unseekable:
    def __init__(self, file: io.BufferedReader) -> None:
        self.read = file.read


def test_jobs_are_listed_over_pages_newest_first(client: Client) -> None:
    run = uuid.uuid4().hex
    ids = [client.submit(b"nothing", labels={"run": run}).id for _ in range(5)]
    assert [job.id for job in client.jobs(labels={"run": run}, limit=2)] == ids[::-1]


def test_what_can_be_asked_for_is_told(client: Client) -> None:
    assert {pipeline["name"] for pipeline in client.pipelines()["items"]} >= {"obey", "default"}
    assert "obey" in {processor["name"] for processor in client.processors()["items"]}
    assert client.limits()["max_upload"] == 3 * 2**20


def test_links_are_used_by_those_who_have_no_token(client: Client) -> None:
    job = client.submit(b"write a.bin 10").wait(timeout=20)
    with httpx.Client(trust_env=False, verify=NO_TLS) as http:
        assert http.get(job.link().url).content == b"write a.bin 10"
        made = job.link("obey", expires_in=60)
        assert len(http.get(made.url).content) == 10
        assert made.method == "GET"
        assert timedelta(0) < made.expires_at - datetime.now(UTC) <= timedelta(seconds=61)

        link = client.upload_link(max_size=7, pipeline="default", filename="a.txt")
        assert (link.method, link.max_size) == ("PUT", 7)
        assert http.put(link.url, content=b"too long").status_code == 413
        sent = http.put(link.url, content=b"nothing")
        assert sent.status_code == 202
        assert http.put(link.url, content=b"nothing").status_code == 403
    assert client.job(sent.json()["id"]).document["pipeline"] == "default"
    with pytest.raises(NotFound):
        client.job("0" * 8).link()


def test_a_restart_of_the_service_is_waited_out(tmp_path: Path) -> None:
    with serve(tmp_path) as server, server.client() as client:
        job = client.submit(f"wait {tmp_path / 'go'}".encode())
        server.kill()
        (tmp_path / "go").touch()
        starter = threading.Thread(target=server.start)
        starter.start()
        another = client.submit(b"nothing")
        assert job.wait(timeout=30).status == "succeeded"
        assert another.wait(timeout=30).status == "succeeded"
        starter.join()


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(server: Server, tmp_path: Path) -> None:
    run = uuid.uuid4().hex
    async with AsyncClient(server.url) as client:
        job = await client.submit(b"write a.bin 1000\nwrite b.bin 1000", name="orders", labels={"run": run}, wait=30)
        assert job.status == "succeeded"
        assert await job.download("obey", "b.bin", to=tmp_path) == tmp_path / "b.bin"
        assert await job.source(to=tmp_path / "source") == tmp_path / "source"
        assert (await job.link()).url.split("?")[0].endswith("/source")
        assert (await job.link("obey", "b.bin")).url.split("?")[0].endswith("/obey/b.bin")
        assert [found.id async for found in client.jobs(labels={"run": run}, limit=1)] == [job.id]
        states = [state.status async for state in (await client.submit(b"nothing")).watch(timeout=30)]
        assert states[-1] == "succeeded"
        hanging = await client.submit(b"hang")
        await hanging.cancel()
        assert (await hanging.wait(timeout=20)).status == "canceled"
        assert (await hanging.retry()).status == "queued"
        await client.cancel(hanging.id)
        await hanging.wait(timeout=20)
        with pytest.raises(Conflict):
            await client.retry(job.id)
        await hanging.delete()
        await client.delete(job.id)
        with pytest.raises(NotFound):
            await client.job(job.id)
        assert (await client.pipelines())["items"]
        assert (await client.processors())["items"]
        assert (await client.limits())["max_upload"]
        assert (await client.upload_link()).method == "POST"
