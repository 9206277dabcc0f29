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
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pydantic
from pydantic import ConfigDict

from processors.context import TYPE_PATTERN
from processors.context import Facts as Facts
from processors.context import Limits as Limits
from processors.context import StepContext as StepContext

MAX_FACTS_BYTES = 64 * 1024
"""Most bytes of one step's facts as compact UTF-8 JSON. Longer results belong into an artifact."""

MAX_CODE = 100
"""Most characters of the code of a Reject."""

_PROCESSOR_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_ERROR_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

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
    opaque: bool = False
    """Whether the file is opaque bytes to it, so that no file can make it do anything else."""

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
    name: str,
    *,
    accepts: tuple[str, ...] = ("*/*",),
    identifies: bool = False,
    needs: tuple[str, ...] = (),
    opaque: bool = False,
) -> Callable[[Callable[..., Facts]], Processor]:
    """Make the decorated function a `Processor`. Registers nothing: a registry finds it as a module's attribute.

    `name` is lower case words joined by dots. `identifies` promises facts with the `media_type` of the input.
    `needs` names the helpers that `ctx.connect` may be asked for. `opaque` promises that the function only counts,
    hashes or passes on the bytes of its file and decodes none, reads them by `ctx.open()`, makes no artifacts and
    remembers nothing: small files of such pipelines are worked on one after the other by one process. Raises TypeError,
    with what to write instead, for a name, type or signature that cannot work.
    """
    if not _PROCESSOR_NAME.fullmatch(name):
        raise TypeError(
            f"A processor's name is lower case words joined by dots, such as 'image.previews', not {name!r}."
        )
    if not isinstance(accepts, tuple) or not accepts:
        raise TypeError(f"{name}: accepts is a tuple of media types, such as accepts=('image/*',), not {accepts!r}.")
    for pattern in accepts:
        if not isinstance(pattern, str) or not TYPE_PATTERN.fullmatch(pattern):
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
            opaque=opaque,
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
