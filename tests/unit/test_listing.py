"""Lists stay as quick with many jobs as with few: a page costs what it shows, not what there is."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.durable import Disk
from service.ids import created_at
from service.jobs.file_store import FileJobStore
from service.jobs.folders import job_folder
from service.jobs.model import Job, JobStatus
from service.jobs.record import encode
from service.jobs.store import JobQuery
from tests.jobs import NOON, make_ended, make_id, make_job

MINUTE = timedelta(minutes=1)
STATUSES = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)

QUERIES = {
    "first page": JobQuery(),
    "later page": JobQuery(before=make_id(NOON - 100 * MINUTE)),
    "status, common": JobQuery(statuses=frozenset({JobStatus.SUCCEEDED})),
    "status, rare": JobQuery(statuses=frozenset({JobStatus.CANCELED})),
    "status, none": JobQuery(statuses=frozenset({JobStatus.RUNNING})),
    "status, two": JobQuery(statuses=frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED})),
    "status, two of none": JobQuery(statuses=frozenset({JobStatus.QUEUED, JobStatus.RUNNING})),
    "status, none, and label": JobQuery(statuses=frozenset({JobStatus.RUNNING}), labels={"source": "mail"}),
    "type": JobQuery(media_type="image/png"),
    "label, common": JobQuery(labels={"source": "mail"}),
    "label, rare": JobQuery(labels={"case": "seldom"}),
    "label, none": JobQuery(labels={"source": "nowhere"}),
    "label and status": JobQuery(labels={"source": "mail"}, statuses=frozenset({JobStatus.FAILED})),
    "two labels": JobQuery(labels={"source": "mail", "case": "seldom"}),
    "digest": JobQuery(sha256="ab" * 32),
    "window": JobQuery(created_after=NOON - 120 * MINUTE, created_before=NOON - 60 * MINUTE),
}


def make_jobs(count: int) -> Iterator[Job]:
    """Yield ended jobs, newest first, one a minute before noon: of ten one has failed, of a hundred one was canceled."""
    models = {status: make_ended(status) for status in STATUSES}
    for number in range(count):
        status = STATUSES[2 if number % 100 == 7 else 1 if number % 10 == 3 else 0]
        job_id = make_id(NOON - number * MINUTE, number)
        labels = {"source": "mail" if number % 3 else "web"} | ({"case": "seldom"} if number % 100 == 50 else {})
        file = models[status].file.evolve(media_type="image/png" if number % 2 else "text/plain")
        yield models[status].evolve(id=job_id, created_at=created_at(job_id), file=file, labels=labels)


def write_records(root: Path, jobs: Iterator[Job]) -> Iterator[Job]:
    """Put the records on disk without syncs, locks or markers, and pass the jobs on."""
    known: set[Path] = set()
    for job in jobs:
        folder = job_folder(root, job.id)
        if folder.parent not in known:
            folder.parent.mkdir(parents=True, exist_ok=True)
            known.add(folder.parent)
        folder.mkdir()
        descriptor = os.open(folder / "job.json", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, encode(job))
        os.close(descriptor)
        yield job


def filled(root: Path, count: int) -> FileJobStore:
    """Return a store with so many jobs on disk and in its index."""
    store = FileJobStore(root, disk=Disk(sync=False))
    store.listing._index.put(write_records(root, make_jobs(count)))
    store.listing._index.set_complete()
    return store


def fastest(act: Callable[[], object], rounds: int = 7) -> float:
    """Return the seconds of the quickest round: what the work itself takes."""
    gc.disable()
    try:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            act()
            took.append(time.perf_counter() - began)
    finally:
        gc.enable()
    return min(took)


def measure(store: FileJobStore, rounds: int = 7) -> dict[str, float]:
    """Return the seconds of each page, of what a scrape asks, and of one look at a job."""
    figures = {name: fastest(lambda query=query: store.page(query), rounds) for name, query in QUERIES.items()}
    (job,) = store.page(JobQuery(limit=1)).jobs
    figures["metrics"] = fastest(lambda: store.figures(NOON), rounds)
    return figures | {"status poll": fastest(lambda: store.get(job.id), rounds)}


def slower(
    few: dict[str, float], many: dict[str, float], *, ratio: float, slack: float
) -> dict[str, tuple[float, float]]:
    return {name: (few[name], many[name]) for name in few if many[name] > ratio * few[name] + slack}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("listing")
    few, many = filled(root / "few", 200), filled(root / "many", 6_000)
    yield few, many
    few.close()
    many.close()


def test_the_pages_hold_what_they_are_measured_for(stores):
    for store in stores:
        sizes = {name: len(store.page(query).jobs) for name, query in QUERIES.items()}
        assert sizes["first page"] == sizes["later page"] == sizes["status, common"] == sizes["label, common"] == 50
        assert (sizes["status, none"], sizes["label, none"]) == (0, 0)
        assert 2 <= sizes["status, rare"] <= 50
    assert len(stores[1].page(QUERIES["label, rare"]).jobs) == 50


@pytest.mark.soak  # a ratio of times, for a machine with nothing else to do
def test_a_page_of_many_jobs_is_as_quick_as_one_of_few(tmp_path):
    figures = []
    for count in (200, 20_000):
        store = filled(tmp_path / str(count), count)
        figures.append(measure(store))
        store.close()
    few, many = figures
    few = {
        name: max(took, few["first page"]) if "rare" in name or "two" in name else took for name, took in few.items()
    }
    assert slower(few, many, ratio=4, slack=0.01) == {}


def test_without_an_index_the_first_page_reads_the_newest_only(stores, monkeypatch):
    _, many = stores
    read = []
    get = many.get
    monkeypatch.setattr(many.listing, "is_indexed", lambda: False)
    monkeypatch.setattr(many, "get", lambda job_id: read.append(job_id) or get(job_id))

    page = many.page(JobQuery(limit=10))
    window = many.page(QUERIES["window"])

    assert len(page.jobs) == 10
    assert len(window.jobs) == 50
    assert len(read) < 250


@pytest.mark.soak
def test_a_million_jobs(tmp_path, capsys):
    """Figures for the docs: run it with ``make soak ARGS='-k million -s'``; needs 9 GB of disk and some minutes."""
    stores, figures = {}, {}
    for count in (1000, 1_000_000):
        began = time.perf_counter()
        stores[count] = filled(tmp_path / str(count), count)
        took = time.perf_counter() - began
        figures[count] = measure(stores[count], rounds=5) | {"made in": took}
        began = time.perf_counter()
        assert stores[count].listing.rebuild() == count
        figures[count]["rebuilt in"] = time.perf_counter() - began
        waiting = make_job()
        figures[count]["create, claim, end"] = fastest(
            lambda waiting=waiting, count=count: live(stores[count], waiting), 3
        )
    with capsys.disabled():
        for name in figures[1000]:
            sys.stdout.write(f"\n{name:20}" + "".join(f"{1000 * figures[count][name]:12.2f} ms" for count in figures))
    for count, store in stores.items():
        store.close()
        shutil.rmtree(tmp_path / str(count))

    pages = {
        name: took for name, took in figures[1000].items() if name in QUERIES or name in ("status poll", "metrics")
    }
    assert slower(pages, figures[1_000_000], ratio=5, slack=0.05) == {}


def live(store: FileJobStore, job: Job) -> None:
    """Take a job through its life."""
    store.create(job)
    _, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    store.update(job.id, lambda job: job.moved(JobStatus.SUCCEEDED, NOON))
    lease.release()
