"""The composition root: parts that fit, fakes instead of them, and a start that says what is wrong."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.app import create_app
from service.clock import HeldClock
from service.engines.local import LocalEngine
from service.errors import ConfigError
from service.execution import sandbox
from service.execution.launcher import ForkLauncher, SpawnLauncher
from service.intake import Intake
from service.jobs.file_store import FileJobStore
from service.settings import Settings
from service.storage.local import LocalStorage
from service.wiring import build, build_in_memory, build_runner, load_catalogue
from tests.jobs import NOON, make_job


@pytest.fixture
def settings(tmp_path):
    return Settings.load(data_dir=tmp_path / "data")


def test_the_parts_of_one_machine_share_its_data_directory(settings):
    services = build(settings)

    assert (type(services.store), type(services.storage), type(services.engine)) == (
        FileJobStore,
        LocalStorage,
        LocalEngine,
    )
    job = make_job()
    assert services.store.folder(job.id) == services.storage.folder(job.id)
    assert {path.name for path in settings.data_dir.iterdir()} == {
        "access",
        "jobs",
        "incoming",
        "pending",
        "keys",
        "quarantine",
        "outbox",
        "deadletters",
        "trash",
        "engine",
    }
    services.close()


def test_nothing_runs_and_nothing_listens_until_it_is_started(settings):
    services = build(settings)

    assert list((settings.data_dir / "engine").iterdir()) == []
    services.close()


@pytest.mark.parametrize(("durability", "sync"), [("sync", True), ("none", False)])
def test_durability_decides_whether_the_disk_syncs(tmp_path, durability, sync):
    services = build(Settings.load(data_dir=tmp_path / "data", durability=durability))

    assert services.storage.disk.sync is sync
    services.close()


def test_the_reserve_is_kept_free(tmp_path):
    assert build(Settings.load(data_dir=tmp_path / "data", min_free=2**60)).storage.free() < 0


def test_a_clock_that_is_passed_in_is_everybodys(settings):
    clock = HeldClock(NOON)

    services = build(settings, clock=clock)
    memory = build_in_memory(settings, clock=clock)

    assert services.clock is memory.clock is clock
    services.close()


def test_parts_can_be_replaced(settings):
    memory = build_in_memory(settings)
    services = dataclasses.replace(build(settings, catalogue=memory.catalogue), store=memory.store)

    app = create_app(services=services)

    assert app.state.intake.services is services
    assert Intake(services).services.store is memory.store


def test_the_doubles_leave_nothing_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    services = build_in_memory(Settings.load())
    folder = services.storage._folder

    services.close()
    del services

    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()


@pytest.mark.parametrize(("start", "launcher"), [("fork", ForkLauncher), ("spawn", SpawnLauncher)])
def test_the_setting_names_how_attempts_start(tmp_path, start, launcher):
    services = build(Settings.load(data_dir=tmp_path / "data", attempt_start=start))

    assert type(build_runner(services.settings, services)[1]) is launcher
    services.close()


# what is refused


def refusal(function, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    return caught.value.detail


def test_a_data_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()

    assert refusal(build, Settings.load(data_dir=tmp_path / "file")).startswith(
        f"INTAKE_DATA_DIR={tmp_path / 'file'}: "
    )


def test_a_data_directory_below_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()

    assert refusal(build, Settings.load(data_dir=tmp_path / "file" / "data")).startswith("INTAKE_DATA_DIR=")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").exists(), reason="this system has no closed folder")
def test_a_data_directory_that_cannot_be_written_is_named():
    settings = Settings.load(data_dir=Path("/proc/sys/intake"))

    assert refusal(build, settings).startswith("INTAKE_DATA_DIR=/proc/sys/intake: ")


def test_a_missing_folder_of_processors_is_named(tmp_path):
    assert refusal(load_catalogue, Settings.load(processors_dir=tmp_path / "gone")) == (
        f"INTAKE_PROCESSORS_DIR: there is no folder {tmp_path / 'gone'}"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def broken(", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("x = 1", "processor"),
        ("from processors import processor\n@processor('checksum')\ndef mine(ctx):\n    return {}", "checksum"),
    ],
)
def test_a_processor_that_cannot_be_used_is_named_with_its_file(tmp_path, text, why):
    (tmp_path / "mine.py").write_text(text)

    told = refusal(load_catalogue, Settings.load(processors_dir=tmp_path))

    assert str(tmp_path / "mine.py") in told
    assert why in told


STEP = "[[pipelines.mine.steps]]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[pipelines", "is not TOML"),
        ("[pipelines.mine]\n", 'pipeline "mine": has no steps'),
        (STEP + 'processor = "checksun"', "'checksum'"),
        (STEP + 'processor = "checksum"\noptions = { speed = 3 }', 'step "checksum": unknown option'),
        (STEP + 'processor = "checksum"\ninput = "other/file"', "is not from an earlier step"),
        (STEP + 'processor = "checksum"\n' + STEP + 'processor = "checksum"', "used by an earlier step"),
    ],
)
def test_a_pipeline_that_cannot_work_is_named_with_file_and_step(tmp_path, text, why):
    file = tmp_path / "mine.toml"
    file.write_text(text)

    told = refusal(load_catalogue, Settings.load(pipelines=file))

    assert told.startswith(f"{file}: ")
    assert why in told


def test_a_missing_file_of_pipelines_is_named(tmp_path):
    assert str(tmp_path / "gone.toml") in refusal(load_catalogue, Settings.load(pipelines=tmp_path / "gone.toml"))


def test_a_default_pipeline_that_is_none_is_told_with_those_there_are():
    told = refusal(load_catalogue, Settings.load(default_pipeline="quick"))

    assert told.startswith("INTAKE_DEFAULT_PIPELINE=quick: there is no such pipeline; there are ")
    assert "default" in told


def test_a_strict_sandbox_that_this_system_has_not_is_refused(settings, monkeypatch):
    services = build_in_memory()
    monkeypatch.setattr("service.wiring.missing", lambda: ["seccomp"])

    assert "INTAKE_SANDBOX=strict" in refusal(build_runner, Settings.load(sandbox="strict"), services)


def test_a_strict_sandbox_that_this_system_has_is_taken():
    if lacks := sandbox.missing():
        pytest.skip(f"this system lacks {' and '.join(lacks)}")

    build_runner(Settings.load(sandbox="strict"), build_in_memory())


def test_a_wrong_start_of_a_process_says_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
    environment = {**os.environ, "INTAKE_DATA_DIR": str(tmp_path / "data"), "INTAKE_DEFAULT_PIPELINE": "quick"}

    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    assert result.returncode != 0
    assert "INTAKE_DEFAULT_PIPELINE=quick" in result.stderr
    assert "Traceback" not in result.stderr
