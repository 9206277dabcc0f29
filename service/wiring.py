"""The composition root: settings in, parts out, in the order they depend on each other. The only module that names adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from processors.contract import Limits
from processors.pipeline import Pipeline, PipelineError, load_pipelines
from processors.registry import Registry, RegistryError, load_registry
from service.acceptance import Together
from service.access.links import Links, MemoryLinks
from service.access.memory_store import MemoryTokenStore
from service.access.quota import MemoryUsage, Usage
from service.access.store import TokenStore
from service.audit import Audit
from service.clock import Clock, utc_now
from service.counts import Counts
from service.deletion import Deleting, delete_apart, delete_together
from service.durable import Disk
from service.engine import build_engine
from service.engines.base import Engine
from service.engines.immediate import ImmediateEngine, ThreadLauncher
from service.errors import ConfigError
from service.execution.attempt import AttemptRunner
from service.execution.follow import Bounds
from service.execution.launcher import ForkLauncher, Launcher, SpawnLauncher, launcher_for
from service.execution.sandbox import ProcessLimits, missing
from service.jobs.file_store import FileJobStore
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job
from service.jobs.retry import RetryPolicy
from service.jobs.store import JobStore
from service.notify.base import Ending
from service.notify.endpoints import Endpoints, MemoryEndpoints
from service.notify.guard import Guard
from service.notify.subscribers import Subscribers
from service.notify.wishes import Wishes
from service.placement import build_storage
from service.records import build_store, identity_of
from service.settings import Settings
from service.shared import build_shared
from service.storage.base import Storage
from service.storage.local import LocalStorage
from service.storage.memory import MemoryStorage


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What a job can ask for: all checked, so that nothing wrong is found out at run time."""

    registry: Registry
    pipelines: Mapping[str, Pipeline]
    default: str  #: name of the pipeline of an upload that names none


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of one process."""

    settings: Settings
    catalogue: Catalogue
    store: JobStore
    storage: Storage
    tokens: TokenStore
    usage: Usage
    links: Links
    engine: Engine
    clock: Clock
    counts: Counts
    audit: Audit
    endpoints: Endpoints
    guard: Guard
    wishes: Wishes
    ending: Callable[[Job], Job]  #: applied within every change that ends a job
    delete_all: Deleting  #: of jobs that have expired
    collecting: Path | None = None  #: the file whose flock is held by the process that collects them
    let_go: Callable[[], None] = lambda: None  #: of what the parts hold open beside records and counts
    together: Together | None = None  #: commits uploads together, where store and storage can

    def close(self) -> None:
        """Let go of what the parts hold open."""
        if self.together is not None:
            self.together.close()
        self.counts.close()
        self.store.close()
        self.let_go()


@dataclass(frozen=True, kw_only=True)
class MemoryServices(Services):
    """The parts of a test: those of a process, in memory."""

    store: MemoryJobStore
    storage: MemoryStorage
    engine: ImmediateEngine


def load_catalogue(settings: Settings) -> Catalogue:
    """Load and check processors and pipelines. Raises ConfigError that names file and step."""
    if settings.processors_dir is not None and not settings.processors_dir.is_dir():
        raise ConfigError(f"INTAKE_PROCESSORS_DIR: there is no folder {settings.processors_dir}")
    try:
        registry = load_registry(directory=settings.processors_dir)
        pipelines = load_pipelines(registry, *([settings.pipelines] if settings.pipelines else []))
    except (RegistryError, PipelineError) as error:
        raise ConfigError(str(error)) from error
    if settings.default_pipeline not in pipelines:
        names = ", ".join(sorted(pipelines))
        raise ConfigError(
            f"INTAKE_DEFAULT_PIPELINE={settings.default_pipeline}: there is no such pipeline; there are {names}"
        )
    for pipeline in pipelines.values():
        _helpers(settings, registry, pipeline)
    return Catalogue(registry=registry, pipelines=pipelines, default=settings.default_pipeline)


def helper_sockets(settings: Settings) -> dict[str, Path | None]:
    """Return the Unix sockets of the helpers that processors may name in ``needs``; None for what is not configured."""
    return {"clamd": settings.clamd}


def _helpers(settings: Settings, registry: Registry, pipeline: Pipeline) -> dict[str, Path]:
    """Return the sockets that the steps of ``pipeline`` need. Raises ConfigError for one that is not there to be had."""
    sockets = helper_sockets(settings)
    found: dict[str, Path] = {}
    for step in pipeline.steps:
        for helper in registry[step.processor].needs:
            where = f'pipeline "{pipeline.name}", step "{step.name}"'
            if helper not in sockets:
                raise ConfigError(f"{where}: there is no helper {helper!r}; there are {', '.join(sockets)}")
            path = sockets[helper]
            if path is None:
                raise ConfigError(f"{where}: needs INTAKE_{helper.upper()}, the Unix socket of {helper}")
            found[helper] = path
    return found


def build(settings: Settings, *, catalogue: Catalogue | None = None, clock: Clock = utc_now) -> Services:
    """Build the parts of a process. Raises ConfigError when the settings cannot work."""
    root = settings.data_dir.resolve()
    disk = Disk(sync=settings.durability == "sync")
    try:
        disk.make_folders(root / "engine")
        store = build_store(settings, clock=clock)
        storage = build_storage(settings, partial(identity_of, settings, store), disk=disk)
        shared = build_shared(settings)
    except OSError as error:
        raise ConfigError(f"INTAKE_DATA_DIR={settings.data_dir}: {error.strerror or error}") from error
    guard = Guard(settings.names("webhook_allow"))
    on_disk = (store, storage) if isinstance(store, FileJobStore) and isinstance(storage, LocalStorage) else None
    return Services(
        settings=settings,
        catalogue=catalogue or load_catalogue(settings),
        store=store,
        storage=storage,
        tokens=shared.tokens,
        usage=shared.usage,
        links=shared.links,
        engine=build_engine(settings, root, store),
        clock=clock,
        counts=Counts(root / "engine" / "counts.db"),
        audit=Audit.of(settings, clock=clock),
        endpoints=shared.endpoints,
        guard=guard,
        wishes=_wishes(settings, guard, shared.endpoints),
        ending=_ending(settings, shared.endpoints, clock),
        let_go=shared.close,
        collecting=root / "engine" / "collect.lock",
        delete_all=partial(delete_together, *on_disk) if on_disk else partial(delete_apart, store, storage),
        together=Together(*on_disk) if on_disk else None,
    )


def build_in_memory(
    settings: Settings | None = None, *, catalogue: Catalogue | None = None, clock: Clock = utc_now
) -> MemoryServices:
    """Build the parts for a test: nothing on disk, no other process, and a job has run when its upload has been answered.

    ``create_app(services=build_in_memory())`` is the whole API over them. What settings say of the data directory, the
    supervisor and the limits of an attempt's process does not apply.
    """
    settings = settings or Settings.load()
    catalogue = catalogue or load_catalogue(settings)
    store = MemoryJobStore(clock=clock, key_ttl=settings.idempotency_ttl, gone_for=settings.gone_for)
    storage = MemoryStorage()
    endpoints = MemoryEndpoints()
    guard = Guard(settings.names("webhook_allow"))
    ending = _ending(settings, endpoints, clock)
    launcher = ThreadLauncher(catalogue.registry)
    runner = _runner(settings, catalogue, store, storage, launcher, clock, ending=ending, grace=0, lasting=False)
    engine = ImmediateEngine(runner=runner, store=store, clock=clock)
    return MemoryServices(
        settings=settings,
        catalogue=catalogue,
        store=store,
        storage=storage,
        tokens=MemoryTokenStore(),
        usage=MemoryUsage(),
        links=MemoryLinks(),
        engine=engine,
        clock=clock,
        counts=Counts(),
        audit=Audit(Path(), size=0, keep=0),
        endpoints=endpoints,
        guard=guard,
        wishes=_wishes(settings, guard, endpoints),
        ending=ending,
        delete_all=partial(delete_apart, store, storage),
    )


def build_runner(
    settings: Settings, services: Services, *, tell: Callable[[Job], None] = lambda _: None
) -> tuple[AttemptRunner, ForkLauncher | SpawnLauncher]:
    """Build what runs attempts in this process, and the launcher it uses; ``tell`` gets each job whose attempt has ended."""
    if settings.sandbox == "strict" and (lacks := missing()):
        raise ConfigError(f"INTAKE_SANDBOX=strict: this system lacks {' and '.join(lacks)}; `auto` takes what there is")
    launcher = launcher_for(settings.attempt_start, settings.processors_dir)
    runner = _runner(
        settings,
        services.catalogue,
        services.store,
        services.storage,
        launcher,
        services.clock,
        ending=services.ending,
        tell=tell,
    )
    return runner, launcher


def _wishes(settings: Settings, guard: Guard, endpoints: Endpoints) -> Wishes:
    hosts, recipients = settings.names("callback_hosts"), settings.names("notify_recipients")
    return Wishes(callback_hosts=hosts, recipients=recipients, guard=guard, endpoints=endpoints)


def _ending(settings: Settings, endpoints: Endpoints, clock: Clock) -> Callable[[Job], Job]:
    told = Subscribers(endpoints=endpoints, email_to=settings.names("email_to"), email_on=settings.email_on)
    return Ending(retention=settings.retention, subscribers=told, clock=clock)


def _runner(
    settings: Settings,
    catalogue: Catalogue,
    store: JobStore,
    storage: Storage,
    launcher: Launcher,
    clock: Clock,
    *,
    ending: Callable[[Job], Job],
    grace: float = 5.0,
    lasting: bool = True,
    tell: Callable[[Job], None] = lambda _: None,
) -> AttemptRunner:
    deadline = settings.deadline.total_seconds()
    return AttemptRunner(
        store=store,
        storage=storage,
        launcher=launcher,
        pipelines=catalogue.pipelines,
        shareable=_shareable(catalogue) if lasting else (),
        policy=RetryPolicy(
            max_attempts=settings.max_attempts,
            crash_attempts=settings.crash_attempts,
            base=settings.retry_base,
            cap=settings.retry_cap,
        ),
        bounds=Bounds(deadline=deadline, grace=grace, output=settings.max_output, memory=settings.attempt_memory),
        process=ProcessLimits(
            memory=settings.attempt_memory,
            output=settings.max_output,
            files=settings.attempt_files,
            cpu=int(deadline) + 1,
            sandbox=settings.sandbox,
        ),
        limits=Limits(
            max_pixels=settings.max_pixels,
            max_total_pixels=settings.max_total_pixels,
            max_frames=settings.max_frames,
            max_side=settings.max_side,
            max_output=settings.max_output,
            max_scan=settings.max_scan,
        ),
        helpers={name: _helpers(settings, catalogue.registry, one) for name, one in catalogue.pipelines.items()},
        code=_code_folders(settings, catalogue),
        ending=ending,
        clock=clock,
        tell=tell,
    )


def _shareable(catalogue: Catalogue) -> frozenset[str]:
    """Return the names of the pipelines to whose every step a file is opaque bytes."""
    return frozenset(
        name
        for name, pipeline in catalogue.pipelines.items()
        if all(catalogue.registry[step.processor].opaque for step in pipeline.steps)
    )


def _code_folders(settings: Settings, catalogue: Catalogue) -> list[Path]:
    """Return the folders that the processors' modules are in, for attempts to read; never one that the data is in."""
    data = settings.data_dir.resolve()
    files = {getattr(one.function, "__globals__", {}).get("__file__") for one in catalogue.registry.values()}
    folders = {Path(file).resolve().parent for file in files if file}
    return sorted(folder for folder in folders if folder not in (data, *data.parents))
