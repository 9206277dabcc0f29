"""What is PostgreSQL's own about the records there: durability, lost connections, restarts, the schema, and its password."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import pytest

from service.cli.exits import Code
from service.errors import ConfigError, OutcomeUnknown
from service.jobs.model import JobStatus, Reason
from service.jobs.postgres import schema
from service.jobs.postgres_store import PostgresJobStore
from service.jobs.store import JobQuery, Lease, StoreUnreachable
from service.records import build_store
from service.settings import Settings
from service.watch import Watch
from tests.jobs import NOON, finish, make_job
from tests.postgres import PASSWORD, PostgresServer, running
from tests.waiting import find_free_port, wait_until

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """Give a server that tests may stop and kill: it syncs, and does not wait for that at a commit unless a session asks for it."""
    with running(fsync="on", synchronous_commit="off") as server:
        server.sql("create database records")
        schema.migrate(server.url("records"))
        yield server


@pytest.fixture
def store(own):
    store = PostgresJobStore(own.url("records"), lease=timedelta(seconds=20))
    yield store
    store.close()


def is_there(store: PostgresJobStore, job_id: str) -> bool:
    return any(job_id == found for found in store.walk())


# durability


def test_a_commit_waits_for_the_disk_also_where_the_server_would_not(own):
    """Killed at once, a server loses what it had in memory alone: here that is what nobody asked to be synced."""
    durable, quick = make_job(), make_job()
    with (
        closing(PostgresJobStore(own.url("records"))) as store,
        closing(PostgresJobStore(own.url("records"), durable=False)) as careless,
    ):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.ppid() == own.pid and "walwriter" in " ".join(process.cmdline()):
                    process.suspend()  # it would write what waits in memory, within a moment
        store.create(durable)
        careless.create(quick)
        assert is_there(store, quick.id)
        own.kill()
    own.start()

    with closing(PostgresJobStore(own.url("records"))) as store:
        assert store.get(durable.id) == durable
        assert not is_there(store, quick.id)


def test_a_server_that_does_not_sync_is_refused_unless_that_is_asked_for(records_url):
    with pytest.raises(ConfigError, match="fsync=off"):
        PostgresJobStore(records_url)
    PostgresJobStore(records_url, durable=False).close()


# lost connections


def test_a_restart_of_the_server_costs_no_call_and_no_lease(own, store):
    job, heard = make_job(), []
    store.heed(heard.append)
    store.create(job)
    _, lease = store.claim(job.id, lambda job: job.claimed(NOON))

    own.restart()

    assert store.get(job.id).status is JobStatus.RUNNING
    own.restart()
    store.note(lease, lease.job)
    own.restart()
    assert store.claim(job.id, lambda job: job)[1] is None
    assert store.update(job.id, finish).done
    lease.release()
    del heard[:]
    wait_until(lambda: heard or store.update(job.id, lambda job: job.changed()) is None)


def test_processes_of_an_attempt_are_ended_by_its_own_runner_and_by_nobody_else_while_that_lives(own, store):
    """Several runners on one machine see each other's processes, and their leases, which are no leftovers."""
    job = make_job()
    store.create(job)
    _, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    with closing(PostgresJobStore(own.url("records"))) as other, attempt_of(lease) as process:
        assert other.evict(job.id) == 0
        own.stop()
        assert other.evict(job.id) == 0  # nobody can be asked
        own.start()
        assert process.poll() is None
        assert store.evict(job.id) == 1
        assert process.wait(30) < 0


def test_a_runner_that_has_lost_a_lease_loses_the_attempt_and_lives(own, store):
    """It may have other jobs, and was perhaps just stopped for a while."""
    job = make_job()
    store.create(job)
    runner = f"""
        import subprocess, sys, time
        from datetime import timedelta
        from service.jobs.postgres_store import PostgresJobStore
        store = PostgresJobStore(sys.argv[1], lease=timedelta(seconds=1))
        job, lease = store.claim("{job.id}", lambda job: job.claimed(job.created_at))
        print(subprocess.Popen(["sleep", "600"], pass_fds=[lease.fileno()]).pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(runner), own.url("records")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            attempt = psutil.Process(int(next(line for line in process.stdout if line.strip().isdigit())))
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: store.claim(job.id, lambda job: finish(job, Reason.LOST))[0].status is JobStatus.QUEUED)
            wait_until(lambda: attempt.status() == psutil.STATUS_ZOMBIE)
            process.send_signal(signal.SIGCONT)
            assert process.poll() is None
        finally:
            process.kill()


@contextmanager
def attempt_of(lease: Lease) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has the mark of an attempt."""
    mark = lease.fileno()
    assert mark is not None
    with subprocess.Popen(["sleep", "600"], pass_fds=[mark]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_while_the_server_is_away_calls_fail_soon_and_nothing_is_changed(own, store, monkeypatch):
    job = make_job()
    store.create(job)
    own.stop()
    try:
        for act in (
            lambda: store.create(make_job()),
            lambda: store.get(job.id),
            lambda: store.update(job.id, lambda job: job.changed()),
            lambda: store.page(JobQuery()),
            store.pending,
        ):
            with pytest.raises(StoreUnreachable) as caught:
                act()
            assert PASSWORD not in str(caught.value)
        assert store.owner_hint(make_job().id) == ""
        monkeypatch.setattr("service.jobs.postgres.database._START", 0.2)
        with pytest.raises(ConfigError) as refused:
            PostgresJobStore(own.url("records"))
        assert f"127.0.0.1:{own.port}/records" in str(refused.value)
        assert PASSWORD not in str(refused.value)
    finally:
        own.start()

    assert wait_until(lambda: attempted(store, job.id)) == job


def attempted(store: PostgresJobStore, job_id: str):
    try:
        return store.get(job_id)
    except StoreUnreachable:
        return None


class Cutter:
    """Stands between store and server; once armed it cuts a connection at its next COMMIT, before the server has it or after."""

    def __init__(self, port: int) -> None:
        self.armed: str | None = None
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target, source is client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if up and self.armed and b"COMMIT\0" in data:
                    armed, self.armed = self.armed, None
                    if armed == "after":
                        source.shutdown(socket.SHUT_RDWR)  # the client sees the end, the server the commit
                        target.sendall(data)
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for one in self._sockets:
            one.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_connection_lost_at_the_commit_leaves_the_outcome_unknown(own, store, moment):
    one, two = make_job(), make_job()
    with closing(Cutter(own.port)) as cutter:
        url = own.url("records").replace(f":{own.port}/", f":{cutter.port}/")
        with closing(PostgresJobStore(url)) as through:
            through.create(one)
            cutter.armed = moment
            with pytest.raises(OutcomeUnknown):
                through.create(two)
            cutter.armed = moment
            with pytest.raises(OutcomeUnknown):
                through.update(one.id, lambda job: job.canceled(NOON))
            through.create(make_job())  # on another connection

    made = moment == "after"
    wait_until(lambda: is_there(store, two.id) is made and store.get(one.id).done is made)


# news


@pytest.mark.anyio
async def test_who_waits_is_told_and_need_not_look(records_url, monkeypatch):
    monkeypatch.setattr("service.watch._SELDOM", 3600.0)
    with (
        closing(PostgresJobStore(records_url, durable=False)) as store,
        closing(PostgresJobStore(records_url, durable=False)) as other,
    ):
        job = make_job()
        store.create(job)
        watch = Watch(store, asyncio.to_thread, waiters=1, streams=1)
        with watch.follow(job) as follower:
            waiting = asyncio.create_task(follower.next())
            async with asyncio.timeout(30):
                while not waiting.done():  # the first news may be lost: nobody listens yet
                    await asyncio.to_thread(other.update, job.id, lambda job: job.changed())
                    await asyncio.wait([waiting], timeout=0.5)
                first = await waiting
                waiting = asyncio.create_task(follower.next())
                await asyncio.to_thread(other.update, job.id, lambda job: job.canceled(NOON))
                assert (await waiting).version > first.version
        watch.end()


# the schema


def test_migrating_twice_and_at_once_does_no_harm(postgres):
    url = postgres.url(postgres.create_database())
    with pytest.raises(ConfigError, match=r"has no tables yet and the service needs .*; run `intake migrate`"):
        PostgresJobStore(url, durable=False)
    assert schema.migrate(url, check=True) == (None, schema.HEAD)
    done: list[object] = []

    threads = [threading.Thread(target=lambda: done.append(schema.migrate(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(str, done)) == sorted(
        map(str, [(None, schema.HEAD), (schema.HEAD, schema.HEAD), (schema.HEAD, schema.HEAD)])
    )
    PostgresJobStore(url, durable=False).close()


def test_a_newer_schema_is_refused(records_url):
    with psycopg.connect(records_url) as connection:
        connection.execute("update intake_migrations set version_num = '9999'")

    for act in (lambda: PostgresJobStore(records_url, durable=False), lambda: schema.migrate(records_url)):
        with pytest.raises(ConfigError, match=r"\(9999\) is newer than this version"):
            act()


def test_the_last_migration_is_the_one_the_service_works_with():
    folder = Path(schema.__file__).parent / "migrations" / "versions"
    assert max(path.name[:4] for path in folder.glob("[0-9]*.py")) == schema.HEAD


def intake(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin"} | {f"INTAKE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_migrates_and_tells(postgres, tmp_path):
    url = postgres.url(postgres.create_database())
    secret = tmp_path / "records"
    secret.write_text(url + "\n")

    check = intake("migrate", "--check", records_file=str(secret))
    migrated = intake("migrate", records_file=str(secret))
    again = intake("migrate", "--check", records=url)

    assert (check.returncode, migrated.returncode, again.returncode) == (Code.ERROR, Code.OK, Code.OK), check.stderr
    assert "run `intake migrate`" in check.stderr
    assert "it is new" in migrated.stderr
    assert "nothing to do" in again.stderr
    assert PASSWORD not in check.stderr + migrated.stderr + again.stderr


def test_a_start_on_a_database_without_tables_says_what_to_run(postgres, tmp_path):
    url = postgres.url(postgres.create_database())

    refused = intake("serve", "--port", "0", records=url, data_dir=str(tmp_path / "data"), durability="none")

    assert refused.returncode == Code.USAGE
    assert "run `intake migrate`" in refused.stderr
    assert PASSWORD not in refused.stderr


# settings


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setattr("service.jobs.postgres.database._START", 0.2)
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{find_free_port()}/records?sslmode=disable"
    settings = Settings.load(records=url, data_dir=tmp_path)

    with pytest.raises(ConfigError) as caught:
        build_store(settings)

    assert "127.0.0.1" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_records_belong_to_one_data_directory_wherever_that_is(records_url, tmp_path):
    """On another machine with a disk of its own, jobs would find no bytes, and fail."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    settings = {
        name: Settings.load(records=records_url, data_dir=tmp_path / name, durability="none") for name in ("one", "two")
    }
    build_store(settings["one"]).close()
    build_store(settings["one"]).close()

    with pytest.raises(ConfigError, match="belong to other bytes, those of another data directory"):
        build_store(settings["two"])
    (tmp_path / "two").rename(tmp_path / "three")
    (tmp_path / "one").rename(tmp_path / "two")
    build_store(settings["two"]).close()


def test_what_is_no_url_is_told_without_showing_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        build_store(Settings.load(records=f"postgresql://me:{PASSWORD}@[half", data_dir=tmp_path))
    assert PASSWORD not in str(caught.value)


def test_without_the_extra_the_service_works_and_asking_for_it_names_the_command(tmp_path):
    code = """if True:
        import sys
        sys.modules.update(psycopg=None, psycopg_pool=None, alembic=None, sqlalchemy=None)
        from pathlib import Path
        from service.app import create_app
        from service.errors import ConfigError
        from service.settings import Settings
        from service.records import build_store, migrate
        create_app(Settings.load(data_dir=Path(sys.argv[1]))).state.intake.services.close()
        settings = Settings.load(data_dir=Path(sys.argv[1]), records="postgresql://localhost/records")
        for act in (build_store, migrate):
            try:
                act(settings)
            except ConfigError as error:
                print(error)
    """
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )

    wanted = "INTAKE_RECORDS: psycopg is not installed; pip install 'file-intake[postgres]'"
    assert told.stdout.splitlines() == [wanted, wanted]
