"""The settings, and the only module that reads the environment: flags over environment over file over defaults.

Every field is an ``INTAKE_`` variable of the same name in capitals, a key of the TOML file that ``INTAKE_CONFIG`` names, and a
line of ``docs/reference/settings.md`` (written by ``intake config docs``).
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from service.attempt_settings import AttemptSettings
from service.broker_settings import BrokerSettings
from service.email_settings import EmailSettings
from service.errors import ConfigError
from service.kinds import Address, Duration, OptionalDuration, Size
from service.mistakes import did_you_mean, tell
from service.storage_settings import StorageSettings
from service.units import format_duration as format_duration
from service.units import format_size as format_size
from service.units import parse_duration as parse_duration
from service.units import parse_size as parse_size

PREFIX = "INTAKE_"
_FILE = f"{PREFIX}CONFIG"  # names the settings file
_TESTS = f"{PREFIX}TEST_"  # begins what belongs to the project's own tests

_FROM_FILES = ("records", "broker_url")  # secrets, whose value a file may hold
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")


class Settings(AttemptSettings, BrokerSettings, EmailSettings, StorageSettings):
    """All settings of one process, frozen. Build it with ``Settings.load()``, which reports mistakes by the variable's name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)
    _file: ClassVar[Path | None] = None

    # the server
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="API processes. They share the data directory and nothing else.")
    root_path: str = Field("", description="Path prefix under which a proxy publishes the service, such as `/intake`.")
    data_dir: Path = Field(
        Path("uploads"), description="Directory of all records and bytes that are files. It must be on a local disk."
    )
    records: Address = Field(
        SecretStr("files"),
        description="Where records are, of jobs, tokens and webhooks: `files` in the data directory, or in PostgreSQL, such as "
        "`postgresql://intake:secret@db.example.org/intake`, with libpq's parameters; needs the extra `postgres`.",
    )
    records_file: Path | None = Field(
        None, description="File with the value of `INTAKE_RECORDS`, such as a mounted secret."
    )
    lease: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(seconds=1),
        description="How long a runner, or an upload with an Idempotency-Key, may give PostgreSQL no sign of life before its job "
        "or key is free for others; the same for uploads to an S3 server, at least 10 s.",
    )
    durability: Literal["sync", "none"] = Field(
        "sync",
        description="`sync` answers 202 only when file, record and folders are on disk; `none` leaves that to the "
        "operating system, is quicker, and can lose accepted files in a power cut.",
    )

    public_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9.\[\]:-]+)?$",
        description="Origin under which clients reach the service, such as `https://files.example.org`: signed links begin "
        "with it, and are paths without it.",
    )

    # who may do what
    open: bool = Field(
        False,
        description="Lets the service listen beyond this machine while it has no token: whoever reaches it may then do "
        "everything. Without it, a start there needs a token first.",
    )
    allowed_hosts: str = Field(
        "",
        description="Names that requests may be meant for, such as `files.example.org, *.example.net`; another `Host` is "
        "refused. Without it, any name will do for requests with a token, and names of this machine for those without.",
    )
    rate_limit: str = Field(
        "",
        pattern=r"^([1-9]\d{0,8}/(second|minute|hour|day))?$",
        description="Requests that a token, or without one an address, may make, such as `600/minute`; no limit without it. "
        "Each API process counts for itself.",
    )
    quota_jobs: int = Field(0, ge=0, description="Jobs a token may make in a day of UTC; 0 for no limit.")
    quota_bytes: Size = Field(0, description="Bytes a token may send in a day of UTC; 0 for no limit.")
    quota_active: int = Field(
        0, ge=0, description="Jobs of a token that may be waiting or running at a time; 0 for no limit."
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages may use the API from a browser, such as `https://app.example.org`, or `*`; "
        "none without it.",
    )

    # what is taken
    max_upload: Size = Field(2 * 2**30, description="Largest file taken.")
    min_free: Size = Field(256 * 2**20, description="Free disk space kept in reserve; uploads are refused below it.")
    queue_limit: int = Field(
        10_000, ge=1, description="Jobs that may be waiting or running before uploads are refused."
    )
    upload_idle: Duration = Field(
        timedelta(seconds=15), gt=timedelta(0), description="Longest silence within an upload."
    )
    upload_min_rate: Size = Field(
        1024,
        description="Bytes per second below which an upload is ended, measured after its first 10 s, and a connection whose "
        "client takes an answer more slowly; 0 for no minimum.",
    )
    max_header: Size = Field(16 * 2**10, ge=1024, description="Longest header section of a request.")
    header_timeout: Duration = Field(
        timedelta(seconds=10),
        gt=timedelta(0),
        description="How long a connection may take until the header of its request is there.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="Open connections of one API process. A newcomer beyond it takes the place of the one that has waited "
        "for a request the longest.",
    )
    idempotency_ttl: Duration = Field(timedelta(hours=24), description="How long an Idempotency-Key is remembered.")

    max_wait: Duration = Field(timedelta(seconds=30), description="Longest wait that `Prefer: wait` is granted.")
    max_waiters: int = Field(
        2000, ge=0, description="Clients that may wait in one API process; further ones are answered at once."
    )

    max_streams: int = Field(500, ge=0, description="Event streams that may be open in one API process.")
    max_stream: Duration = Field(
        timedelta(minutes=15), description="Longest life of an event stream; clients resume it."
    )

    # what becomes of jobs
    retention: OptionalDuration = Field(None, description="How long finished jobs are kept; `off` keeps them for ever.")
    gone_for: Duration = Field(
        timedelta(days=7), description="How long an expired job is answered with 410 before 404."
    )
    default_pipeline: str = Field("default", description="Pipeline of an upload that names none.")
    pipelines: Path | None = Field(None, description="TOML file with more pipelines, or others under known names.")
    processors_dir: Path | None = Field(None, description="Folder of Python files with more processors.")

    # who is told of their end
    callback_hosts: str = Field(
        "",
        description="Hosts that the `callback_url` of an upload may lead to, such as `hooks.example.org, *.example.net`, or `*` "
        "for any; without it there are no callbacks.",
    )
    webhook_allow: str = Field(
        "",
        description="Hosts and networks that webhooks may go to although they are not on the Internet or listen on another "
        "port than 80 and 443, such as `hooks.lan, 10.1.0.0/16`.",
    )
    webhook_timeout: Duration = Field(
        timedelta(seconds=15), gt=timedelta(0), description="How long one try at a webhook may take, answer included."
    )

    # how jobs run
    engine: Literal["local", "celery"] = Field(
        "local",
        description="What runs the jobs: `local` on this machine, `celery` workers on any number of them, told by the broker of "
        "`INTAKE_BROKER_URL`; needs the extra `celery`.",
    )
    slots: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 4),
        ge=1,
        le=256,
        description="Jobs that run at the same time (default: cores, at most 4).",
    )
    deadline: Duration = Field(timedelta(seconds=300), gt=timedelta(0), description="Longest run of one attempt.")
    max_attempts: int = Field(3, ge=1, description="Attempts of a job whose processor fails in a way that may pass.")
    crash_attempts: int = Field(2, ge=1, description="Attempts of a job that crashes, hangs or runs out of memory.")
    retry_base: Duration = Field(
        timedelta(seconds=2), description="Longest wait before the first retry; it doubles each time."
    )
    retry_cap: Duration = Field(timedelta(minutes=10), description="Longest wait before any retry.")
    drain: Duration = Field(
        timedelta(seconds=20), description="How long a stopping service lets running attempts finish."
    )
    shutdown_notice: Duration = Field(
        timedelta(0),
        description="How long a stopping service still takes requests while `/readyz` says 503, so that load balancers "
        "look elsewhere first.",
    )
    poll: Duration = Field(
        timedelta(seconds=2),
        gt=timedelta(0),
        description="How often the supervisor looks for jobs whose bell was lost.",
    )
    attempt_start: Literal["auto", "fork", "spawn"] = Field(
        "auto",
        description="How an attempt's process starts: forked from a warm one (Linux), or spawned (elsewhere, slower).",
    )

    # what is noted
    audit_size: Size = Field(16 * 2**20, description="Size at which a file of the audit log is put aside; 0: no log.")
    audit_keep: int = Field(20, ge=0, description="Files of the audit log that were put aside and are kept.")

    # logs, and the client side of the command line
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least important lines logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")
    telemetry: bool = Field(
        default=False,
        description="Export traces by OpenTelemetry, over OTLP with HTTP, as the `OTEL_` variables say; needs the extra "
        "`telemetry`.",
    )
    server: str = Field("http://127.0.0.1:8000", description="Service the client commands talk to.")
    token: SecretStr | None = Field(None, description="Token the client commands send; see `intake tokens create`.")
    faults: str = Field(
        "",
        description="For tests only: fault points to arm, as `point=action`, separated by commas; actions are `kill`, `fail` "
        "(no space), `eio` and `hang`, with `@file` once only.",
    )

    @classmethod
    def settings_customise_sources(  # noqa: D102
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library calls by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, cls._file)) if cls._file else sources

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _FROM_FILES:
            if path := values.get(f"{name}_file"):
                variable = f"{PREFIX}{name.upper()}"
                if values.get(name):
                    raise ValueError(f"{variable} and {variable}_FILE: give one of them")
                try:
                    values = values | {name: Path(path).read_text(encoding="utf-8").strip()}
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"{variable}_FILE={path}: {getattr(error, 'strerror', error)}") from None
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.root_path):
            raise ValueError("INTAKE_ROOT_PATH must look like /intake, without a slash at its end")
        if not re.match(r"files$|postgres(ql)?://", self.records.get_secret_value()):
            raise ValueError("INTAKE_RECORDS must be `files`, or begin with postgresql://")
        if self.engine == "celery":
            self._check_celery(self.records.get_secret_value())
        if wrong := [one for one in self.names("cors_origins") if one != "*" and not _ORIGIN.fullmatch(one)]:
            raise ValueError(
                f"INTAKE_CORS_ORIGINS={wrong[0]}: write an origin like https://app.example.org, without a path"
            )
        return self

    def names(self, field: str) -> tuple[str, ...]:
        """Return the members of a setting that lists words, in lower case."""
        return tuple(word.strip().lower() for word in str(getattr(self, field)).split(",") if word.strip())

    @classmethod
    def load(cls, config: Path | None = None, **flags: Any) -> Settings:
        """Build the settings; ``flags`` that are None count as not given.

        Raises:
            ConfigError: a value is wrong, a variable or key is unknown, or the file cannot be read.

        """
        unknown = [name for name in os.environ if name.startswith(PREFIX) and not _is_known(name)]
        if unknown:
            raise ConfigError(
                "; ".join(f"unknown setting {name}{did_you_mean(name, _known())}" for name in sorted(unknown))
            )
        path = config or (Path(value) if (value := os.environ.get(_FILE)) else None)
        if path and not path.is_file():
            raise ConfigError(f"{_FILE}: there is no settings file {path}")
        source = type("_Settings", (cls,), {"_file": path})
        try:
            values = source(**{key: value for key, value in flags.items() if value is not None})
        except ValidationError as error:
            raise ConfigError("; ".join(tell(item, path, PREFIX, _known()) for item in error.errors())) from None
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path}: {error}") from None
        return cls.model_construct(**dict(values))

    def environment(self) -> dict[str, str]:
        """Return all settings as variables: with them ``load`` gives the same settings, whatever else is set or in a file.

        The token is left out: it is the client's, and no business of the processes that are started with these.
        """
        secrets = {name: self._secret(name) for name in _FROM_FILES}
        plain = self.model_dump(mode="json") | {"token": None} | secrets
        told = {f"{PREFIX}{name.upper()}": "" if value is None else str(value) for name, value in plain.items()}
        return {_FILE: "", **told}

    def _secret(self, name: str) -> str | None:
        """Return a secret's value, None for one that is not set or is read from a file."""
        value: SecretStr | None = getattr(self, name)
        return None if value is None or getattr(self, f"{name}_file") else value.get_secret_value()


def _is_known(name: str) -> bool:
    return name in _known() or name.startswith(_TESTS)


def _known() -> list[str]:
    return [_FILE, *(f"{PREFIX}{field.upper()}" for field in Settings.model_fields)]
