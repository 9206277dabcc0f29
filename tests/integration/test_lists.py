"""Lists of jobs: order, filters, pages that lose nothing while jobs come in."""

from __future__ import annotations

import base64
import re
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.api import accepted, finished, go_on, holding, problem, sha256, submit
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from service.testing import Server


@pytest.fixture
def run() -> str:
    """Give the value of a label that only the jobs of this test have."""
    return uuid.uuid4().hex


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


def following(answer: httpx.Response) -> str | None:
    """Return the path of the next page, which body and header must agree on."""
    link = answer.headers.get("Link")
    cursor = answer.json()["next_cursor"]
    if link is None:
        assert cursor is None
        return None
    found = re.fullmatch(r'<(/v1/jobs\?[^>]+)>; rel="next"', link)
    assert found, link
    assert parse_qs(urlsplit(found[1]).query)["cursor"] == [cursor]
    return found[1]


def pages(http: httpx.Client, path: str) -> Iterator[list[str]]:
    """Yield the ids of page after page."""
    step: str | None = path
    while step is not None:
        answer = http.get(step)
        yield ids(answer)
        step = following(answer)


def walk(http: httpx.Client, path: str) -> list[str]:
    """Return the ids of all pages."""
    return [job_id for page in pages(http, path) for job_id in page]


def test_the_newest_job_comes_first(http: httpx.Client, run: str):
    made = [submit(http, run=run)["id"] for _ in range(5)]
    answer = http.get(f"/v1/jobs?label.run={run}")
    assert ids(answer) == made[::-1]
    assert following(answer) is None
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.text.endswith("}\n")
    assert http.head(f"/v1/jobs?label.run={run}").status_code == 200


def test_a_list_of_nothing_is_a_list(http: httpx.Client, run: str):
    assert http.get(f"/v1/jobs?label.run={run}").json() == {"items": [], "next_cursor": None}


def test_a_list_is_filtered_by_status(http: httpx.Client, server: Server, run: str):
    good = finished(http, submit(http, run=run))["id"]
    bad = finished(http, submit(http, pipeline="reject", run=run), "failed")["id"]
    held = holding(http, run=run)
    here = f"/v1/jobs?label.run={run}"
    assert ids(http.get(f"{here}&status=succeeded")) == [good]
    assert ids(http.get(f"{here}&status=failed")) == [bad]
    assert ids(http.get(f"{here}&status=running")) == [held["id"]]
    assert ids(http.get(f"{here}&status=failed,succeeded")) == [bad, good]
    assert ids(http.get(f"{here}&status=failed&status=running")) == [held["id"], bad]
    assert ids(http.get(f"{here}&status=queued,canceled")) == []
    assert ids(http.get(f"{here}&status=")) == [held["id"], bad, good]
    go_on(server, held)
    finished(http, held)
    assert ids(http.get(f"{here}&status=running")) == []


def test_a_list_is_filtered_by_what_is_known_of_the_file(http: httpx.Client, run: str):
    text = finished(http, submit(http, b"some text\n" + run.encode(), pipeline="identify", run=run))
    other = finished(http, submit(http, b"\x00\x01" + run.encode(), pipeline="checksum", run=run))
    here = f"/v1/jobs?label.run={run}"
    assert ids(http.get(f"{here}&type=text/plain")) == [text["id"]]
    assert ids(http.get(f"{here}&type=image/png")) == []
    assert ids(http.get(f"{here}&pipeline=checksum")) == [other["id"]]
    assert ids(http.get(f"{here}&pipeline=no-such")) == []
    assert ids(http.get(f"/v1/jobs?sha256={text['file']['sha256']}")) == [text["id"]]
    assert ids(http.get(f"/v1/jobs?sha256={sha256(run.encode())}")) == []


def test_a_list_is_filtered_by_the_moment_of_upload(http: httpx.Client, run: str):
    made: list[dict[str, Any]] = []
    for _ in range(3):
        last = made[-1]["created_at"] if made else ""
        made.append(wait_until(lambda last=last: (job := submit(http, run=run))["created_at"] != last and job))
    answer = http.get("/v1/jobs", params={"label.run": run, "created_after": made[1]["created_at"]})
    assert {made[1]["id"], made[2]["id"]} <= set(ids(answer))
    assert made[0]["id"] not in ids(answer)
    answer = http.get("/v1/jobs", params={"label.run": run, "created_before": made[1]["created_at"]})
    assert made[0]["id"] in ids(answer)
    assert not {made[1]["id"], made[2]["id"]} & set(ids(answer))
    both = {"created_after": made[1]["created_at"], "created_before": made[2]["created_at"]}
    assert made[1]["id"] in ids(http.get("/v1/jobs", params={"label.run": run} | both))
    elsewhere = datetime.fromisoformat(made[1]["created_at"]) + timedelta(milliseconds=1)
    answer = http.get("/v1/jobs", params={"label.run": run, "created_after": f"{elsewhere:%Y-%m-%dT%H:%M:%S.%f}+00:00"})
    assert made[0]["id"] not in ids(answer)


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_the_ends_of_time_are_moments_too(http: httpx.Client, run: str, moment: str, name: str):
    made = submit(http, run=run)["id"]
    found = ids(http.get("/v1/jobs", params={"label.run": run, name: moment}))
    assert found == ([made] if (moment < "2000") == (name == "created_after") else [])


def test_a_list_is_filtered_by_labels(http: httpx.Client, run: str):
    first = submit(http, run=run, kind="Käse & Brot")["id"]
    second = submit(http, run=run, kind="")["id"]
    submit(http, run=run)
    query = {"label.run": run, "label.kind": "Käse & Brot"}
    assert ids(http.get("/v1/jobs", params=query)) == [first]
    assert ids(http.get("/v1/jobs", params={"label.run": run, "label.kind": ""})) == [second]
    assert ids(http.get("/v1/jobs", params={"label.run": run, "label.other": "x"})) == []
    assert ids(http.get("/v1/jobs", params={"label.run": "' or 1=1 --"})) == []


@pytest.mark.parametrize(
    "query",
    [
        "extra=1",
        "label.=x",
        "label=x",
        "labels.a=x",
        "Status=failed",
        "status=done",
        "status=failed,nonsense",
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "limit=",
        "sha256=abc",
        "sha256=" + "A" * 64,
        "created_after=yesterday",
        "created_after=2026-11-22T10:00:00",
        "created_before=2026-13-01T00:00:00Z",
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(http: httpx.Client, query: str):
    problem(http.get(f"/v1/jobs?{query}"), 422, "validation-error")


def test_a_wrong_parameter_is_named_and_its_value_is_not_repeated(http: httpx.Client):
    found = problem(http.get("/v1/jobs?limit=<script>&created_after=<script>"), 422, "validation-error")
    assert {(error["parameter"], error["in"]) for error in found["errors"]} == {
        ("limit", "query"),
        ("created_after", "query"),
    }
    assert "<script>" not in str(found)


def test_a_limit_over_the_most_is_the_most(http: httpx.Client, run: str):
    submit(http, run=run)
    for limit in (500, 501, 10**6, 10**30):
        assert len(ids(http.get(f"/v1/jobs?label.run={run}&limit={limit}"))) == 1


def test_a_walk_over_pages_loses_and_repeats_nothing_while_jobs_come_in(http: httpx.Client, run: str):
    made = [submit(http, run=run)["id"] for _ in range(12)]
    seen: list[list[str]] = []
    for page in pages(http, f"/v1/jobs?label.run={run}&limit=5"):
        seen.append(page)
        submit(http, run=run)
    assert [len(page) for page in seen] == [5, 5, 2]
    assert [job_id for page in seen for job_id in page] == made[::-1]


def test_a_walk_goes_on_when_jobs_on_its_way_are_deleted(http: httpx.Client, run: str):
    made = [finished(http, submit(http, run=run)) for _ in range(6)][::-1]
    first = http.get(f"/v1/jobs?label.run={run}&limit=2")
    for job in made[1:4]:  # the last of the page seen, and the next page
        http.delete(job["links"]["self"])
    step = following(first)
    assert step is not None
    assert walk(http, step) == [made[4]["id"], made[5]["id"]]


def test_a_page_that_is_just_full_is_the_last(http: httpx.Client, run: str):
    made = [submit(http, run=run)["id"] for _ in range(4)]
    assert list(pages(http, f"/v1/jobs?label.run={run}&limit=2")) == [made[:1:-1], made[1::-1]]


def test_a_walk_keeps_its_filters(http: httpx.Client, run: str):
    made = [submit(http, run=run, kind="ä&b=c")["id"] for _ in range(3)]
    submit(http, run=run, kind="other")
    start = http.get(
        "/v1/jobs", params={"label.run": run, "label.kind": "ä&b=c", "limit": 1, "status": "queued,running,succeeded"}
    )
    step = following(start)
    assert step is not None
    assert ids(start) + walk(http, step) == made[::-1]


@pytest.mark.parametrize(
    "cursor",
    ["x", "!!!", "=", "ä", "a" * 5000, base64.urlsafe_b64encode(b"nonsense.00000000").decode(), "%00", "AAAA", "+/+/"],
)
def test_a_cursor_that_is_none_is_refused(http: httpx.Client, cursor: str):
    problem(http.get("/v1/jobs", params={"cursor": cursor}), 400, "cursor-invalid")


def test_a_cursor_of_another_query_is_refused(http: httpx.Client, run: str):
    for _ in range(3):
        submit(http, run=run)
    first = http.get(f"/v1/jobs?label.run={run}&limit=1")
    cursor = first.json()["next_cursor"]
    for query in (
        f"label.run={run}&status=failed",
        f"label.run={run}x",
        "limit=1",
        f"label.run={run}&created_after=2026-01-01T00:00:00Z",
    ):
        problem(http.get(f"/v1/jobs?{query}&cursor={cursor}"), 400, "cursor-invalid")
    assert len(ids(http.get(f"/v1/jobs?label.run={run}&limit=2&cursor={cursor}"))) == 2  # the limit may change


def test_a_list_finds_every_job_without_its_index(http: httpx.Client, server: Server, run: str):
    made = [accepted(http.post(f"/v1/jobs?labels.run={run}&pipeline=checksum", content=b"1"))["id"] for _ in range(3)]
    for path in (server.data_dir / "engine").glob("index.db*"):
        path.unlink()
    assert ids(http.get(f"/v1/jobs?label.run={run}")) == made[::-1]
    assert walk(http, f"/v1/jobs?label.run={run}&limit=1") == made[::-1]
