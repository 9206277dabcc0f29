"""Which processors exist: the built-in ones, those of installed packages, and those of a directory of `.py` files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from importlib.metadata import entry_points as installed_entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from processors.contract import Processor

if TYPE_CHECKING:
    from pathlib import Path

ENTRY_POINT_GROUP = "file_intake.processors"
"""Packages name a module that holds processors, or one processor, in this entry point group."""

BUILT_IN = ("processors.checksum", "processors.media_type", "processors.image", "processors.text", "processors.malware")
"""The modules that come with this package, one family each."""


class RegistryError(Exception):
    """The set of processors cannot be built. The message names the file or entry point, and the cause."""


class Registry(Mapping[str, Processor]):
    """The known processors by name, in the order they were found. Never changes once made."""

    def __init__(self, processors: Iterable[Processor] = ()) -> None:
        self._processors: dict[str, Processor] = {}
        self._origins: dict[str, str] = {}
        for found in processors:
            self._add(found, found.function.__module__)

    @classmethod
    def collect(cls, sources: Iterable[tuple[str, ModuleType | Processor]]) -> Registry:
        """Return a registry of the processors in `sources`: pairs of where it comes from, and a module or processor.

        Raises RegistryError if two different processors share a name. The same one met twice (a module that imports
        another's) counts once.
        """
        registry = cls()
        for origin, source in sources:
            members = [source] if isinstance(source, Processor) else list(vars(source).values())
            for member in members:
                if isinstance(member, Processor):
                    registry._add(member, origin)
        return registry

    def _add(self, found: Processor, origin: str) -> None:
        known = self._processors.get(found.name)
        if known is not None and known is not found:
            raise RegistryError(
                f"Two processors are named {found.name!r}, in {self._origins[found.name]} and in {origin}. Rename one."
            )
        self._processors.setdefault(found.name, found)
        self._origins.setdefault(found.name, origin)

    def __getitem__(self, name: str) -> Processor:
        return self._processors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._processors)

    def __len__(self) -> int:
        return len(self._processors)


def load_registry(*, directory: Path | None = None, entry_points: bool = True) -> Registry:
    """Import every processor and return them: built-in modules, then entry points, then `*.py` of `directory`.

    Files of `directory` are imported in the order of their names, each under a private module name; those that start
    with an underscore are left out. Raises RegistryError, naming the file or entry point, when a module cannot be
    imported or holds no processor, when a name is taken, and when `directory` is not a directory.
    """

    def sources() -> Iterator[tuple[str, ModuleType | Processor]]:
        for name in BUILT_IN:
            yield name, importlib.import_module(name)
        if entry_points:
            for entry_point in installed_entry_points(group=ENTRY_POINT_GROUP):
                yield _origin(entry_point), _load(entry_point)
        if directory is not None:
            for file in _files(directory):
                yield str(file), _import_file(file)

    return Registry.collect(sources())


def _origin(entry_point: EntryPoint) -> str:
    package = f" of {entry_point.dist.name}" if entry_point.dist else ""
    return f"entry point {entry_point.name!r}{package} ({entry_point.value})"


def _load(entry_point: EntryPoint) -> ModuleType | Processor:
    origin = _origin(entry_point)
    try:
        loaded = entry_point.load()
    except Exception as error:
        raise RegistryError(f"The {origin} cannot be imported: {_cause(error)}") from error
    if isinstance(loaded, Processor):
        return loaded
    if not isinstance(loaded, ModuleType):
        raise RegistryError(f"The {origin} is a {type(loaded).__name__}; it must name a module or a processor.")
    return _with_processors(loaded, f"The {origin}")


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(
            file for file in directory.iterdir() if file.suffix == ".py" and not file.name.startswith(("_", "."))
        )
    except OSError as error:
        raise RegistryError(f"The directory of processors {directory} cannot be read: {error.strerror}.") from error


def _import_file(file: Path) -> ModuleType:
    # The digest keeps two directories with a file of one name apart; the prefix keeps clear of real packages.
    name = f"_intake_{hashlib.sha256(bytes(file.resolve())).hexdigest()[:12]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic and dataclasses look their module up by name while the class statement runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RegistryError(f"{file} cannot be imported: {_cause(error)}") from error
    return _with_processors(module, str(file))


def _with_processors(module: ModuleType, origin: str) -> ModuleType:
    if not any(isinstance(member, Processor) for member in vars(module).values()):
        raise RegistryError(f"{origin} holds no processor. Decorate a function with @processor(...).")
    return module


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
