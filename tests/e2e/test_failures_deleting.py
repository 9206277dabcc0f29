"""A collection that is killed in its middle: each job is still there whole, or gone, or found by the next who looks."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from service.clock import utc_now
from service.durable import Disk
from service.errors import Gone, NotFound
from service.jobs.file_store import FileJobStore
from service.jobs.store import JobQuery
from tests.e2e.rig import serve, tidy
from tests.jobs import make_job

NUMBER = 600
SOURCE = b"content\n"


def fill(root: Path) -> list[str]:
    """Put jobs on disk that have expired."""
    store = FileJobStore(root, disk=Disk(sync=False))
    ids = []
    for _ in range(NUMBER):
        job = make_job()
        store.create(job)
        (store.folder(job.id) / "source").write_bytes(SOURCE)
        store.update(job.id, lambda job: job.canceled(utc_now()).expiring(timedelta(0)))
        ids.append(job.id)
    store.close()
    return ids


def test_a_collection_killed_at_any_moment_loses_no_job_and_leaves_none_by_halves(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    server = serve(tmp_path, retention="1s")
    root = server.data_dir
    ids = fill(root)
    collect = [sys.executable, "-P", "-m", "service.cli", "gc"]
    folders = root.joinpath("jobs").glob
    for _ in range(4):
        with subprocess.Popen(collect, env=server.environment(), stdout=subprocess.DEVNULL) as collecting:
            before = sum(1 for _ in folders("*/*/*/*"))
            while collecting.poll() is None and sum(1 for _ in folders("*/*/*/*")) == before:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.1))
            collecting.kill()
        store = FileJobStore(root, disk=Disk(sync=False))
        for job_id in ids:
            folder = store.folder(job_id)
            if (folder / "job.json").exists():
                assert store.get(job_id).done, seed
                assert (folder / "source").read_bytes() == SOURCE, f"its record is there, so its bytes are: seed {seed}"
            elif folder.exists():
                assert job_id in store.pending(), f"somebody has to find its bytes: seed {seed}"
        store.close()

    with server:
        tidy(server)
        subprocess.run(collect, env=server.environment(), check=True, stdout=subprocess.DEVNULL, timeout=60)
        store = FileJobStore(root, disk=Disk(sync=False))
        assert store.page(JobQuery()).jobs == ()
        for job_id in ids:
            try:
                store.get(job_id)
            except (Gone, NotFound):
                continue
            raise AssertionError(f"{job_id} is still there: seed {seed}")
        assert list((root / "trash").iterdir()) == []
        store.close()
