"""``/metrics`` of real servers and real jobs: both formats, the figures, and every process telling the same."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.figures import METRICS
from service.testing import Server
from tests.integration.api import finished, go_on, holding, problem, submit
from tests.integration.conftest import CONTROLLED, client
from tests.receiver import Receiver, status
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = CONTROLLED | {"max_attempts": 2, "retry_base": "0s", "max_upload": "1KiB"}
    with Server(tmp_path_factory.mktemp("metrics"), workers=WORKERS, slots=2, **settings) as running:
        wait_until(lambda: len(workers(running)) == WORKERS, what="workers")
        yield running


def workers(server: Server) -> list[int]:
    """Return the process ids of the API's workers."""
    found = []
    for pid in server.pids():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def scrape(server: Server) -> Scrape:
    """Scrape over a connection of its own, which any worker may get."""
    with client(server) as http:
        answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Scrape, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold one process, so that another has to answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_figures_are_those_of_the_jobs(server):
    before = scrape(server)
    with client(server) as http:
        good = [finished(http, submit(http, b"x" * 100)) for _ in range(3)]
        finished(http, submit(http, b"bad", pipeline="reject"), "failed")
        finished(http, submit(http, b"again", pipeline="flaky"), "failed")
        canceled = holding(http, b"wait")
        http.post(canceled["links"]["cancel"])
        finished(http, canceled, "canceled")
        held = holding(http, b"wait")
        during = scrape(server)
        go_on(server, held)
        finished(http, held)
        problem(http.post("/v1/jobs", content=b"x" * 2000), 413, "file-too-large")
        problem(http.post("/v1/jobs", files={"file": ("a.txt", b"")}), 422, "empty-file")

    def grown(name: str, **labels: str) -> float:
        return value(scrape(server), name, **labels) - value(before, name, **labels)

    wait_until(lambda: grown("intake_uploads_total", protocol="form", outcome="refused") == 1, what="all counts")
    wait_until(lambda: grown("intake_uploads_total", protocol="raw", outcome="accepted") == 7, what="all counts")
    assert grown("intake_jobs_total", status="succeeded") == len(good) + 1
    assert grown("intake_jobs_total", status="failed") == 2
    assert grown("intake_jobs_total", status="canceled") == 1
    assert grown("intake_attempts_total", reason="error") == 2
    assert grown("intake_attempts_total", reason="rejected") == 1
    assert grown("intake_attempts_total", reason="canceled") == 1
    assert grown("intake_job_duration_seconds_count") == 7
    assert grown("intake_job_queue_wait_seconds_count") == 7
    assert grown("intake_stage_duration_seconds_count", stage="checksum", outcome="succeeded") == 3
    assert grown("intake_stage_duration_seconds_count", stage="test.reject", outcome="failed") == 1
    assert grown("intake_stage_duration_seconds_count", stage="test.nonce", outcome="succeeded") == 1
    assert grown("intake_stage_duration_seconds_count", stage="test.flaky", outcome="failed") == 2
    assert 0 < grown("intake_stage_duration_seconds_sum", stage="test.hold", outcome="succeeded") < 60
    assert grown("intake_upload_bytes_total") == 3 * 100 + 3 + 5 + 4 + 4
    assert grown("intake_upload_size_bytes_count") == 7
    assert grown("intake_uploads_total", protocol="raw", outcome="refused") == 1
    assert grown("intake_refusals_total", reason="file-too-large") == 1
    assert value(during, "intake_jobs_in_progress", status="running") == 1
    assert value(during, "intake_queue_limit_jobs") == 10_000
    assert value(during, "intake_engine_up") == 1
    assert value(during, "intake_build_info", version=__version__) == 1
    assert value(during, "intake_storage_free_bytes") > 0
    assert value(scrape(server), "intake_jobs_in_progress", status="running") == 0


def test_each_process_tells_what_all_have_counted(server):
    with client(server) as http:
        finished(http, submit(http))
    for pid in workers(server):  # something for each process to count
        with stopped(pid), client(server) as http:
            assert http.get("/v1/limits").status_code == 200
    seen = []

    def agreed() -> bool:
        seen.clear()
        for pid in workers(server):
            with stopped(pid):
                found = scrape(server)
            seen.append(
                {key: told for key, told in found.items() if "metrics" not in str(key) and "free" not in key[0]}
            )
        return seen[0] == seen[1]

    wait_until(agreed, what="both processes to tell the same")
    assert value(seen[0], "intake_http_requests_total", method="GET", route="/v1/limits", status="200") >= WORKERS
    assert value(seen[0], "intake_jobs_total", status="succeeded") >= 1


def test_what_was_told_and_what_was_given_up_is_the_same_from_every_process(tmp_path):
    settings = CONTROLLED | {"webhook_allow": "127.0.0.1/32", "workers": WORKERS}
    with Receiver() as receiver, Server(tmp_path, **settings) as server, client(server) as http:
        wait_until(lambda: len(workers(server)) == WORKERS, what="workers")
        http.post("/v1/webhook-endpoints", json={"url": receiver.url})
        finished(http, submit(http))
        receiver.wait(1)
        receiver.answer = status(410)
        finished(http, submit(http))

        def told() -> list[tuple[float, ...]]:
            found = []
            for pid in workers(server):
                with stopped(pid):
                    seen = scrape(server)
                tries = [
                    value(seen, "intake_delivery_tries_total", kind="webhook", outcome=outcome)
                    for outcome in ("delivered", "failed", "dead")
                ]
                waiting, dead = (value(seen, f"intake_deliveries_{name}_jobs") for name in ("waiting", "dead"))
                found.append((*tries, waiting, dead))
            return found

        wait_until(lambda: told() == [(1, 0, 1, 0, 1)] * WORKERS, 30, "both processes to tell what was sent")


def test_a_counter_does_not_go_back_when_its_process_dies(server):
    with client(server) as http:
        for _ in range(5):
            http.get("/v1/pipelines")
    key = {"method": "GET", "route": "/v1/pipelines", "status": "200"}
    before = wait_until(
        lambda: (told := value(scrape(server), "intake_http_requests_total", **key)) >= 5 and told, what="counts"
    )
    wait_until(
        lambda: value(scrape(server), "intake_http_requests_total", **key) == before, what="both to have written"
    )
    old = workers(server)
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: len(set(workers(server)) - set(old)) == 1, what="another worker")

    assert all(value(scrape(server), "intake_http_requests_total", **key) >= before for _ in range(5))


def test_strangers_cannot_make_new_series(server):
    def visit(number: int) -> None:
        with client(server) as http:
            http.get(f"/nothing/{number}")
            http.get(f"/v1/jobs/{number}")
            http.request(f"ODD{number}", "/livez")

    def visited() -> float:
        found = scrape(server)
        return sum(
            value(found, "intake_http_requests_total", method="GET", route=route, status="404")
            for route in ("none", "/v1/jobs/{job_id}")
        )

    visit(0)
    wait_until(lambda: visited() >= 2, what="the first visit to be counted")
    before, first = len(scrape(server)), visited()
    for number in range(1, 30):
        visit(number)
    wait_until(lambda: visited() >= first + 58, what="all visits to be counted")

    assert len(scrape(server)) <= before + 5  # of other routes, that counted for the first time meanwhile
    assert not any("nothing" in str(key) or "ODD" in str(key) for key in scrape(server))


def test_prometheus_gets_its_text_format(server):
    with client(server) as http:
        answer = http.get("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.text.endswith("\n")
    assert "\r" not in answer.text
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert families == {name.removesuffix("_total") for name in METRICS}


def test_openmetrics_is_given_to_who_asks_for_it(server):
    kind = "application/openmetrics-text; version=1.0.0"
    with client(server) as http:
        answer = http.get("/metrics", headers={"Accept": f"{kind},text/plain;version=0.0.4;q=0.5"})

    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.text.endswith("# EOF\n")
    families = {family.name for family in openmetrics.text_string_to_metric_families(answer.text)}  # a strict parser
    assert families == {name.removesuffix("_total").removesuffix("_info") for name in METRICS}
