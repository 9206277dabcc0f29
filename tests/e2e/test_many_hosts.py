"""Two APIs and four workers that share no folder, each of them killed: for a client nothing changes but time.

Records are in PostgreSQL, bytes in a bucket, and a broker tells the workers. Each API has a loopback address of its own (a worker
listens on none), and each process a folder of its own for data, scratch and temporary files. Clients send each upload with an
Idempotency-Key, and ask the other API when one does not answer. ``make hosts`` does it with ``INTAKE_TEST_JOBS`` jobs.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.testing import Server
from tests.brokers import PASSWORD, Broker
from tests.e2e.deployment import LONG, artifact_of, once, records
from tests.e2e.rig import ENDS, processes, serve, worker
from tests.http import NO_TLS
from tests.s3 import S3Server
from tests.waiting import wait_until

JOBS: Final = int(os.environ.get("INTAKE_TEST_JOBS", "2000"))
SEED: Final = int(os.environ.get("INTAKE_TEST_SEED", "1"))
_ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")
_WORKERS: Final = 4
_CLIENTS: Final = 4
_AGAIN: Final = (408, 409, 425, 429, 500, 502, 503, 504)  #: statuses after which a client tries again
_SOON: Final = 5.0  #: seconds that a worker is given to have an attempt at work before it is killed
_LONGEST: Final = 300.0  #: seconds that a client goes on trying
pytestmark = pytest.mark.needs("postgres")


class Hosts:
    """The APIs and the workers. ``settings`` are those that they have in common."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: Any) -> None:
        self.random = random.Random(SEED)
        self._folder = folder
        self._stack = stack
        self._settings = settings
        self.apis = [self._host(f"api-{address}", host=address) for address in _ADDRESSES]
        for api in self.apis:
            stack.enter_context(api)
        self.homes = [self._host(f"worker-{number}") for number in range(_WORKERS)]
        self.workers = [stack.enter_context(worker(home)) for home in self.homes]

    def _host(self, name: str, **own: Any) -> Server:
        """Return what a host is started with: settings, folders, and a mark that tells its processes from others'."""
        folder = self._folder / name
        (folder / "tmp").mkdir(parents=True)
        return serve(folder, env={"TMPDIR": str(folder / "tmp")}, **self._settings, **own)

    @property
    def log(self) -> str:
        """All that anybody has logged."""
        return "".join(host.log for host in (*self.apis, *self.homes))

    def deaths(self) -> list[Callable[[], None]]:
        """Return the death of each API and of each worker, with all it has started or alone, in a random order."""
        deaths = [partial(self._kill_api, number) for number in range(len(self.apis))]
        deaths += [partial(self._kill_worker, number, whole=bool(number % 2)) for number in range(_WORKERS)]
        self.random.shuffle(deaths)
        return list(deaths)

    def _kill_api(self, number: int) -> None:
        self.apis[number].kill()
        self.apis[number].start()

    def _kill_worker(self, number: int, *, whole: bool) -> None:
        """Kill a worker within an attempt, if it is given one soon, and start it again in the same folder."""
        home, process = self.homes[number], self.workers[number]
        until = time.monotonic() + _SOON
        while not processes(home).attempts and time.monotonic() < until:
            pass
        if whole:
            home.kill()
        else:
            process.kill()
        process.wait(LONG)
        self.workers[number] = self._stack.enter_context(worker(home))

    def shared(self) -> list[str]:
        """Return what any host keeps of jobs in its folder; nothing is to be found, as no other could see it."""
        found = [path for host in (*self.apis, *self.homes) for path in (host.data_dir / "jobs").rglob("*")]
        return [str(path) for path in found if path.is_file()]


class Client:
    """Somebody who knows both APIs, and asks one until it does not answer, then the other. For one thread."""

    def __init__(self, urls: list[str], first: int) -> None:
        self._https = [httpx.Client(base_url=url, trust_env=False, verify=NO_TLS, timeout=20) for url in urls]
        self._at = first
        self.again = 0  #: how often it had to ask again

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask until there is an answer that is none of trouble."""
        until = time.monotonic() + _LONGEST
        while True:
            try:
                answer = self._https[self._at].request(method, path, **options)
            except httpx.TransportError as error:
                told: object = error
            else:
                if answer.status_code not in _AGAIN:
                    return answer
                told = answer.text
            assert time.monotonic() < until, f"{method} {path}: no API gives an answer, {told!r}"
            self.again += 1
            self._at = 1 - self._at
            time.sleep(0.2)

    def turn(self) -> None:
        """Begin with the other API next time."""
        self._at = 1 - self._at

    def close(self) -> None:
        for http in self._https:
            http.close()


class Crowd:
    """Clients that send jobs as they are told to, and follow each to its end."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._keys: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._told = 0
        self._lock = threading.Lock()
        self.taken: dict[str, str] = {}  #: id by key
        self.ends: dict[str, str] = {}  #: status by id
        self.slowest = 0.0  #: of the uploads, in seconds, with all tries
        self.again = 0  #: how often they had to ask again
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True) for number in range(_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, jobs: int) -> None:
        """Have so many more jobs sent, and return when half of them were taken."""
        for number in range(self._told, self._told + jobs):
            self._keys.put(f"key-{number}")
        half = self._told + jobs // 2
        self._told += jobs
        wait_until(lambda: len(self.taken) >= half or self.errors, _LONGEST, f"{half} jobs to be taken")

    def finish(self, timeout: float) -> None:
        """Wait until all jobs have ended, and raise what went wrong."""
        for _ in self._threads:
            self._keys.put(None)
        wait_until(lambda: not any(thread.is_alive() for thread in self._threads), timeout, "the clients")
        if self.errors:
            raise self.errors[0]

    def _serve(self, number: int) -> None:
        client = Client(self._urls, first=number % 2)
        try:
            mine = list(self._send(client))
            for job_id in mine:
                self._follow(client, job_id)
        except BaseException as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self.again += client.again
            client.close()

    def _send(self, client: Client) -> Iterator[str]:
        while (key := self._keys.get()) is not None:
            began = time.monotonic()
            headers = {"Idempotency-Key": f'"{key}"'}
            answer = client.ask("POST", "/v1/jobs?filename=o.txt", content=_orders(key), headers=headers)
            assert answer.status_code == 202, answer.text
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.taken[key] = answer.json()["id"]
            client.turn()
            yield answer.json()["id"]

    def _follow(self, client: Client, job_id: str) -> None:
        until = time.monotonic() + _LONGEST
        while time.monotonic() < until:
            shown = client.ask("GET", f"/v1/jobs/{job_id}").json()
            if shown.get("status") in ENDS:
                self.ends[job_id] = shown["status"]
                return
            time.sleep(0.2)
        raise AssertionError(f"job {job_id} has not ended: {shown}")


def _orders(key: str) -> bytes:
    """Return a file whose artifact has a size of its own."""
    return f"pause 0.5\nwrite out.txt {_size(key)}".encode()


def _size(key: str) -> int:
    return int(key.rpartition("-")[2]) + 1


def run(broker: Broker, records_url: str, s3: S3Server, folder: Path, *, jobs: int, rounds: int) -> str:
    """Send the jobs, kill everybody so many times meanwhile, compare, and return the figures."""
    broker.empty()
    secret = folder / "broker"
    secret.write_text(broker.url)
    bucket = s3.create_bucket()
    settings = {
        "engine": "celery",
        "broker_url_file": secret,
        "records": records_url,
        "storage": f"s3://{bucket}/hosts?endpoint={s3.url}",
        "lease": "5s",
        "durability": "none",
        "timeout": LONG,
    }
    began = time.monotonic()
    with ExitStack() as stack:
        hosts = Hosts(folder, stack, **settings)
        urls = [api.url for api in hosts.apis]
        wait_until(lambda: _state(urls[0]) == "ok", LONG, "the workers")
        crowd = Crowd(urls)
        deaths = [death for _ in range(rounds) for death in hosts.deaths()]
        for number, death in enumerate(deaths):
            crowd.send(jobs * (number + 1) // len(deaths) - jobs * number // len(deaths))
            death()
        crowd.finish(_LONGEST + jobs)
        took = time.monotonic() - began
        _compare(urls, crowd)
        stored = records(records_url)
        assert set(stored) == set(crowd.taken.values()), "one job for each key, and no other"
        for record in stored.values():
            once(record)
        assert not hosts.shared()
        assert PASSWORD not in hosts.log
    again = sum(len(record["attempts"]) - 1 for record in stored.values())
    assert len(stored) == jobs
    assert again, "no death has hit an attempt"
    assert crowd.again, "no death has hit a request"
    return (
        f"{broker.kind}: {len(stored)} jobs, each of 2 APIs and 4 workers killed {rounds} times, {again} attempts lost, "
        f"{crowd.again} requests sent again, slowest upload {crowd.slowest:.1f} s, {took:.0f} s until the last had ended"
    )


def _compare(urls: list[str], crowd: Crowd) -> None:
    """See that both APIs show the same of all jobs, and each artifact where it belongs."""
    assert len(set(crowd.taken.values())) == len(crowd.taken)
    assert Counter(crowd.ends.values()) == {"succeeded": len(crowd.taken)}
    with ExitStack() as stack:
        https = [
            stack.enter_context(httpx.Client(base_url=url, trust_env=False, verify=NO_TLS, timeout=60)) for url in urls
        ]
        lists = [_listed(http) for http in https]
        assert lists[0] == lists[1]
        assert sorted(lists[0]) == sorted(crowd.taken.values())
        for key, job_id in crowd.taken.items():
            shown = [http.get(f"/v1/jobs/{job_id}") for http in https]
            assert shown[0].json() == shown[1].json()
            assert shown[0].headers["ETag"] == shown[1].headers["ETag"]
            made = https[_size(key) % 2].get(artifact_of(shown[0].json()))
            assert made.content == b"x" * _size(key)


def _listed(http: httpx.Client) -> list[str]:
    """Return the ids of all jobs that succeeded, as one API lists them."""
    found: list[str] = []
    path = "/v1/jobs?status=succeeded&limit=100"
    while path:
        page = http.get(path)
        found += [one["id"] for one in page.json()["items"]]
        path = page.links.get("next", {}).get("url", "")
    return found


def _state(url: str) -> str:
    return str(json.loads(httpx.get(f"{url}/readyz", trust_env=False, verify=NO_TLS, timeout=30).content)["status"])


@pytest.mark.timeout(400)
def test_each_host_can_be_killed_and_its_clients_lose_nothing_but_time(
    broker: Broker, records_url: str, s3: S3Server, tmp_path: Path
) -> None:
    run(broker, records_url, s3, tmp_path, jobs=60, rounds=1)


@pytest.mark.soak
def test_many_jobs_outlast_the_deaths_of_all_hosts(
    broker: Broker, records_url: str, s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(broker, records_url, s3, tmp_path, jobs=JOBS, rounds=max(1, JOBS // 500))
    with capsys.disabled():
        print(f"\n{figures}")
