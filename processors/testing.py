r"""For authors: run one processor over one file, without a server, and look at what it says and makes.

::

    from processors import testing

    def test_counts_lines(tmp_path):
        file = tmp_path / "a.txt"
        file.write_text("one\ntwo\n")

        result = testing.run(count, file, tmp_path=tmp_path)

        assert result.facts["lines"] == 2
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processors.contract import Facts, Limits, Options, Processor, StepContext
from processors.publish import checked_facts, publish
from processors.registry import load_registry
from processors.sniff import sniff

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue


@dataclass(frozen=True, eq=False)
class Result:
    """What the processor said and made."""

    facts: dict[str, JsonValue]
    """As a job's record would hold them: plain JSON."""
    artifacts: dict[str, Path]
    """The published files by name. Without a `tmp_path` they last as long as this result."""
    progress: list[tuple[float, float | None, str | None]]
    """Every call of `ctx.progress`."""
    log: list[str]
    """What was logged through `ctx.log`, formatted."""


def run(
    processor_or_name: Processor | str,
    file: Path,
    *,
    options: Options | Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    media_type: str | None = None,
    facts: Mapping[str, Facts] | None = None,
    tmp_path: Path | None = None,
    connect: Callable[[str], socket.socket] | None = None,
) -> Result:
    """Run a processor, or the installed one of that name, over `file`, and raise what it raises (`Reject`, …).

    `options` are checked as a pipeline's would be. `media_type` is what the processor is told of the file; without one
    it is found by the content, as in the `default` pipeline. `facts` are those of earlier steps, for `ctx.facts_of`.
    Artifacts go below `tmp_path`. `connect` gives the connections to helpers that it asks for. Raises ValueError if the
    processor does not accept the type (a pipeline would skip the step), KeyError for an unknown name,
    `processors.failure.StepError` for facts or artifacts a runner refuses.
    """
    processor = load_registry()[processor_or_name] if isinstance(processor_or_name, str) else processor_or_name
    found = media_type or sniff(file).media_type
    if not processor.accepts_type(found):
        accepted = ", ".join(processor.accepts)
        raise ValueError(f"{processor.name} accepts {accepted}, not {found}. Pass media_type= to claim another type.")
    given = options if isinstance(options, Options) else processor.options.model_validate(dict(options or {}))
    kept = limits or Limits()
    workdir = Path(tempfile.mkdtemp(prefix="step-", dir=tmp_path))
    partial, folder = workdir / f"{processor.name}.partial", workdir / processor.name
    progress: list[tuple[float, float | None, str | None]] = []
    handler = _Lines()
    log = logging.Logger(f"processors.{processor.name}")  # noqa: LOG001 - one of its own, so that two runs stay apart
    log.addHandler(handler)
    try:
        ctx = StepContext(
            input=file,
            folder=partial,
            media_type=found,
            declared_type=media_type,
            filename=file.name,
            limits=kept,
            facts=facts or {},
            progress=lambda done, total, unit: progress.append((done, total, unit)),
            log=log,
            connect=connect,
        )
        learned = checked_facts(processor, processor(ctx, given))
        artifacts = publish(ctx.outputs, partial=partial, folder=folder, already=0, limits=kept)
    except BaseException:
        shutil.rmtree(workdir, ignore_errors=True)
        raise
    result = Result(learned, {artifact.name: artifact.path for artifact in artifacts}, progress, handler.lines)
    if tmp_path is None:
        weakref.finalize(result, shutil.rmtree, workdir, ignore_errors=True)
    return result


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
