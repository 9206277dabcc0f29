"""Traces of real processes, sent to a collector of the test's own: through the queue, into attempts and their steps."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.testing import Server
from tests.integration.api import finished, submit
from tests.integration.conftest import CONTROLLED, client
from tests.waiting import find_free_port, wait_until

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = CONTROLLED | {"max_attempts": 2, "retry_base": "0s", "log_format": "json", "slots": 1}
Span = Any
SERVER, CONSUMER, INTERNAL, ERROR = 2, 5, 1, 2


class Collector:
    """Takes spans as OpenTelemetry's own would."""

    def __init__(self, url: str) -> None:
        self.env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def take(self, body: bytes) -> None:
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in batch.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in batch.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        collector = Collector(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield collector
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("traces"), env=collector.env, telemetry=True, **SETTINGS) as running:
        yield running


def test_a_trace_goes_from_the_client_through_the_queue_into_attempts_and_steps(server: Server, collector: Collector):
    given = {"traceparent": f"00-{ID}-{SPAN}-00", "tracestate": "vendor=1"}
    with client(server) as http:
        job = submit(http, b"x", pipeline="flaky", headers=given)
        finished(http, job, "failed")

    def told() -> list[Span]:
        return [
            span
            for span in collector.named("process intake.jobs")
            if attributes(span)["messaging.message.id"] == job["id"]
        ]

    attempts = wait_until(lambda: len(found := told()) == 2 and found, what="spans of both attempts")
    upload = wait_until(
        lambda: [span for span in collector.named("POST /v1/jobs") if span.trace_id.hex() == ID],
        what="the upload's span",
    )[0]
    assert (upload.kind, upload.parent_span_id.hex(), upload.trace_state) == (SERVER, SPAN, "vendor=1")
    assert attributes(upload)["http.route"] == "/v1/jobs"
    kept = server.record(job["id"])["trace"]
    assert kept["parent"].split("-")[1:3] == [ID, upload.span_id.hex()]
    assert kept["state"] == "vendor=1"

    for number, attempt in enumerate(sorted(attempts, key=lambda span: span.start_time_unix_nano), 1):
        assert attempt.kind == CONSUMER
        assert not attempt.parent_span_id
        assert attempt.trace_id != upload.trace_id
        assert [(link.trace_id, link.span_id) for link in attempt.links] == [(upload.trace_id, upload.span_id)]
        assert attributes(attempt)["intake.attempt"] == number
        assert attributes(attempt)["intake.attempt.reason"] == "error"
        assert attempt.status.code == ERROR
        steps = [span for span in list(collector.spans) if span.parent_span_id == attempt.span_id]
        names = {"stage test.flaky"} | (
            {"stage test.nonce"} if number == 1 else set()
        )  # what succeeded is not run again
        assert {step.name for step in steps} == names
        for step in steps:
            assert (step.kind, step.trace_id) == (INTERNAL, attempt.trace_id)
            assert attempt.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
            assert step.status.code == (ERROR if step.name == "stage test.flaky" else 0)
    assert collector.services == {"file-intake"}


def test_every_line_about_an_upload_and_its_attempts_has_its_trace(server: Server):
    with client(server) as http:
        job = finished(http, submit(http, b"x", headers={"traceparent": f"00-{ID}-{SPAN}-01"}))

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if line.endswith("}")]
        about = [line for line in lines if line.get("job_id") == job["id"]]
        return about if {"upload accepted", "attempt ended"} <= {line["event"] for line in about} else []

    about = wait_until(told, what="the lines")
    assert {line["trace_id"] for line in about} == {ID}


def test_what_is_no_trace_is_not_taken_for_one(server: Server, collector: Collector):
    with client(server) as http:
        job = finished(
            http, submit(http, b"x", headers={"traceparent": f"00-{ID.upper()}-{SPAN}-01", "tracestate": "a=1"})
        )

    trace = server.record(job["id"])["trace"]["parent"].split("-")[1]
    assert trace != ID.lower()
    wait_until(
        lambda: [s for s in collector.named("POST /v1/jobs") if s.trace_id.hex() == trace and not s.parent_span_id],
        what="a root span of its own",
    )


def test_probes_have_no_spans(server: Server, collector: Collector):
    with client(server) as http:
        for path in ("/livez", "/readyz", "/metrics", "/v1/limits"):
            http.get(path)
    wait_until(lambda: collector.named("GET /v1/limits"), what="the last request's span")

    assert not [
        span.name for span in collector.spans if "livez" in span.name or "readyz" in span.name or "metrics" in span.name
    ]


def test_a_collector_that_is_not_there_holds_nobody_up(tmp_path: Path):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{find_free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Server(tmp_path, env=env, telemetry=True, **SETTINGS) as server:
        with client(server) as http:
            finished(http, submit(http))
        began = time.monotonic()
        server.stop(timeout=60)
        assert time.monotonic() - began < 30
        assert len([json.loads(line) for line in server.log.splitlines()]) > 3


def test_without_being_asked_nothing_is_sent_and_the_trace_is_kept_all_the_same(tmp_path: Path):
    with collecting() as collector, Server(tmp_path, env=collector.env, **SETTINGS) as server:
        with client(server) as http:
            job = finished(http, submit(http, b"x", headers={"traceparent": f"00-{ID}-{SPAN}-01"}))
        assert server.record(job["id"])["trace"]["parent"] == f"00-{ID}-{SPAN}-01"
        server.stop()
        assert collector.spans == []
