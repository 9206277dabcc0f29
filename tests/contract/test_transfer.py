"""Moving records between stores: from each to each, nothing is lost, and nothing is there twice."""

from __future__ import annotations

import pytest

from service import transfer
from service.access.model import Scope, new_token
from service.access.store import judge
from service.durable import locked
from service.errors import ConfigError, Conflict
from service.jobs.model import Job, JobStatus
from service.notify.endpoints import KEPT, Endpoint, callback_id, new_endpoint
from service.settings import Settings
from service.wiring import Services, build
from tests.jobs import NOON, make_ended, make_job

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def places(records_url, tmp_path):
    """Give services over the same bytes, with records as files and in PostgreSQL."""
    both = {
        name: build(Settings.load(data_dir=tmp_path / "data", records=url, durability="none"))
        for name, url in (("files", "files"), ("postgres", records_url))
    }
    yield both
    for services in both.values():
        services.close()


def shown(services: Services) -> dict[str, Job]:
    return {job_id: services.store.get(job_id) for job_id in services.store.walk()}


@pytest.mark.parametrize(("source", "target"), [("files", "postgres"), ("postgres", "files")])
def test_records_and_keys_move(places, tmp_path, source, target):
    old, new = places[source], places[target]
    waiting = make_job(labels={"source": "mail"}, key="5c" * 32, owner="a")
    with old.store.hold_key(waiting.key) as hold:
        hold.bind(waiting.id)
        old.store.create(waiting)
    running = make_job()
    old.store.create(running)
    old.store.claim(running.id, lambda job: job.claimed(NOON))[1].release()
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED):
        old.store.create(job := make_ended(status))
        old.store.settle(job.id)

    moved = transfer.export(old, tmp_path / "export")
    taken = transfer.load(new, tmp_path / "export")
    again = transfer.load(new, tmp_path / "export")

    assert (moved.records, moved.failed) == (5, ())
    assert (taken.records, taken.skipped, taken.failed) == (5, 0, ())
    assert (again.records, again.skipped) == (0, 5)
    assert shown(new) == shown(old)
    assert new.store.pending() == old.store.pending() == sorted([waiting.id, running.id])
    with new.store.hold_key(waiting.key) as hold:
        assert hold.known == waiting.id
    new.store.update(waiting.id, lambda job: job.canceled(NOON))
    transfer.export(new, tmp_path / "back")
    assert transfer.load(old, tmp_path / "back").records == 1
    assert shown(new) == shown(old)


def test_what_cannot_be_read_is_named_and_the_rest_moves(places, tmp_path):
    files, database = places["files"], places["postgres"]
    good, bad = make_job(), make_job()
    for job in (good, bad):
        files.store.create(job)
    (files.store.folder(bad.id) / "job.json").write_bytes(b"{")

    moved = transfer.export(files, tmp_path / "export")
    with (tmp_path / "export" / transfer.NAME).open("ab") as lines:
        lines.write(b"nonsense\n{}\n")
    taken = transfer.load(database, tmp_path / "export")

    assert (moved.records, len(moved.failed)) == (1, 1)
    assert bad.id in moved.failed[0]
    assert taken.records == 1
    assert [reason.partition(":")[0] for reason in taken.failed] == ["line 2", "line 3"]
    assert list(shown(database)) == [good.id]


def test_nothing_moves_while_the_service_runs_or_over_an_export(places, tmp_path):
    files = places["files"]
    transfer.export(files, tmp_path / "export")
    with pytest.raises(Conflict, match="There is an export"):
        transfer.export(files, tmp_path / "export")
    with pytest.raises(ConfigError, match="there is no export"):
        transfer.load(files, tmp_path)
    with locked(tmp_path / "data" / "engine" / "supervisor.lock"):
        for act in (transfer.export, transfer.load):
            with pytest.raises(Conflict, match="The service runs"):
                act(files, tmp_path / "other")


def test_a_tombstone_is_not_undone(places, tmp_path):
    files, database = places["files"], places["postgres"]
    job = make_ended(JobStatus.SUCCEEDED)
    files.store.create(job)
    transfer.export(files, tmp_path / "export")
    database.store.create(job)
    database.store.delete(job.id, lambda _: None, tombstone=True)

    assert transfer.load(database, tmp_path / "export").skipped == 1
    assert shown(database) == {}


@pytest.mark.parametrize(("source", "target"), [("files", "postgres"), ("postgres", "files")])
def test_tokens_and_endpoints_move(places, tmp_path, source, target):
    old, new = places[source], places[target]
    text, token = new_token("scanner", frozenset({Scope.READ}), NOON)
    old.tokens.add(token)
    _, endpoint = new_endpoint("https://hooks.example.org/in", NOON).rotated(NOON, KEPT)
    _, callback = Endpoint(id=callback_id("a"), created_at=NOON).rotated(NOON, KEPT)
    for one in (endpoint, callback):
        old.endpoints.put(one)

    transfer.export(old, tmp_path / "export")
    for _ in range(2):
        transfer.load(new, tmp_path / "export")
    new.tokens.change(token.id, lambda kept: kept.revoked(NOON))
    transfer.load(new, tmp_path / "export")

    assert judge(old.tokens, text, NOON)
    assert judge(new.tokens, text, NOON) is None, "what is there already stays as it is"
    assert new.endpoints.standing() == [endpoint]
    assert new.endpoints.get(callback.id) == callback
    assert (tmp_path / "export" / transfer.ACCESS).stat().st_mode & 0o077 == 0
