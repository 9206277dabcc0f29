"""What a process loads: attempts carry no web framework, the command line answers before it loads anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service import testing
from tests.needs import need_library

WEB = {"fastapi", "starlette", "uvicorn"}


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages and the modules of the service that ``code`` loads in a fresh interpreter."""
    ending = "\nimport sys; print('\\n'.join(sys.modules))"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", code + ending]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=unmeasured)
    names = result.stdout.splitlines()
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith("service.")}


@pytest.mark.parametrize("module", ["service.execution.zygote", "service.execution.child"])
def test_an_attempt_loads_no_web_framework_and_no_settings(module):
    loaded = loaded_by(f"import {module}")

    assert module in loaded
    assert loaded.isdisjoint(WEB | {"uvloop", "httptools", "typer", "rich", "pydantic_settings", "sqlite3"})
    assert loaded.isdisjoint({"service.settings", "service.wiring", "service.api", "service.jobs.file_store"})


def test_a_supervisor_loads_no_web_framework():
    assert loaded_by("import service.execution.supervisor").isdisjoint(WEB)


def test_the_doubles_load_no_web_framework():
    assert loaded_by("import service.wiring").isdisjoint(WEB)


def test_a_client_loads_nothing_of_the_service_it_talks_to():
    loaded = loaded_by("import service.client")

    assert loaded.isdisjoint(WEB | {"PIL", "aiofiles", "pydantic_settings"})
    assert not any(name.startswith(("service.jobs", "service.storage", "service.api")) for name in loaded)


def test_the_tests_of_others_load_a_double_when_they_ask_for_it():
    cheap = loaded_by("import service.testing")
    asked = loaded_by("from service.testing import MemoryJobStore; MemoryJobStore()")

    assert {name for name in cheap if name.startswith("service.")} == {"service.testing"}
    assert "service.jobs.memory_store" in asked


def test_every_double_can_be_had_from_one_place():
    assert [getattr(testing, name).__name__ for name in testing._DOUBLES] == list(testing._DOUBLES)
    with pytest.raises(ImportError):
        from service.testing import MemoryEngine  # noqa: F401


def test_help_is_answered_before_anything_is_loaded():
    help_page = """if True:
        import contextlib, io, sys
        sys.argv = ["intake", "--help"]
        from service.cli import main
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as page:
            main()
        assert "serve" in page.getvalue()
    """
    loaded = loaded_by(help_page)

    assert loaded.isdisjoint(WEB | {"pydantic", "httpx", "PIL", "sqlite3", "structlog", "anyio", "asyncio"})
    own = {name for name in loaded if name.startswith("service.") and not name.startswith("service.cli")}
    assert own <= {"service.errors"}


def test_celery_is_loaded_by_its_engine_alone():
    assert loaded_by("import service.wiring, service.app, service.execution.supervisor").isdisjoint(
        {"celery", "kombu", "redis"}
    )
    need_library("celery")
    assert "celery" in loaded_by("import service.engines.celery.engine")


def test_a_missing_celery_is_named_with_how_to_get_it(tmp_path):
    code = """
import sys
sys.modules["celery"] = None
from service.errors import ConfigError
from service.settings import Settings
from service.engine import build_worker, require_engine
from service.wiring import build
settings = Settings.load(engine="celery", broker_url="amqp://mq", data_shared=True, data_dir=sys.argv[1])
for part in (build, build_worker, require_engine):
    try:
        part(settings)
    except ConfigError as error:
        print(error.detail)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    wanted = "INTAKE_ENGINE: celery is not installed; pip install 'file-intake[celery]'"
    assert result.stdout.splitlines() == [wanted] * 3
