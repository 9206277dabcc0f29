"""What one job costs: processor time, rows and log of the database, requests to the S3 server, bytes on disk.

``make soak ARGS="-k capacity -s"`` prints the figures of docs/explanation/capacity.md; JOBS in the environment: how many are sent.
The bounds are loose: they hold on a busy machine, and go off where a job has come to cost a multiple.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
from PIL import Image

from service.clock import utc_now
from service.jobs.postgres.schema import migrate
from service.maintenance import collect
from service.settings import Settings
from service.testing import Server
from service.wiring import build
from tests.brokers import running as broker_running
from tests.e2e.deployment import api
from tests.e2e.rig import processes, serve, worker
from tests.http import NO_TLS
from tests.postgres import PostgresServer, running
from tests.s3 import Proxy, S3Server, proxy
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.needs("postgres", "rabbitmq-server", "epmd")]
JOBS: Final = int(os.environ.get("JOBS", "1000"))
TEXT: Final = b"A line of some forty bytes, more or less.\n" * 244  # 10 KiB


def photo() -> bytes:
    """Return a JPEG of 12 megapixels, about as large as a camera's."""
    image = Image.effect_noise((4000, 3000), 40).convert("RGB")
    target = BytesIO()
    image.save(target, "JPEG", quality=80)
    return target.getvalue()


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """Give a server that writes its log as one in production does; only its disk is not waited for."""
    with running(full_page_writes="on", autovacuum="on") as server:
        yield server


@pytest.fixture
def way(s3: S3Server) -> Iterator[Proxy]:
    with proxy(s3) as way:
        yield way


def cpu(pids: list[int]) -> float:
    """Return the seconds of these processes and of what they have reaped."""
    return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in pids)


def tree(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def send(server: Server, body: bytes, name: str, count: int) -> list[str]:
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=120) as http, ThreadPoolExecutor(16) as pool:

        def one(_: int) -> str:
            answer = http.post(f"{server.url}/v1/jobs?filename={name}", content=body)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        return list(pool.map(one, range(count)))


def all_done(server: Server, ids: list[str]) -> None:
    """Wait for the end of these jobs, asking for few of them: each look is a query that is not the job's."""
    with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=120) as http:
        for job_id in (*ids[::100], *ids[-5:]):
            wait_until(lambda of=job_id: http.get(f"/v1/jobs/{of}?wait=30").json()["done"], 1800, job_id)

        def none_waits() -> bool:
            return not any(
                http.get(f"/v1/jobs?status={status}&limit=1").json()["items"] for status in ("queued", "running")
            )

        wait_until(none_waits, 1800, f"the end of {len(ids)} jobs")


def told(title: str, figures: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in figures.items():
        print(f"  {name:44} {value:,.2f}" if isinstance(value, float) else f"  {name:44} {value}")


@pytest.mark.parametrize(("name", "count"), [("text.txt", JOBS), ("photo.jpg", max(JOBS // 20, 5))])
def test_capacity_of_the_scaled_service(
    database: PostgresServer, s3: S3Server, way: Proxy, tmp_path: Path, name: str, count: int
) -> None:
    body = TEXT if name.endswith("txt") else photo()
    database.sql("drop database if exists cost with (force)")
    database.sql("create database cost")
    migrate(database.url("cost"))
    where = {
        "records": database.url("cost"),
        "data_shared": False,
        "storage": f"s3://{s3.create_bucket()}/cost?endpoint={way.url}",
        "default_pipeline": "default",
        "poll": "2s",
        "queue_limit": 100_000,
        "retention": "30d",
    }
    with (
        broker_running("rabbitmq") as broker,
        api(broker, tmp_path, **where) as server,
        worker(server) as running_worker,
    ):
        all_done(server, send(server, body, name, 10))
        database.sql("vacuum analyze", "cost")
        served, worked = processes(server).api, tree(running_worker.pid)
        before = {"api": cpu(served), "worker": cpu(worked), "database": cpu(tree(database.pid))}
        seen, rows = len(way.trouble.seen), _database(database)
        ids = send(server, body, name, count)
        uploaded = cpu(served)
        requests = Counter(_kind(*one) for one in way.trouble.seen[seen:] if _is_of_an_upload(*one))
        all_done(server, ids)
        after = {"api": cpu(served), "worker": cpu(worked), "database": cpu(tree(database.pid))}
        all_requests = Counter(_kind(*one) for one in way.trouble.seen[seen:])
        database.sql("vacuum analyze", "cost")
        now = _database(database)
    kept = {name: str(value) for name, value in where.items() if name in ("records", "storage", "retention")} | {
        "durability": "none"  # its disk is not waited for
    }
    with closing(build(Settings.load(data_dir=tmp_path / "gc", **kept))) as services:
        seen, began, busy = len(way.trouble.seen), time.perf_counter(), time.thread_time()
        gone = collect(services, now=utc_now() + timedelta(days=31)).expired
        took, busy = time.perf_counter() - began, time.thread_time() - busy
    assert gone >= count
    spent = {who: (after[who] - before[who]) * 1000 / count for who in before}
    total = sum(all_requests.values()) / count
    told(
        f"{count} jobs, {name}, {len(body)} bytes: PostgreSQL, S3, RabbitMQ, one API, one worker",
        {
            "API, ms of a processor per upload": (uploaded - before["api"]) * 1000 / count,
            "worker, ms per attempt": spent["worker"],
            "database, ms per job": spent["database"],
            "database, bytes per job with indexes": (now["bytes"] - rows["bytes"]) / count,
            "database, bytes of its log per job": (now["log"] - rows["log"]) / count,
            "database, commits per job": (now["commits"] - rows["commits"]) / count,
            "S3 requests per job": total,
            "of them, by kind": {kind: round(number / count, 2) for kind, number in all_requests.most_common(12)},
            "of an upload alone": {kind: round(number / count, 2) for kind, number in requests.most_common(6)},
            "deleted a second, by one": gone / took,
            "ms of a processor per deletion": busy * 1000 / gone,
            "S3 requests per deletion": (len(way.trouble.seen) - seen) / gone,
            "tables": {
                table: round((size - rows["tables"].get(table, 0)) / count) for table, size in now["tables"].items()
            },
        },
    )
    assert (uploaded - before["api"]) / count < 0.2
    assert total < 60
    assert (now["bytes"] - rows["bytes"]) / count < 40_000


def _kind(method: str, path: str) -> str:
    last = path.partition("?")[0].rpartition("/")[2]
    place = path.split("/")[3] if path.count("/") > 3 else ""
    return f"{method} {place} {last if last in ('source', 'owner') else ''} {'list' if 'list-type' in path else ''}".rstrip()


def _is_of_an_upload(method: str, path: str) -> bool:
    return method in ("PUT", "DELETE", "POST") and ("/incoming/" in path or path.partition("?")[0].endswith("/source"))


def _database(server: PostgresServer) -> dict[str, Any]:
    def one(statement: str) -> Any:
        return server.sql(statement, "cost")[0][0]

    sizes = server.sql(
        "select relname, pg_total_relation_size(oid) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace",
        "cost",
    )
    tables = {name: int(size) for name, size in sizes}
    return {
        "bytes": sum(tables.values()),
        "tables": tables,
        "log": int(one("select pg_current_wal_lsn() - '0/0'")),
        "commits": int(one("select xact_commit from pg_stat_database where datname = 'cost'")),
    }


def test_capacity_of_one_machine(tmp_path: Path) -> None:
    with serve(tmp_path, default_pipeline="default", queue_limit=100_000) as server:
        all_done(server, send(server, TEXT, "text.txt", 10))
        ids = send(server, TEXT, "text.txt", JOBS)
        all_done(server, ids)
        folders = list((server.data_dir / "jobs").rglob("job.json"))
        index = sum(path.stat().st_size for path in (server.data_dir / "engine").glob("index.db*"))
    entries = [entry for folder in folders for entry in (folder.parent, *folder.parent.rglob("*"))]
    blocks = sum(entry.stat().st_blocks * 512 for entry in entries)
    records = sum(folder.stat().st_size for folder in folders)
    told(
        f"{JOBS} jobs of {len(TEXT)} bytes: records and bytes in files",
        {
            "files and folders per job": len(entries) / len(folders),
            "bytes of a record": records / len(folders),
            "bytes on disk per job beside its source": blocks / len(folders) - len(TEXT),
            "bytes of the index per job": index / len(folders),
        },
    )
    assert len(entries) / len(folders) < 15
    assert records / len(folders) < 8192
