"""What the doctor looks at, and what it says."""

from __future__ import annotations

import pytest

from service import doctor
from service.doctor import diagnose
from service.durable import locked
from service.settings import Settings
from service.wiring import build
from tests.jobs import make_job


@pytest.fixture
def settings(tmp_path):
    return Settings.load(data_dir=tmp_path / "data", min_free=0, durability="none")


@pytest.fixture
def local(settings):
    services = build(settings)
    yield services
    services.close()


def findings(settings) -> dict[str, tuple[str, str, str | None]]:
    return {finding.subject: (finding.level, finding.detail, finding.hint) for finding in diagnose(settings)}


def test_a_sound_data_directory_has_nothing_to_complain_of(settings):
    found = findings(settings)

    assert {subject: level for subject, (level, _, _) in found.items()} == dict.fromkeys(
        ("pipelines", "sync", "disk", "supervisor", "records"), "ok"
    )
    assert found["records"][1] == "0 jobs, 0 things wrong"
    assert found["sync"][1].endswith("ms for one durable write")


def test_a_start_that_cannot_work_is_the_only_finding(tmp_path):
    (tmp_path / "file").touch()

    found = diagnose(Settings.load(data_dir=tmp_path / "file" / "data"))

    assert [(finding.level, finding.subject) for finding in found] == [("ok", "pipelines"), ("fail", "start")]
    assert "INTAKE_DATA_DIR" in found[1].detail


def test_a_full_disk_is_a_failure(tmp_path):
    level, detail, hint = findings(Settings.load(data_dir=tmp_path / "data", min_free=2**60))["disk"]

    assert level == "fail"
    assert "GiB free" in detail
    assert "INTAKE_MIN_FREE" in hint


def test_a_slow_disk_is_a_warning(settings, monkeypatch):
    times = iter([0.0, 0.25])
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(times))

    assert findings(settings)["sync"][:2] == ("warn", "250.0 ms for one durable write")


def test_jobs_that_wait_without_a_supervisor_are_a_warning(settings, local):
    local.store.create(make_job())

    level, detail, hint = findings(settings)["supervisor"]

    assert (level, detail) == ("warn", "not running, 1 jobs not done")
    assert "intake worker" in hint


def test_a_supervisor_that_runs_is_seen(settings, local):
    local.store.create(make_job())
    with locked(settings.data_dir / "engine" / "supervisor.lock"):
        found = findings(settings)

    assert found["supervisor"] == ("ok", "running, 1 jobs not done", None)


def test_records_that_cannot_be_read_are_named_with_what_to_do(settings, local):
    good, corrupt, folder, uploading = [make_job() for _ in range(4)]
    for job in (good, corrupt, folder):
        local.store.create(job)
        (local.store.folder(job.id) / "source").write_bytes(b"one")
    local.storage.receive(uploading.id)._create()  # and it is going on
    local.store.folder(uploading.id).mkdir()
    (local.store.folder(corrupt.id) / "job.json").write_bytes(b"{")
    (local.store.folder(folder.id) / "job.json").unlink()
    (local.store.folder(folder.id) / "job.json").mkdir()

    found = findings(settings)

    level, detail, hint = found[f"job {corrupt.id}"]
    assert level == "fail"
    assert "cannot be read" in detail
    assert str(local.store.folder(corrupt.id)) in hint
    assert f"intake jobs delete {corrupt.id}" in hint
    assert found[f"job {folder.id}"][0] == "fail"
    assert found["records"][:2] == ("fail", "3 jobs, 2 things wrong")
    assert f"job {good.id}" not in found
