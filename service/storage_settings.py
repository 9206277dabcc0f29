"""The settings of where bytes are: a part of ``Settings``, which reads them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from service.kinds import OptionalDuration
from service.storage.address import FILES, BucketAddress


class StorageSettings(BaseSettings):
    """Where sources and artifacts are kept."""

    storage: str = Field(
        "files",
        description="Where bytes are: `files` in the data directory, or an S3-compatible server, such as "
        "`s3://bucket/prefix?endpoint=https://s3.example.org`, with `region` and `addressing` (`path`, `virtual`); needs the "
        "extra `s3`.",
    )
    s3_credentials: Path | None = Field(
        None,
        description="File with the keys of the S3 server, as AWS has it (section `default`); without it the `AWS_` variables and "
        "AWS's other places count.",
    )
    s3_redirect: OptionalDuration = Field(
        None,
        description="How long a signed URL of the S3 server is good that downloads are redirected to (307); `off` sends the "
        "bytes through the service.",
    )
    scratch: Path | None = Field(
        None,
        description="Folder for the files that attempts work on while bytes are on an S3 server (default: `scratch` in the data "
        "directory). It must be on a local disk.",
    )

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if self.storage != FILES:
            try:
                BucketAddress.parse(self.storage)
            except ValueError as error:
                raise ValueError(f"INTAKE_STORAGE: {error}") from None
            if self.s3_redirect is not None and not timedelta(seconds=1) <= self.s3_redirect <= timedelta(days=7):
                raise ValueError("INTAKE_S3_REDIRECT must be from 1s to 7d, or `off`")
            return self
        given: dict[str, Any] = {"s3_credentials": self.s3_credentials, "s3_redirect": self.s3_redirect}
        for name, value in (given | {"scratch": self.scratch}).items():
            if value is not None:
                raise ValueError(f"INTAKE_{name.upper()} is for bytes on an S3 server; set INTAKE_STORAGE=s3://… too")
        return self

    @property
    def bucket(self) -> BucketAddress | None:
        """Where bytes are if they are on an S3 server."""
        return None if self.storage == FILES else BucketAddress.parse(self.storage)
