"""The settings of the engine ``celery``, a part of ``Settings``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from service.engines.routes import QUEUES
from service.kinds import Address, Size


class BrokerSettings(BaseSettings):
    """Where jobs are told of when workers run on other machines, and who runs which of them."""

    # the engine celery
    broker_url: Address | None = Field(
        None,
        description="Message broker of the engine `celery`: RabbitMQ, such as `amqp://intake:secret@mq.example.org/intake`, or "
        "Redis, such as `redis://:secret@cache.example.org/0`; `amqps` and `rediss` for TLS.",
    )
    broker_url_file: Path | None = Field(
        None, description="File with the value of `INTAKE_BROKER_URL`, such as a mounted secret."
    )
    queues: str = Field(
        "",
        description=f"Queues that `intake worker` takes jobs from, of {', '.join(f'`{name}`' for name in QUEUES)}; all without it.",
    )
    bulk_size: Size = Field(
        64 * 2**20, description="Files of this size and more go to the queue `bulk`, whatever their type; 0 for none."
    )
    data_shared: bool = Field(
        False,
        description="Says that every process of the service, on whatever machine, sees the same `INTAKE_DATA_DIR`, with locks "
        "(flock) that count on all of them; the engine `celery` takes records in files only then.",
    )

    @model_validator(mode="after")
    def _check_broker(self) -> Self:
        url = self.broker_url.get_secret_value() if self.broker_url else ""
        if url and not re.match(r"(amqps?|rediss?)://[^/]", url):
            raise ValueError(
                "INTAKE_BROKER_URL must begin with amqp://, amqps://, redis:// or rediss://, and name a host"
            )
        if wrong := [name for name in self.queue_names if name not in QUEUES]:
            raise ValueError(f"INTAKE_QUEUES: there is no queue {wrong[0]}; there are {', '.join(QUEUES)}")
        return self

    def _check_celery(self, records: str) -> None:
        """Raise ValueError where Celery's workers could not find what they are told of."""
        if self.broker_url is None:
            raise ValueError(
                "INTAKE_ENGINE=celery needs INTAKE_BROKER_URL, such as amqp://mq.example.org or redis://cache.example.org"
            )
        if records == "files" and not self.data_shared:
            raise ValueError(
                "INTAKE_ENGINE=celery needs records that all machines share: set INTAKE_RECORDS=postgresql://…, or, if all "
                "processes of the service run on this machine or see the same INTAKE_DATA_DIR with working locks, "
                "INTAKE_DATA_SHARED=true"
            )

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues a worker takes jobs from, in words of the setting."""
        named = tuple(word.strip().lower() for word in self.queues.split(",") if word.strip())
        return tuple(dict.fromkeys(named)) or QUEUES
