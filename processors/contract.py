"""The contract between a processor and whoever runs it: the decorator, the context, the limits, the two refusals.

A processor is a plain function over one file::

    class CountOptions(Options):
        blank: bool = True

    @processor("text.count", accepts=("text/*",))
    def count(ctx: StepContext, options: CountOptions) -> Facts:
        \"\"\"Count the lines of a text.\"\"\"

It reads `ctx.input`, writes files where `ctx.output()` says, returns what it learned as JSON, and raises `Reject` for a
file that is bad or `RetryLater` for a helper that is busy. Any other exception is a fault of its own, and is retried.
Nothing here touches the disk, a registry or the network on import.
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import pydantic
from pydantic import ConfigDict, JsonValue

if typing.TYPE_CHECKING:
    import socket
    from pathlib import Path

Facts: TypeAlias = Mapping[str, JsonValue]
"""What a step learned: JSON with text keys, at most `MAX_FACTS_BYTES` once encoded."""

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"

MAX_FACTS_BYTES = 64 * 1024
"""Most bytes of one step's facts as compact UTF-8 JSON. Longer results belong into an artifact."""

MAX_CODE = 100
"""Most characters of the code of a Reject."""

MAX_ARTIFACTS = 1000
"""Most artifacts of one step. More small files belong into one archive."""

MAX_MEDIA_TYPE = 255
"""Most characters of an artifact's media type, parameters included."""

_PROCESSOR_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_ERROR_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TYPE_PATTERN = re.compile(r"\*/\*|[a-z0-9][a-z0-9.+_-]*/(\*|[a-z0-9][a-z0-9.+_-]*)")

_HOW = "write it as `def name(ctx: StepContext, options: SomeOptions) -> Facts`, the options being optional"


class Options(pydantic.BaseModel):
    """Base of every option model: frozen, unknown names refused. Give each field a default and a description."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Reject(Exception):
    """The file is bad and will be bad next time: the job fails at once, with reason `rejected`, and is never retried.

    `code` is stable, lower case words joined by hyphens, at most 100 characters (ValueError otherwise); `message` is a
    sentence for the person who sent the file; `hint` says what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        if not _ERROR_CODE.fullmatch(code) or len(code) > MAX_CODE:
            raise ValueError(
                f"The code of a Reject is lower case words joined by hyphens, at most {MAX_CODE} characters, not {code!r}."
            )
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class RetryLater(Exception):
    """Something outside the file is not ready: try this job again in `seconds` (at least 0), counted as an attempt."""

    def __init__(self, seconds: float, message: str | None = None) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"RetryLater takes a number of seconds from 0 up, not {seconds!r}.")
        super().__init__(message or f"Not ready yet; try again in {seconds:g} seconds.")
        self.seconds = float(seconds)
        self.message = str(self)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one attempt may take on. A file beyond a limit is refused by a `Reject` that names the setting."""

    max_pixels: int = 50_000_000
    """Most pixels of one frame (`INTAKE_MAX_PIXELS`)."""
    max_total_pixels: int = 200_000_000
    """Most pixels summed over all frames (`INTAKE_MAX_TOTAL_PIXELS`)."""
    max_frames: int = 500
    """Most frames or pages of one image (`INTAKE_MAX_FRAMES`)."""
    max_side: int = 20_000
    """Longest side of an image in pixels (`INTAKE_MAX_SIDE`)."""
    max_output: int = 1024**3
    """Most bytes of all artifacts of a job together (`INTAKE_MAX_OUTPUT`); kept by the runner."""
    max_scan: int = 25 * 1024**2
    """Longest file that the malware scanner takes whole, in bytes (`INTAKE_MAX_SCAN`)."""


@dataclass(frozen=True)
class Output:
    """An artifact a step has asked a path for; it may not be written yet."""

    path: Path
    media_type: str


class StepContext:
    """One step's view of its file. Made by a runner; a processor only reads it and calls its methods."""

    input: Path
    """The file to read. Never write to it: other steps read it too."""
    media_type: str
    """The input's type: as detected so far, else as declared, else `application/octet-stream`."""
    declared_type: str | None
    """The type the client claimed for the source; None without a claim, or when the input is an artifact."""
    filename: str
    """The name the client gave the source, for people to read: a claim, and never a path."""
    limits: Limits
    """What this attempt may take on."""
    log: Logger
    """For the operator. Text from the file goes in as an argument, never into the format string."""

    def __init__(
        self,
        *,
        input: Path,  # noqa: A002 - the contract's word, and the attribute's
        folder: Path,
        media_type: str = "application/octet-stream",
        declared_type: str | None = None,
        filename: str = "",
        limits: Limits | None = None,
        facts: Mapping[str, Facts] = MappingProxyType({}),
        progress: Callable[[float, float | None, str | None], None] | None = None,
        log: Logger | None = None,
        connect: Callable[[str], socket.socket] | None = None,
    ) -> None:
        self.input = input
        self.media_type = media_type
        self.declared_type = declared_type
        self.filename = filename
        self.limits = limits or Limits()
        self.log = log or logging.getLogger("processors")
        self._folder = folder
        self._facts = facts
        self._progress = progress
        self._connect = connect
        self._outputs: dict[str, Output] = {}

    def output(self, name: str, *, media_type: str) -> Path:
        """Return the path to write the artifact `name` to; asking again for a name returns the same path.

        All artifacts of a step are published together when the step succeeds, none when it fails. Raises ValueError for
        a name that is not 1 to 128 characters of `A-Z a-z 0-9 . _ -`, or that starts with a dot, for a bad type, and
        for more artifacts than `MAX_ARTIFACTS`.
        """
        if not _ARTIFACT_NAME.fullmatch(name):
            raise ValueError(
                f"An artifact's name is 1 to 128 of A-Z a-z 0-9 . _ - and does not start with a dot, not {name!r}."
            )
        plain = media_type.partition(";")[0].strip().lower()
        if "*" in media_type or not _TYPE_PATTERN.fullmatch(plain) or len(media_type) > MAX_MEDIA_TYPE:
            raise ValueError(f"The artifact {name!r} needs a media type such as 'image/webp', not {media_type!r}.")
        if len(self._outputs) >= MAX_ARTIFACTS and name not in self._outputs:
            raise ValueError(f"A step makes at most {MAX_ARTIFACTS} artifacts. Put many files into an archive.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._outputs[name] = Output(self._folder / name, media_type)
        return self._outputs[name].path

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The artifacts asked for so far, by name. For runners."""
        return MappingProxyType(self._outputs)

    def progress(self, done: float, total: float | None = None, unit: str | None = None) -> None:
        """Say how far the step is: `done` of `total` in `unit` ("bytes", "pages"). Call it as often as you like."""
        if self._progress is not None:
            self._progress(done, total, unit)

    def connect(self, helper: str) -> socket.socket:
        """Return a new connection to a helper that the processor names in `needs`; the caller closes it.

        It is the only way to one: a step's process cannot make a socket. Raises ConnectionError when the helper does
        not answer or is not configured here.
        """
        if self._connect is None:
            raise ConnectionRefusedError(f"{helper} cannot be reached from here")
        return self._connect(helper)

    def facts_of(self, step: str) -> Facts:
        """Return the facts of the earlier step named `step`. Raises KeyError if it has not run, or was skipped."""
        try:
            return self._facts[step]
        except KeyError:
            known = ", ".join(self._facts) or "none"
            raise KeyError(
                f"No facts of step {step!r}: it has not run or was skipped. Steps with facts: {known}."
            ) from None


@dataclass(frozen=True)
class Processor:
    """A function over one file, with its name and what it accepts. Made by `processor`; callable like the function."""

    name: str
    accepts: tuple[str, ...]
    """Media types, or ranges such as `image/*` and `*/*`."""
    identifies: bool
    """Whether its facts hold the input's `media_type`, which later steps then see."""
    options: type[Options]
    """The option model; `Options` itself for a function without options."""
    description: str
    """The first line of the function's docstring."""
    function: Callable[..., Facts]
    takes_options: bool
    needs: tuple[str, ...] = ()
    """Helpers it connects to, by the names that the service gives them, such as `clamd`."""

    def __call__(self, ctx: StepContext, options: Options | None = None) -> Facts:
        """Run the function; without `options` with the model's defaults."""
        if not self.takes_options:
            return self.function(ctx)
        return self.function(ctx, self.options() if options is None else options)

    def accepts_type(self, media_type: str) -> bool:
        """Whether a file of this type is for this processor. Case and parameters (`; charset=`) do not matter."""
        plain = media_type.partition(";")[0].strip().lower()
        family = plain.partition("/")[0]
        return any(pattern in ("*/*", plain, f"{family}/*") for pattern in self.accepts)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the options."""
        return self.options.model_json_schema()


def processor(
    name: str, *, accepts: tuple[str, ...] = ("*/*",), identifies: bool = False, needs: tuple[str, ...] = ()
) -> Callable[[Callable[..., Facts]], Processor]:
    """Make the decorated function a `Processor`. Registers nothing: a registry finds it as a module's attribute.

    `name` is lower case words joined by dots. `identifies` promises facts with the `media_type` of the input.
    `needs` names the helpers that `ctx.connect` may be asked for. Raises TypeError, with what to write instead, for a
    name, type or signature that cannot work.
    """
    if not _PROCESSOR_NAME.fullmatch(name):
        raise TypeError(
            f"A processor's name is lower case words joined by dots, such as 'image.previews', not {name!r}."
        )
    if not isinstance(accepts, tuple) or not accepts:
        raise TypeError(f"{name}: accepts is a tuple of media types, such as accepts=('image/*',), not {accepts!r}.")
    for pattern in accepts:
        if not isinstance(pattern, str) or not _TYPE_PATTERN.fullmatch(pattern):
            raise TypeError(f"{name}: accepts holds types such as 'text/plain', 'image/*' or '*/*', not {pattern!r}.")
    if not isinstance(needs, tuple) or not all(isinstance(helper, str) for helper in needs):
        raise TypeError(f"{name}: needs is a tuple of names, such as needs=('clamd',), not {needs!r}.")

    def decorate(function: Callable[..., Facts]) -> Processor:
        options = _options_of(name, function)
        return Processor(
            name=name,
            accepts=tuple(accepts),
            identifies=identifies,
            options=options or Options,
            description=(inspect.getdoc(function) or "").partition("\n")[0].strip(),
            function=function,
            takes_options=options is not None,
            needs=tuple(needs),
        )

    return decorate


def _options_of(name: str, function: Callable[..., Facts]) -> type[Options] | None:
    """Return the model that annotates the second parameter, None without one. Raises TypeError as `processor` does."""
    if not inspect.isfunction(function):
        raise TypeError(f"@processor({name!r}) goes on a function, not on {function!r}: {_HOW}.")
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise TypeError(f"{name}: a processor returns its facts, so it is neither async nor a generator: {_HOW}.")
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) not in (1, 2) or any(parameter.kind not in positional for parameter in parameters):
        raise TypeError(f"{name}: a processor takes the context and at most its options: {_HOW}.")
    if len(parameters) == 1:
        return None
    second = parameters[1]
    try:
        # Only this one annotation is resolved: the others may name what is imported for type checkers alone.
        holder = SimpleNamespace(__annotations__={second.name: second.annotation})
        model = typing.get_type_hints(holder, globalns=function.__globals__)[second.name]
    except NameError as error:
        raise TypeError(
            f"{name}: the options model is unknown at run time ({error}); define or import it at the top of the module."
        ) from None
    if not (isinstance(model, type) and issubclass(model, Options)) or second.annotation is second.empty:
        raise TypeError(f"{name}: annotate {second.name!r} with a subclass of processors.Options: {_HOW}.")
    return model
