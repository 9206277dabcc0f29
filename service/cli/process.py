"""``intake process``: a pipeline, or one processor, over a file of this machine, without a service."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.command import Cli, command
from service.cli.exits import Code, Fail
from service.cli.filters import pairs

if TYPE_CHECKING:
    import socket

    from processors.contract import Limits
    from processors.pipeline import Step
    from processors.registry import Registry
    from service.settings import Settings

ProcessorsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--processors-dir", metavar="DIR", help="Folder with more processors.", show_default="INTAKE_PROCESSORS_DIR"
    ),
]


@command()
def process(
    cli: Cli,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to process.", exists=True, dir_okay=False)],
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Pipeline to run.")] = None,
    only: Annotated[str | None, typer.Option(metavar="PROCESSOR", help="Run this processor alone.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of --only; the value is JSON or text.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the artifacts here, by step.")
    ] = None,
    processors_dir: ProcessorsDirOption = None,
) -> int:
    """Process a file without a service.

    Prints what came of it as JSON. Made for writing processors: they run in this process, without the limits of an
    attempt. Exit code 6 when the file was
    rejected, 3 when a processor failed.
    """
    if only and pipeline:
        raise Fail("--only and --pipeline exclude each other", code=Code.USAGE)
    if option and not only:
        raise Fail("--option is for --only", hint="options of a pipeline stand in its TOML file", code=Code.USAGE)
    from processors.runner import run
    from service.settings import Settings
    from service.wiring import load_catalogue

    settings = Settings.load(processors_dir=processors_dir)
    catalogue = load_catalogue(settings)
    if only:
        name, steps = None, [_single(catalogue.registry, only, option or [])]
    else:
        name = pipeline or catalogue.default
        if name not in catalogue.pipelines:
            raise Fail(f"there is no pipeline {name}", hint="intake pipelines list", code=Code.USAGE)
        steps = list(catalogue.pipelines[name].steps)
    import logging
    from tempfile import TemporaryDirectory

    level = logging.INFO if cli.verbose else logging.WARNING
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    with TemporaryDirectory(prefix="intake-") as scratch:
        report = _Report(cli, file, name, steps, keep=output)
        workdir = output or Path(scratch)
        run(
            steps,
            catalogue.registry,
            source=report.source(),
            workdir=workdir,
            limits=_limits(settings),
            report=report,
            connect=partial(_connect, settings),
        )
    text = json.dumps(report.document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    print(text, flush=True)
    return report.code


def _single(registry: Registry, processor: str, texts: list[str]) -> Step:
    from processors.pipeline import PipelineError, make_step

    options: dict[str, Any] = {}
    for key, value in pairs(texts, "--option").items():
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    try:
        return make_step(registry, processor, options=options)
    except PipelineError as error:
        raise Fail(str(error), hint=f"intake processors show {processor}", code=Code.USAGE) from None


class _Report:
    """Gathers what the runner reports into a document shaped like that of a job."""

    def __init__(self, cli: Cli, file: Path, pipeline: str | None, steps: list[Step], *, keep: Path | None) -> None:
        from processors.sniff import sniff

        self._cli = cli
        self._file = file
        self._keep = keep
        self._alone = pipeline is None
        self._media_type = sniff(file).media_type
        self.code: int = Code.OK
        self._steps: dict[str, dict[str, Any]] = {
            step.name: {
                "name": step.name,
                "processor": step.processor,
                "status": "waiting",
                "duration_ms": None,
                "facts": None,
                "artifacts": [],
                "error": None,
            }
            for step in steps
        }
        self.document: dict[str, Any] = {
            "status": "running",
            "file": {"name": file.name, "size": file.stat().st_size, "media_type": self._media_type},
            "pipeline": pipeline,
            "steps": list(self._steps.values()),
            "error": None,
        }

    def source(self) -> Any:
        """Return the file as the runner takes it; a processor that runs alone is told the type that its content shows."""
        from processors.runner import Source

        declared = self._media_type if self._alone else None
        return Source(self._file.resolve(), self._file.name, declared, self._file.stat().st_size)

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of the runner."""
        if event["event"] == "step":
            self._step(event)
        elif event["event"] == "outcome":
            self._outcome(event)

    def _step(self, event: dict[str, Any]) -> None:
        step = self._steps[event["step"]]
        step.update({key: event[key] for key in ("status", "duration_ms", "facts", "artifacts") if key in event})
        if event.get("media_type"):
            self.document["file"]["media_type"] = event["media_type"]
        if self._keep:
            for artifact in step["artifacts"]:
                artifact["path"] = str(self._keep / step["name"] / artifact["name"])
        if self._cli.verbose or self._cli.live:
            from service.cli.describe import step_line

            self._cli.say(" ".join(filter(None, (step["name"], step["status"], step_line(step)))))

    def _outcome(self, event: dict[str, Any]) -> None:
        self.document["status"] = event["outcome"]
        if event["outcome"] == "succeeded":
            if all(step["status"] == "skipped" for step in self._steps.values()):
                self._cli.say(f"nothing was done: no step takes {self.document['file']['media_type']}")
            return
        names = ("code", "detail", "hint", "reason", "step")
        error = {name: event[name] for name in names if event.get(name) is not None}
        self.document["error"] = self._steps[event["step"]]["error"] = error
        self.code = Code.REFUSED if event["reason"] == "rejected" else Code.FAILED
        self._cli.error(f"{event['step']}: {event['detail']}", event.get("hint"))


def _connect(settings: Settings, helper: str) -> socket.socket:
    from service.execution.broker import connect
    from service.wiring import helper_sockets

    path = helper_sockets(settings).get(helper)
    if path is None:
        raise ConnectionRefusedError(f"INTAKE_{helper.upper()} is not set")
    return connect(path)


def _limits(settings: Settings) -> Limits:
    from processors.contract import Limits

    return Limits(
        max_pixels=settings.max_pixels,
        max_total_pixels=settings.max_total_pixels,
        max_frames=settings.max_frames,
        max_side=settings.max_side,
        max_output=settings.max_output,
        max_scan=settings.max_scan,
    )
