"""The API against a model of it: whatever is asked in whatever order, the answer is the one that the promises allow."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from processors import Options, Reject, processor
from processors.pipeline import Pipeline, make_step
from processors.registry import Registry
from service.app import create_app
from service.settings import Settings
from service.wiring import Catalogue, build_in_memory
from tests.integration.api import problem

UNKNOWN = "01a204d8-c3fa-7168-9fb1-adb5294c50d9"
ENDS = {"succeeded", "failed", "canceled"}
KEYS = st.none() | st.sampled_from(["k-1", "k-2"])
LABELS = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), max_size=2)
CONTENTS = st.sampled_from([b"good", b"good too", b"reject", b"fail"]) | st.binary(min_size=1, max_size=40)


class NoOptions(Options):
    """None."""


@processor("test.judge")
def judge(ctx):
    """End as the file says."""
    content = ctx.input.read_bytes()
    if content == b"reject":
        raise Reject("not-wanted", "This file is not wanted.", "Send another one.")
    if content == b"fail":
        raise ValueError("a fault")
    ctx.output("copy.bin", media_type="application/octet-stream").write_bytes(content)
    return {"size": len(content)}


@cache
def catalogue() -> Catalogue:
    registry = Registry([judge])
    steps = (make_step(registry, "test.judge"),)
    pipelines = {name: Pipeline(name=name, description="For tests.", steps=steps) for name in ("one", "two")}
    return Catalogue(registry=registry, pipelines=pipelines, default="one")


@dataclass
class Known:
    """What a job must be by now."""

    id: str
    content: bytes
    name: str
    pipeline: str
    labels: dict[str, str]
    status: str = "queued"
    tags: dict[str, str] = field(default_factory=dict)  #: bodies by the ETag that they came with


def fate(content: bytes) -> str:
    return "failed" if content in (b"reject", b"fail") else "succeeded"


class Api(RuleBasedStateMachine):
    """Uploads, looks, cancels, retries and deletes, with an engine that comes and goes."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.services = build_in_memory(Settings(max_upload=64, max_attempts=1), catalogue=catalogue())
        transport = httpx.ASGITransport(app=create_app(services=self.services), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        self.known: dict[str, Known] = {}
        self.keys: dict[str, Known] = {}
        self.away = False

    def teardown(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.close()
        self.services.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.runner.run(self.http.request(method, path, **options))
        assert answer.status_code < 500, answer.text
        assert answer.headers["X-Request-ID"]
        return answer

    def settle(self, job: Known) -> None:
        if not self.away:
            job.status = fate(job.content)

    @rule(
        target=jobs, content=CONTENTS, name=st.text(max_size=20), pipeline=st.sampled_from([None, "one", "two"]), labels=LABELS,
        key=KEYS, as_form=st.booleans(),
    )  # fmt: skip
    def upload(self, content, name, pipeline, labels, key, as_form):
        headers = {"Idempotency-Key": key} if key else {}
        fields = {f"labels.{label}": value for label, value in labels.items()} | (
            {"pipeline": pipeline} if pipeline else {}
        )
        name = "".join(char for char in name if char.isprintable() and char not in '"\\')
        if as_form:
            answer = self.ask("POST", "/v1/jobs", data=fields, files={"file": (name or "a", content)}, headers=headers)
        else:
            answer = self.ask(
                "POST", "/v1/jobs", params={"filename": name or "a", **fields}, content=content, headers=headers
            )
        earlier = self.keys.get(key) if key else None
        if earlier is not None and answer.status_code == 422:
            problem(answer, 422, "idempotency-key-reused")
            assert (earlier.content, earlier.pipeline, earlier.labels, earlier.name) != (
                content,
                pipeline or "one",
                labels,
                name,
            )
            return earlier.id
        assert answer.status_code == 202, answer.text
        document = answer.json()
        if earlier is not None:
            assert document["id"] == earlier.id
            assert answer.headers["Idempotency-Replayed"] == "true"
            assert earlier.content == content
            return earlier.id
        assert "Idempotency-Replayed" not in answer.headers
        assert document["id"] not in self.known
        job = Known(document["id"], content, name, pipeline or "one", labels)
        self.known[job.id] = job
        if key:
            self.keys[key] = job
        self.settle(job)
        return job.id

    @rule(job_id=jobs)
    def look(self, job_id):
        job = self.known.get(job_id)
        answer = self.ask("GET", f"/v1/jobs/{job_id}")
        if job is None:
            problem(answer, 404, "job-not-found")
            return
        document = answer.json()
        assert (document["status"], document["done"]) == (job.status, job.status in ENDS)
        assert document["file"]["sha256"] == hashlib.sha256(job.content).hexdigest()
        assert (document["file"]["size"], document["pipeline"], document["labels"]) == (
            len(job.content),
            job.pipeline,
            job.labels,
        )
        assert set(document["links"]) >= {"self", "source"}
        assert ("cancel" in document["links"]) == (job.status == "queued")
        assert ("retry" in document["links"]) == (job.status in ("failed", "canceled"))
        tag = answer.headers["ETag"]
        assert job.tags.setdefault(tag, answer.text) == answer.text, "one tag for two states"
        assert self.ask("GET", f"/v1/jobs/{job_id}", headers={"If-None-Match": tag}).status_code == 304

    @rule(job_id=jobs)
    def read(self, job_id):
        job = self.known.get(job_id)
        answer = self.ask("GET", f"/v1/jobs/{job_id}/source")
        if job is None:
            problem(answer, 404, "job-not-found")
        else:
            assert (answer.status_code, answer.content) == (200, job.content)
        copy = self.ask("GET", f"/v1/jobs/{job_id}/artifacts/test.judge/copy.bin")
        if job is not None and job.status == "succeeded":
            assert (copy.status_code, copy.content) == (200, job.content)
        else:
            assert copy.status_code == 404

    @rule(job_id=jobs)
    def cancel(self, job_id):
        job = self.known.get(job_id)
        answer = self.ask("POST", f"/v1/jobs/{job_id}/cancel")
        if job is None:
            problem(answer, 404, "job-not-found")
        elif job.status in ("succeeded", "failed"):
            problem(answer, 409, "job-already-done")
        else:
            assert answer.status_code in (200, 202), answer.text
            job.status = "canceled"

    @rule(job_id=jobs)
    def retry(self, job_id):
        job = self.known.get(job_id)
        answer = self.ask("POST", f"/v1/jobs/{job_id}/retry")
        if job is None:
            problem(answer, 404, "job-not-found")
        elif job.status not in ("failed", "canceled"):
            problem(answer, 409, "job-not-failed")
        else:
            assert answer.status_code == 202, answer.text
            job.status = "queued"
            self.settle(job)

    @rule(job_id=jobs)
    def delete(self, job_id):
        job = self.known.get(job_id)
        answer = self.ask("DELETE", f"/v1/jobs/{job_id}")
        if job is None:
            problem(answer, 404, "job-not-found")
        elif job.status not in ENDS:
            problem(answer, 409, "job-not-done")
        else:
            assert answer.status_code == 204
            del self.known[job_id]
            self.keys = {key: other for key, other in self.keys.items() if other.id != job_id}

    @rule(
        status=st.sampled_from([None, "queued", "succeeded", "failed", "canceled"]),
        labels=LABELS,
        limit=st.integers(1, 3),
    )
    def page(self, status, labels, limit):
        found: list[str] = []
        query: dict[str, Any] = {f"label.{key}": value for key, value in labels.items()} | {"limit": limit}
        query |= {"status": status} if status else {}
        while True:
            body = self.ask("GET", "/v1/jobs", params=query).json()
            assert len(body["items"]) <= limit
            found += [item["id"] for item in body["items"]]
            if body["next_cursor"] is None:
                break
            query["cursor"] = body["next_cursor"]
        wanted = [
            job for job in self.known.values() if status in (None, job.status) and labels.items() <= job.labels.items()
        ]
        assert sorted(found) == sorted(job.id for job in wanted)
        assert found == sorted(found, reverse=True), "newest first"

    @rule(content=st.sampled_from([b"", b"x" * 65]))
    def send_what_is_not_taken(self, content):
        answer = self.ask("POST", "/v1/jobs", content=content)
        problem(answer, *((413, "file-too-large") if content else (422, "empty-file")))

    @rule(method=st.sampled_from(["GET", "DELETE"]), job_id=st.sampled_from([UNKNOWN, "x", "..", "%00"]))
    def ask_for_what_is_not_there(self, method, job_id):
        assert self.ask(method, f"/v1/jobs/{job_id}").status_code in (404, 405)

    @rule()
    def the_engine_goes(self):
        self.runner.run(self.services.engine.stop())
        self.away = True

    @rule()
    def the_engine_comes(self):
        self.runner.run(self.services.engine.start())
        self.runner.run(self.services.engine.run_due())
        self.away = False
        for job in self.known.values():
            if job.status == "queued":
                job.status = fate(job.content)

    @invariant()
    def what_waits_is_pending(self):
        waiting = {job.id for job in self.known.values() if job.status == "queued"}
        assert waiting <= set(self.services.store.pending())


SHORT = settings(max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck))


class TestApi(Api.TestCase):
    settings = SHORT


@pytest.mark.soak
@pytest.mark.fuzz
class TestApiAtLength(Api.TestCase):
    settings = settings(
        max_examples=300, stateful_step_count=60, suppress_health_check=list(HealthCheck), derandomize=False
    )
