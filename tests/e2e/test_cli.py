"""The ``intake`` command as scripts use it: data on stdout, all else on stderr, an exit code for each kind of end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.testing import Server
from tests.e2e.rig import running, serve, supervisor
from tests.waiting import wait_until

INTAKE = [sys.executable, "-m", "service.cli"]
QUIET_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(max_upload="1MiB") as server:
        yield server


class Shell:
    """A place to run commands in, against one service."""

    def __init__(self, server: Server | None, folder: Path) -> None:
        self.folder = folder
        self.environment = QUIET_ENVIRONMENT | ({"INTAKE_SERVER": server.url} if server else {})

    def __call__(
        self, *arguments: object, code: int = 0, stdin: bytes | None = None, env: dict[str, str] | None = None
    ) -> str:
        """Run ``intake``, check its exit code, and return what it wrote to stdout; its stderr is in ``said``."""
        done = subprocess.run(
            [*INTAKE, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | (env or {}),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.said = done.stderr.decode()
        assert done.returncode == code, (done.returncode, done.stdout, self.said)
        assert "Traceback" not in self.said or "-vv" in arguments or "process" in arguments
        return done.stdout.decode()

    def lines(self, *arguments: object, **options: Any) -> list[dict[str, Any]]:
        """Run a command whose output is JSON lines."""
        return [json.loads(line) for line in self(*arguments, **options).splitlines()]

    def file(self, name: str, orders: str) -> str:
        (self.folder / name).write_text(orders)
        return name


@pytest.fixture
def intake(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """A shell without a service."""
    return Shell(None, tmp_path)


@pytest.fixture
def run() -> str:
    """Give a label that only this test uses."""
    return f"run={uuid.uuid4().hex}"


# Uploading


def test_a_pipe_gets_a_json_line_for_each_file_in_their_order(intake: Shell, run: str) -> None:
    names = [intake.file(f"{number}.txt", f"nothing {number}") for number in range(5)]
    jobs = intake.lines("upload", *names, "-l", run, "--wait")
    assert [job["file"]["name"] for job in jobs] == names
    assert {job["status"] for job in jobs} == {"succeeded"}
    for name in names:
        assert f"{name} is job" in intake.said
        assert f"{name} succeeded" in intake.said


def test_an_upload_prints_an_id_for_the_next_command(intake: Shell) -> None:
    name = intake.file("a.txt", "write made.bin 10\nwrite other.bin 20")
    job_id = intake("upload", name, "-q", "-o", "id").strip()
    assert intake.said == ""
    assert intake("jobs", "wait", job_id, "--timeout", "30s", "-q", "-o", "id").strip() == job_id
    assert intake("results", "get", job_id, "obey/made.bin", "-o", "there/").strip() == "there/made.bin"
    assert (intake.folder / "there" / "made.bin").stat().st_size == 10
    assert intake("results", "get", job_id).splitlines() == ["obey/made.bin", "obey/other.bin"]
    assert intake("results", "get", job_id, "obey", "-o", "out").splitlines() == ["out/made.bin", "out/other.bin"]
    assert intake("results", "get", job_id, "source", "-o", "-") == "write made.bin 10\nwrite other.bin 20"
    assert len(intake("results", "get", job_id, "obey/other.bin", "-o", "-")) == 20
    assert intake("results", "list", job_id, "-o", "id").splitlines() == ["obey/made.bin", "obey/other.bin"]
    assert intake.lines("results", "list", job_id)[0]["facts"]["obeyed"] == 2
    intake("results", "get", job_id, "obey", "-o", "-", code=2)
    assert "2 artifacts cannot all go to stdout" in intake.said
    intake("results", "get", job_id, "obey/none", code=1)
    intake("results", "get", job_id, "none", code=7)
    assert "obey/made.bin" in intake.said


def test_a_link_is_printed_alone_and_used_as_it_says(intake: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    url = intake("links", "upload", "--max-size", "1KiB").strip()
    assert "curl -F file=@FILE URL" in intake.said
    sent = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-F", f"file=@{tmp_path}/a.txt", url], capture_output=True, check=True
    )
    job = json.loads(sent.stdout)["id"]
    url = intake("links", "download", job, "--expires", "1h").strip()
    assert "good until 20" in intake.said
    sent = subprocess.run(["curl", "-sS", "--noproxy", "*", url], capture_output=True, check=True)
    assert sent.stdout == b"nothing"
    intake("links", "download", job, "--expires", "8d", code=6)
    intake("links", "download", job, "nosuchstep", code=1)
    intake("links", "download", "nosuchjob", code=7)
    intake("links", "upload", "--max-size", "huge", code=2)


def test_the_standard_input_is_uploaded_under_any_name(intake: Shell) -> None:
    (job,) = intake.lines("upload", "-", "--name", "from a pipe.txt", "--wait", stdin=b"nothing\n")
    assert (job["file"]["name"], job["file"]["size"], job["status"]) == ("from a pipe.txt", 8, "succeeded")


def test_pipeline_labels_and_key_are_passed_on(intake: Shell) -> None:
    name, key = intake.file("a.txt", "nothing"), uuid.uuid4().hex
    options = ("--pipeline", "identify", "-l", "a=b", "-l", "c=d=e", "--idempotency-key", key)
    (first,), (second,) = intake.lines("upload", name, *options), intake.lines("upload", name, *options)
    assert first["id"] == second["id"]
    assert (first["pipeline"], first["labels"]) == ("identify", {"a": "b", "c": "d=e"})


def test_a_file_that_is_refused_does_not_stop_the_others(intake: Shell) -> None:
    (intake.folder / "empty.txt").touch()
    (intake.folder / "large.txt").write_bytes(bytes(2 * 2**20))
    (job,) = intake.lines("upload", "empty.txt", "large.txt", intake.file("good.txt", "nothing"), code=6)
    assert job["file"]["name"] == "good.txt"
    assert "error: empty.txt: The file is empty." in intake.said
    assert "hint: " in intake.said
    assert "error: large.txt: " in intake.said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.txt"], "missing.txt: No such file"),
        (["."], "is a directory"),
        (["a.txt", "a.txt", "--name", "b"], "single file"),
        (["a.txt", "--timeout", "3s"], "add --wait"),
        (["a.txt", "--notify-on", "failure"], "add --notify-email"),
        (["a.txt", "--notify-email", "a@b.example", "--notify-on", "never"], "never"),
        (["a.txt", "--wait", "--timeout", "soon"], "soon"),
        (["a.txt", "-l", "novalue"], "key=value"),
        ([], "PATH"),
    ],
)
def test_a_wrong_command_line_sends_nothing(intake: Shell, arguments: list[str], says: str) -> None:
    intake.file("a.txt", "nothing")
    assert intake("upload", *arguments, code=2) == ""
    assert says in " ".join(intake.said.split())


def test_an_unknown_pipeline_is_refused_for_good(intake: Shell) -> None:
    intake("upload", intake.file("a.txt", "nothing"), "--pipeline", "nope", code=6)
    assert "hint: The pipelines are: " in intake.said


def test_a_failed_job_is_exit_code_3(intake: Shell) -> None:
    (job,) = intake.lines("upload", intake.file("bad.txt", "reject"), "--wait", code=3)
    assert job["status"] == "failed"
    assert "bad.txt failed" in intake.said
    intake("jobs", "wait", job["id"], code=3)
    assert f"job {job['id']} failed: {job['error']['detail']}" in intake.said
    intake("jobs", "watch", job["id"], code=3)
    assert "obey failed" in intake.said
    assert job["error"]["code"] in intake("jobs", "show", job["id"], "-o", "table")


def test_waiting_too_long_is_exit_code_8(intake: Shell) -> None:
    name = intake.file("slow.txt", f"wait {intake.folder / 'go'}")
    job_id = intake("upload", name, "--wait", "--timeout", "300ms", "-o", "id", code=8).strip()
    assert "still" in intake.said
    intake("jobs", "wait", job_id, "--timeout", "0.1", code=8)
    intake("jobs", "watch", job_id, "--timeout", "0.1", code=8)
    (intake.folder / "go").touch()
    intake("jobs", "wait", job_id, "--timeout", "30")


def test_a_service_that_is_away_is_exit_code_5(alone: Shell, free_port: int) -> None:
    alone("jobs", "show", "x", "-s", f"http://127.0.0.1:{free_port}", code=5)
    assert "does not answer: [Errno 111] Connection refused; trying again in" in alone.said
    assert "error: http" in alone.said
    assert "hint: is the service running?" in alone.said


def test_interrupting_an_upload_from_a_pipe_is_exit_code_130(intake: Shell) -> None:
    command = [*INTAKE, "upload", "-"]
    process = subprocess.Popen(
        command, env=intake.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"nothing\n")
    process.stdin.flush()
    wait_until(lambda: _has_connection(process.pid), what="the connection")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert b"Fatal" not in said


def _has_connection(pid: int) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if "socket:" in str(link.readlink()):
                return True
    return False


# Jobs


def test_jobs_are_listed_by_filter(intake: Shell, run: str) -> None:
    names = [intake.file("good.txt", "nothing"), intake.file("bad.txt", "reject")]
    intake("upload", *names, "-l", run, "--wait", code=3)
    assert [job["status"] for job in intake.lines("jobs", "list", "--label", run, "--since", "1h")] != []
    (bad,) = intake.lines("jobs", "list", "--label", run, "--status", "failed", "--status", "canceled")
    assert bad["file"]["name"] == "bad.txt"
    assert intake("jobs", "list", "--label", run, "--since", "2100-01-01", "-o", "table") == ""
    assert intake.said == "no jobs\n"
    assert len(json.loads(intake("jobs", "list", "--label", run, "-o", "json"))) == 2
    assert len(intake.lines("jobs", "list", "--label", run, "--limit", 1)) == 1
    assert len(intake.lines("jobs", "list", "--label", run, "--limit", 0)) == 2
    table = intake("-o", "table", "jobs", "list", "--label", run)
    assert "bad.txt" in table
    assert "\x1b" not in table
    intake("jobs", "list", "--status", "broken", code=6)
    intake("jobs", "list", "--since", "someday", code=2)


def test_watching_in_a_pipe_prints_every_change(intake: Shell, server: Server) -> None:
    job_id = intake("upload", intake.file("a.txt", f"wait {intake.folder / 'go'}"), "-o", "id").strip()
    running(server, job_id)
    process = subprocess.Popen(
        [*INTAKE, "jobs", "watch", job_id],
        env=intake.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "running"
    (intake.folder / "go").touch()
    output, said = process.communicate(timeout=30)
    assert json.loads(output.splitlines()[-1])["status"] == "succeeded"
    assert said.splitlines()[-1] == f"job {job_id} succeeded"
    assert any(line.startswith("obey succeeded") for line in said.splitlines())
    assert json.loads(intake("jobs", "watch", job_id, "-o", "json"))["id"] == job_id
    assert intake("jobs", "watch", job_id, "-o", "id") == f"{job_id}\n"
    assert "obey" in intake("jobs", "watch", job_id, "-o", "table")
    assert "SHA-256" in intake("jobs", "show", job_id, "-o", "table")
    assert json.loads(intake("jobs", "show", job_id))["id"] == job_id


def test_bulk_verbs_want_a_filter_say_the_count_and_ask(intake: Shell, run: str) -> None:
    names = [intake.file(f"bad{number}.txt", "reject") for number in range(2)]
    intake("upload", *names, "-l", run, "--wait", "-q", code=3)
    intake("jobs", "retry", code=2)
    intake("jobs", "retry", "some-id", "--label", run, code=2)
    assert len(intake.lines("jobs", "retry", "--label", run, "--dry-run")) == 2
    assert "2 jobs would be retried (oldest" in intake.said
    intake("jobs", "retry", "--label", run, code=2)
    assert "2 jobs will be retried" in intake.said
    assert "add --yes" in intake.said
    ids = [job["id"] for job in intake.lines("jobs", "retry", "--label", run, "--yes")]
    intake("jobs", "wait", *ids, "--timeout", "30s", code=3)
    assert {job["attempt"] for job in intake.lines("jobs", "list", "--label", run)} == {2}
    assert len(intake.lines("jobs", "delete", "--label", run, "--status", "failed", "--yes")) == 2
    assert intake("jobs", "list", "--label", run) == ""
    assert intake("jobs", "delete", "--label", run, "--yes") == ""
    assert "0 jobs will be deleted" in intake.said


def test_verbs_act_on_ids_and_go_on_after_one_that_fails(intake: Shell) -> None:
    job_id = intake("upload", intake.file("a.txt", "hang"), "-o", "id").strip()
    assert intake.lines("jobs", "cancel", job_id, "--dry-run")[0]["id"] == job_id
    intake("jobs", "delete", job_id, code=1)
    assert "hint: " in intake.said
    unknown = str(uuid.UUID(int=uuid.UUID(job_id).int ^ 1))
    assert [job["id"] for job in intake.lines("jobs", "cancel", unknown, job_id, code=7)] == [job_id]
    intake("jobs", "wait", job_id, "--timeout", "30s", code=3)
    assert json.loads(intake("jobs", "delete", job_id)) == {"id": job_id, "status": "deleted"}
    intake("jobs", "show", job_id, code=7)
    intake("jobs", "delete", job_id, code=7)


def test_a_reader_that_has_seen_enough_is_no_error(intake: Shell) -> None:
    intake("upload", *[intake.file(f"{number}.txt", "nothing") for number in range(3)], "-q")
    shell = f"{' '.join(INTAKE)} jobs list --limit 0 | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], env=intake.environment, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Running the service


def test_the_health_check_of_a_worker_looks_whether_somebody_holds_the_data_directory(
    server: Server, alone: Shell, tmp_path: Path
) -> None:
    supervisor(server)
    alone("health", "--worker", env={"INTAKE_DATA_DIR": str(server.data_dir)})
    alone("health", "--worker", env={"INTAKE_DATA_DIR": str(tmp_path)}, code=1)


def test_the_health_check_asks_the_address_that_serve_listens_on(server: Server, alone: Shell, free_port: int) -> None:
    port = str(server.settings["port"])
    alone("health", env={"INTAKE_PORT": port})
    assert alone.said == "ready\n"
    alone("health", env={"INTAKE_PORT": port, "INTAKE_HOST": "0.0.0.0"})
    alone("health", "-q", env={"INTAKE_SERVER": server.url, "INTAKE_PORT": str(free_port)})
    assert alone.said == ""
    alone("health", "--server", f"http://127.0.0.1:{free_port}", code=1)
    assert "does not answer" in alone.said
    alone("health", "--server", f"{server.url}/nowhere", code=1)
    assert "answered 404" in alone.said
    alone("health", "--server", "file:///etc/passwd", code=2)


def test_doctor_and_gc_look_after_the_data_directory(server: Server, alone: Shell) -> None:
    alone.environment["INTAKE_DATA_DIR"] = str(server.data_dir)
    findings = alone.lines("doctor")
    assert {finding["level"] for finding in findings} == {"ok"}
    assert "ok" in alone("doctor", "-o", "table")
    assert json.loads(alone("gc", "--dry-run"))["dry_run"] is True
    assert json.loads(alone("gc"))["expired"] == 0
    assert "Expired jobs" in alone("gc", "-o", "table")
    assert {finding["level"] for finding in alone.lines("doctor", "--data-dir", "/proc/nothing", code=1)} >= {"fail"}


@pytest.mark.parametrize("command", ["serve", "worker", "doctor", "gc"])
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(alone: Shell, command: str) -> None:
    alone(command, env={"INTAKE_MAX_UPLOAD": "much"}, code=2)
    assert alone.said == "error: INTAKE_MAX_UPLOAD=much: is not a size; write it like 500MB, 2GiB or 1048576\n"
    alone(command, env={"INTAKE_PORTT": "1"}, code=2)
    assert "did you mean INTAKE_PORT?" in alone.said


def test_serve_says_in_words_or_json_or_not_at_all_that_it_is_ready(tmp_path: Path) -> None:
    with Server(tmp_path / "a", args=["--workers", "2", "--root-path", "/here"]) as server:
        assert server.url.endswith("/here")
    with pytest.raises(RuntimeError, match="not ready"):
        Server(tmp_path / "b", args=["--ready", "off"], timeout=1.5).start()


def test_a_worker_alone_runs_the_jobs_until_it_is_stopped(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.kill()
        worker = subprocess.Popen(
            [*INTAKE, "worker", "--slots", "1"], env=server.environment(), stderr=subprocess.PIPE, text=True
        )
        assert worker.stderr is not None
        assert any("supervisor runs" in line and "slots=1" in line for line in worker.stderr)
        worker.terminate()
        worker.communicate(timeout=20)
        assert worker.returncode == 0


def test_the_version_is_printed(alone: Shell) -> None:
    from service import __version__

    assert alone("version") == f"{__version__}\n"


def test_commands_send_the_token_of_the_environment_and_say_when_it_is_missing(tmp_path: Path) -> None:
    with Server(tmp_path / "service") as guarded:
        text = guarded.token("jobs:write", "jobs:read")
        intake = Shell(guarded, tmp_path)
        (tmp_path / "a.txt").write_text("one\n")
        intake("upload", "a.txt", code=4)
        assert "wants a token" in intake.said
        intake("upload", "a.txt", code=4, env={"INTAKE_TOKEN": text[:-1]})
        assert "unknown" in intake.said
        token = {"INTAKE_TOKEN": text}
        [job] = intake.lines("upload", "a.txt", "--wait", env=token)
        assert [one["id"] for one in intake.lines("jobs", "list", env=token)] == [job["id"]]
        intake("jobs", "delete", job["id"], "--yes", code=4, env=token)
        assert "lacks jobs:delete" in intake.said
        assert text not in intake("config", "show", env=token) + intake.said + guarded.log
        intake("jobs", "list", code=2, env={"INTAKE_TOKEN": "a b"})
