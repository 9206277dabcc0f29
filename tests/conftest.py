"""What all tests share: the settings of the person who runs them do not count, and a few fixtures."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.needs import missing_library, need, need_library
from tests.postgres import PostgresServer, running
from tests.waiting import find_free_port

if TYPE_CHECKING:
    from service.jobs.postgres.database import Database
    from tests.s3 import S3Server

EXPLORE = bool(os.environ.get("INTAKE_TEST_EXPLORE"))  # `make fuzz` tries something new each time; the suite never does
hypothesis.settings.register_profile("tests", deadline=None, derandomize=not EXPLORE)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of ``tests.needs``, and forget the INTAKE_ variables that are not for the tests themselves."""
    config.addinivalue_line("markers", "needs(*names): programs of tests.needs.NEEDS without which the test cannot run")
    for name in list(os.environ):
        if name.startswith("INTAKE_") and not name.startswith("INTAKE_TEST_"):
            del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test that needs what is missing, before any of its fixtures."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            need(name)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a module that is about an extra which is not installed, unless all tests must run here."""
    report = yield
    reason = missing_library(str(report.longrepr)) if report.failed else None
    if reason and not os.environ.get("INTAKE_TEST_REQUIRE"):
        report.outcome = "skipped"
        report.longrepr = (report.nodeid, 0, f"Skipped: {reason}")
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio alone."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Give the PostgreSQL server of this test process; ``template`` is a migrated database on it, to be copied."""
    need_library("psycopg")
    from service.jobs.postgres.schema import migrate

    with running() as server:
        server.sql("create database template")
        migrate(server.url("template"))
        yield server


@pytest.fixture
def records_url(postgres: PostgresServer) -> Iterator[str]:
    """Give the URL of a fresh, migrated database, dropped afterwards with whoever still uses it."""
    name = postgres.create_database("template")
    yield postgres.url(name)
    postgres.sql(f"drop database if exists {name} with (force)")


@pytest.fixture
def database(records_url: str) -> Iterator[Database]:
    """Give connections to a fresh, migrated database."""
    from service.jobs.postgres.schema import opened

    with closing(opened(records_url, durable=False, size=4)) as database:
        yield database


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Give the S3 server of this test process; whoever uses botocore in it has its credentials."""
    need_library("botocore")
    from tests.s3 import CREDENTIALS
    from tests.s3 import running as s3_running

    with pytest.MonkeyPatch.context() as patch, s3_running() as server:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def free_port() -> int:
    """Give a loopback port that was free a moment ago."""
    return find_free_port()
