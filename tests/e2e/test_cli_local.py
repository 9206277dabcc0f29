"""The commands that need no service: help, settings, pipelines, processors, and processing a file here and now."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service.settings import Settings
from tests.e2e.rig import HERE
from tests.e2e.test_cli import INTAKE, Shell

HELP = "import sys; from service.cli.app import app; app(['--help'], prog_name='intake', standalone_mode=False)"
PAGES = [
    "upload", "jobs", "jobs list", "jobs show", "jobs watch", "jobs wait", "jobs cancel", "jobs retry", "jobs delete", "results",
    "results list", "results get", "links", "links download", "links upload", "serve", "worker", "tokens",
    "tokens create", "tokens list", "tokens rotate", "tokens revoke", "config", "config show",
    "config check", "config docs", "doctor", "gc",
    "health", "version", "process", "processors", "processors list", "processors show", "pipelines", "pipelines list",
    "pipelines show", "pipelines check",
]  # fmt: skip


@pytest.fixture
def intake(tmp_path: Path) -> Shell:
    return Shell(None, tmp_path)


def test_help_loads_nothing_that_a_command_needs() -> None:
    code = f"{HELP}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "upload" in done.stdout
    heavy = {
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "httpx",
        "PIL",
        "rich.progress",
        "rich.live",
        "service.settings",
    }
    assert not heavy & set(done.stderr.split())


def test_help_costs_little_more_than_the_library_it_is_written_with() -> None:
    def cost(*command: str) -> float:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    pairs = [(cost(*INTAKE, "--help"), cost(sys.executable, "-c", "import typer")) for _ in range(5)]
    ours, library = (min(costs) for costs in zip(*pairs, strict=True))
    assert ours < 6 * library


def test_every_command_has_a_page_of_help() -> None:
    code = (
        "import json, sys\n"
        "from contextlib import redirect_stdout\n"
        "from io import StringIO\n"
        "from service.cli.app import app\n"
        "pages = {}\n"
        "for page in json.load(sys.stdin):\n"
        "    with redirect_stdout(StringIO()) as text:\n"
        "        app([*page.split(), '--help'], prog_name='intake', standalone_mode=False)\n"
        "    pages[page] = text.getvalue()\n"
        "print(json.dumps(pages))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(PAGES), capture_output=True, text=True, check=True
    )
    pages: dict[str, str] = json.loads(done.stdout)
    for page, text in pages.items():
        assert f"Usage: intake {page}" in text
        assert "None" not in text
    assert "--pipeline" in pages["upload"]
    assert "--ready" in pages["serve"]


def test_the_shell_can_complete_commands(intake: Shell) -> None:
    complete = {"_INTAKE_COMPLETE": "complete_bash", "COMP_WORDS": "intake jo", "COMP_CWORD": "1"}
    assert intake(env=complete).split() == ["jobs"]


def test_without_arguments_there_is_help_and_with_a_wrong_one_advice(intake: Shell) -> None:
    assert "Usage: intake" in intake(code=2) + intake.said
    intake("uplaod", code=2)
    assert "Did you mean 'upload'?" in " ".join(intake.said.split())


# Settings


def test_each_setting_tells_where_it_comes_from(intake: Shell) -> None:
    (intake.folder / "intake.toml").write_text('slots = 3\nmax_upload = "1GiB"\n')
    environment = {"INTAKE_CONFIG": "intake.toml", "INTAKE_MAX_UPLOAD": "5MB", "INTAKE_PORT": ""}
    lines = intake.lines("config", "show", "--source", "--data-dir", "here", env=environment)
    shown = {line["variable"]: (line["value"], line["source"]) for line in lines}
    assert shown["INTAKE_SLOTS"] == (3, "file intake.toml")
    assert shown["INTAKE_MAX_UPLOAD"] == ("5000000", "environment")
    assert shown["INTAKE_DATA_DIR"] == ("here", "flag")
    assert shown["INTAKE_PORT"] == (8000, "default")
    assert set(shown) == {f"INTAKE_{name.upper()}" for name in Settings.model_fields}
    table = intake("config", "show", "-o", "table", "--config", "intake.toml")
    assert re.search(r"INTAKE_SLOTS +3", table)
    assert "From" not in table
    assert "source" not in intake.lines("config", "show")[0]


def test_the_reference_of_the_settings_has_all_of_them(intake: Shell) -> None:
    text = intake("config", "docs")
    rows = re.findall(r"(?m)^\| `(INTAKE_\w+)` \| (.+?) \| (.+?) \| (.+) \|$", text)
    names = [row[0] for row in rows]
    assert names[0] == "INTAKE_CONFIG"
    assert sorted(names[1:]) == sorted(f"INTAKE_{name.upper()}" for name in Settings.model_fields)
    told = {row[0]: row[1:3] for row in rows}
    assert told["INTAKE_MAX_UPLOAD"] == ("size", "`2GiB`")
    assert told["INTAKE_DEADLINE"] == ("duration", "`5m`")
    assert told["INTAKE_RETENTION"] == ("duration or `off`", "`off`")
    assert told["INTAKE_PORT"] == ("integer from 0 to 65535", "`8000`")
    assert told["INTAKE_DURABILITY"] == ("`sync` or `none`", "`sync`")
    assert told["INTAKE_LOG_LEVEL"] == ("`debug`, `info`, `warning` or `error`", "`info`")
    assert told["INTAKE_PIPELINES"] == ("path", "none")
    assert told["INTAKE_SLOTS"] == ("integer from 1 to 256", "of the machine")
    assert text.count("\n## ") >= 5


def test_wrong_settings_and_pipelines_are_found_before_a_start(intake: Shell) -> None:
    intake("config", "check")
    assert "settings are right" in intake.said
    intake("config", "check", env={"INTAKE_SLOTS": "many"}, code=2)
    assert "INTAKE_SLOTS=many" in intake.said
    (intake.folder / "mine.toml").write_text('[pipelines.mine]\n[[pipelines.mine.steps]]\nprocessor = "cheksum"\n')
    intake("pipelines", "check", "mine.toml", code=2)
    assert "mine.toml" in intake.said
    assert "did you mean 'checksum'" in intake.said
    (intake.folder / "mine.toml").write_text('[pipelines.mine]\n[[pipelines.mine.steps]]\nprocessor = "checksum"\n')
    intake("pipelines", "check", "mine.toml")
    assert "mine" in intake.said
    intake("config", "show", "--config", "missing.toml", code=2)


# Pipelines and processors


def test_pipelines_and_processors_of_this_machine_are_shown(intake: Shell) -> None:
    mine = {"INTAKE_PROCESSORS_DIR": str(HERE / "processors"), "INTAKE_PIPELINES": str(HERE / "pipelines.toml")}
    assert "obey" in intake("pipelines", "list", "-o", "id", env=mine).split()
    assert "default" in intake("pipelines", "list", "-o", "table")
    assert json.loads(intake("pipelines", "show", "checked", env=mine))["steps"][1]["processor"] == "obey"
    assert re.search(
        r"decode +decode +source +times=\d+", intake("pipelines", "show", "decode", "-o", "table", env=mine)
    )
    intake("pipelines", "show", "nope", code=7)
    assert "obey" in intake("processors", "list", "--processors-dir", mine["INTAKE_PROCESSORS_DIR"], "-o", "id").split()
    assert "text/*" in intake("processors", "list", "-o", "table")
    schema = json.loads(intake("processors", "show", "decode", env=mine))["options"]
    assert schema["properties"]["times"]["minimum"] == 1
    previews = intake("processors", "show", "image.previews", "-o", "table")
    assert '"webp"' in previews
    assert "string or null" in previews
    assert "array of integer" in previews
    intake("processors", "show", "obey", "-o", "table", env=mine)
    assert intake.said == "no options\n"
    intake("processors", "show", "nope", code=7)


# Processing without a service


def test_a_file_is_processed_without_a_service(intake: Shell) -> None:
    Image.linear_gradient("L").save(intake.folder / "grey.png")
    document = json.loads(intake("process", "grey.png", "-o", "out"))
    assert (document["status"], document["file"]["media_type"]) == ("succeeded", "image/png")
    made = next(step for step in document["steps"] if step["name"] == "image.previews")["artifacts"]
    assert made
    for artifact in made:
        assert (intake.folder / artifact["path"]).stat().st_size == artifact["size"]
    assert not {path.name for path in intake.folder.iterdir()} - {"grey.png", "out"}


def test_one_processor_runs_alone_with_its_options(intake: Shell) -> None:
    (intake.folder / "a.txt").write_text("one\ntwo\nthree\n")
    document = json.loads(intake("process", "a.txt", "--only", "text.info", "--option", "head_lines=1", "-v"))
    assert document["steps"][0]["facts"]["head"] == "one"
    assert document["pipeline"] is None
    assert "text.info succeeded" in intake.said
    intake("process", "a.txt", "--only", "text.info", "--option", "head_lines=x", code=2)
    assert "head_lines" in intake.said
    intake("process", "a.txt", "--only", "text.inof", code=2)
    assert "text.info" in intake.said


def test_a_rejected_file_is_exit_code_6_and_a_failed_processor_3(intake: Shell) -> None:
    mine = ("--only", "obey", "--processors-dir", HERE / "processors")
    (intake.folder / "bad.txt").write_text("reject")
    document = json.loads(intake("process", "bad.txt", *mine, code=6))
    assert document["error"]["reason"] == "rejected"
    assert document["steps"][0]["error"] == document["error"]
    assert "error: obey: " in intake.said
    (intake.folder / "bug.txt").write_text("blunder")
    assert json.loads(intake("process", "bug.txt", *mine, code=3))["error"]["reason"] == "error"
    assert "Traceback" in intake.said  # of the processor: whoever runs this is about to repair it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.txt", "--only", "checksum", "--pipeline", "default"], "exclude"),
        (["a.txt", "--option", "a=b"], "--only"),
        (["a.txt", "--pipeline", "nope"], "intake pipelines list"),
        (["missing.txt"], "missing.txt"),
        (["a.txt", "--only", "checksum", "--option", "a"], "key=value"),
    ],
)
def test_a_wrong_command_line_processes_nothing(intake: Shell, arguments: list[str], says: str) -> None:
    (intake.folder / "a.txt").write_text("one")
    assert intake("process", *arguments, code=2) == ""
    assert says in " ".join(intake.said.split())


def test_an_unexpected_error_is_one_line_and_a_traceback_with_vv(intake: Shell) -> None:
    (intake.folder / "processors").mkdir()
    (intake.folder / "processors" / "cruel.py").write_text(
        "from processors import processor\n"
        "@processor('cruel')\n"
        "def cruel(ctx):\n"
        "    '''Break what runs it.'''\n"
        "    import processors.runner\n"
        "    processors.runner.checked_facts = None\n"
        "    import json; json.dumps = None\n"
        "    return {}\n"
    )
    (intake.folder / "a.txt").write_text("one")
    arguments = ("process", "a.txt", "--only", "cruel", "--processors-dir", "processors")
    intake(*arguments, code=1)
    assert "error: unexpected TypeError" in intake.said
    assert "hint: run it again with -vv" in intake.said
    intake(*arguments, "-vv", code=1)
    assert "Traceback" in intake.said


def test_a_token_is_printed_alone_and_nothing_else_shows_it(intake: Shell) -> None:
    text = intake("tokens", "create", "scanner", "--scopes", "jobs:write", "--expires", "30d", "--data-dir", "data")
    assert re.fullmatch(r"fik_[0-9a-z]{10}_[0-9A-Za-z]{36}\n", text)
    assert "jobs:write, until 20" in intake.said
    assert "from now on every client needs a token" in intake.said
    [shown] = intake.lines("tokens", "list", "--data-dir", "data")
    assert (shown["name"], shown["state"], shown["scopes"]) == ("scanner", "ok", ["jobs:write"])
    assert shown["id"] == text.split("_")[1]
    assert not any(text.strip()[15:] in path.read_text() for path in (intake.folder / "data").rglob("*.json"))
    assert "sha256" not in shown

    fresh = intake("tokens", "rotate", shown["id"], "--data-dir", "data")
    assert fresh.split("_")[1] == shown["id"]
    assert fresh != text
    assert intake.lines("tokens", "list", "--data-dir", "data") == [shown]
    intake("tokens", "rotate", "nosuchtokn", "--data-dir", "data", code=7)

    assert intake("tokens", "revoke", shown["id"], "--data-dir", "data") == ""
    assert intake("tokens", "rotate", shown["id"], "--data-dir", "data", code=6) == ""
    assert intake.lines("tokens", "list", "--data-dir", "data")[0]["state"] == "revoked"
    intake("tokens", "revoke", "nosuchtokn", "--data-dir", "data", code=7)
    assert "no token 'nosuchtokn'" in intake.said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a", "--scopes", "jobs:own"], "'jobs:own' is no scope"),
        (["a", "--scopes", ","], "nothing is no scope"),
        (["a", "--expires", "soon"], "is not a duration"),
        ([""], "printable"),
        (["a\x1b[31m"], "printable"),
    ],
)
def test_a_token_that_cannot_be_is_not_made(intake: Shell, arguments: list[str], why: str) -> None:
    assert intake("tokens", "create", *arguments, "--data-dir", "data", code=2) == ""
    assert why in " ".join(re.sub("[│╭╮╰╯─]", " ", intake.said).split())
    assert not (intake.folder / "data" / "access").exists()
