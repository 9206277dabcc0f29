"""Where bytes are: the value of INTAKE_STORAGE, taken apart. It holds no secrets, and is shown as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

FILES: Final = "files"  #: the value for bytes in the data directory
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.()-]+(/[A-Za-z0-9!_.()-]+)*")
_ENDPOINT: Final = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?/?")
_ADDRESSING: Final[dict[str, Literal["path", "virtual", "auto"]]] = {
    "path": "path",
    "virtual": "virtual",
    "auto": "auto",
}
_SHAPE: Final = "s3://bucket/prefix?endpoint=https://host&region=name"


@dataclass(frozen=True, kw_only=True)
class BucketAddress:
    """A bucket of an S3-compatible server and what of it belongs to the service."""

    bucket: str
    prefix: str  #: of all keys: empty, or ends with a slash
    endpoint: str | None = None  #: None is Amazon's, of the region
    region: str | None = None  #: None is what the environment says
    addressing: Literal["path", "virtual", "auto"] = "auto"

    @classmethod
    def parse(cls, url: str) -> BucketAddress:
        """Take an ``s3://`` URL apart. Raises ValueError, which says what is wrong and shows no user name or password."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise ValueError(f"write `{FILES}`, or an address like {_SHAPE}")
        if "@" in parts.netloc:
            raise ValueError("credentials do not belong into the address; see INTAKE_S3_CREDENTIALS")
        if not _BUCKET.fullmatch(parts.netloc):
            raise ValueError(f"{parts.netloc!r} cannot be the name of a bucket")
        prefix = parts.path.strip("/")
        if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
            raise ValueError(f"{prefix!r} cannot be a prefix: letters, digits, `!_.()-` and single slashes make one")
        if parts.fragment:
            raise ValueError("it has a fragment (#)")
        try:
            told = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ValueError("the parameters after `?` cannot be read; join them with `&`") from None
        endpoint = told.pop("endpoint", None)
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("endpoint must look like https://s3.example.org or http://127.0.0.1:9000")
        addressing = _ADDRESSING.get(told.pop("addressing", "path" if endpoint else "auto"))
        if addressing is None:
            raise ValueError("addressing is `path`, `virtual` or `auto`")
        region = told.pop("region", None)
        if told:
            raise ValueError(f"there is no parameter {min(told)!r}; there are endpoint, region, addressing")
        return cls(
            bucket=parts.netloc,
            prefix=f"{prefix}/" if prefix else "",
            endpoint=endpoint.rstrip("/") if endpoint else None,
            region=region or None,
            addressing=addressing,
        )

    @property
    def place(self) -> str:
        """What of which bucket it is, whatever the way there."""
        return f"s3://{self.bucket}/{self.prefix}"

    def __str__(self) -> str:
        """Tell where it is, for people."""
        return self.place + (f" at {self.endpoint}" if self.endpoint else "")
