"""A bucket of an S3-compatible server, by botocore, which this module alone knows: calls in, plain values and OSErrors out.

Every answer says what time it is at the server (its ``Date``); whoever compares times takes no other clock. Bodies carry their MD5
(RFC 1864), which every such server compares; the newer checksums are asked of no server, as not all have them.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from urllib3.exceptions import HTTPError

from service.errors import ConfigError
from service.storage.address import BucketAddress
from service.storage.base import StorageUnreachable

_CONNECTIONS: Final = 64  #: of one process
_CONNECT: Final = 5.0  #: seconds until a connection stands
_SILENCE: Final = 20.0  #: seconds without a byte before the server counts as away
_TRIES: Final = 3  #: at each call, with pauses between them
_MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
_FULL: Final = frozenset({"507", "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"})
_PAGE: Final = 2**16  #: bytes read ahead


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object, and the server's time when it was looked at."""

    key: str  #: without the prefix
    size: int
    changed_at: float  #: server's time, Unix seconds
    now: float  #: the same clock


class Bucket:
    """What is below a prefix of a bucket. Keys are relative to it. Safe to use from many threads; every call blocks.

    All raise StorageUnreachable when the server does not answer or refuses, and OSError (ENOSPC) when it is full.
    """

    def __init__(self, address: BucketAddress, *, credentials: Path | None = None) -> None:
        self.address = address
        session = botocore.session.Session()
        if credentials is not None:
            if not credentials.is_file():
                raise ConfigError(f"INTAKE_S3_CREDENTIALS={credentials}: there is no such file")
            session.set_config_variable("credentials_file", str(credentials))
            session.get_component("credential_provider").remove("env")  # the file that was named is meant
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_SILENCE,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            max_pool_connections=_CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            s3={"addressing_style": address.addressing},
        )
        region = address.region or session.get_config_variable("region") or "us-east-1"
        try:
            self._client: Any = session.create_client(
                "s3", region_name=region, endpoint_url=address.endpoint, config=config
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"INTAKE_STORAGE={address}: {error}") from None

    def check(self) -> None:
        """Require that the bucket is there and can be used. Raises ConfigError."""
        where = f"INTAKE_STORAGE ({self.address})"
        try:
            _date(self._client.head_bucket(Bucket=self.address.bucket))
        except NoCredentialsError:
            raise ConfigError(
                f"{where}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or INTAKE_S3_CREDENTIALS"
            ) from None
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            said = {404: "there is no such bucket", 403: "the server refuses these credentials"}.get(status)
            raise ConfigError(f"{where}: {said or error}") from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise ConfigError(f"{where}: the server does not answer: {error}") from None

    def put(self, key: str, body: bytes | io.BufferedIOBase, *, new: bool = False) -> float:
        """Store an object whole, or not at all; return the server's time. With ``new`` FileExistsError if there is one."""
        only = {"IfNoneMatch": "*"} if new else {}
        return _date(self._call("put_object", key, Body=body, ContentMD5=_md5(body), **only))

    def find(self, key: str) -> Found | None:
        """Look at an object; None when there is none."""
        try:
            told = self._call("head_object", key)
        except FileNotFoundError:
            return None
        return Found(key=key, size=told["ContentLength"], changed_at=told["LastModified"].timestamp(), now=_date(told))

    def read(self, key: str, start: int = 0) -> io.BufferedIOBase:
        """Read an object from ``start`` on. Raises FileNotFoundError; reading raises StorageUnreachable where it breaks off."""
        some = {"Range": f"bytes={start}-"} if start else {}
        told = self._call("get_object", key, **some)
        return io.BufferedReader(_Body(told["Body"], told["ContentLength"]), _PAGE)

    def objects(self, prefix: str) -> Iterator[Found]:
        """Yield the objects whose keys begin with ``prefix``."""
        more: dict[str, str] = {}
        while True:
            told = self._call("list_objects_v2", None, Prefix=self.address.prefix + prefix, **more)
            for one in told.get("Contents", ()):
                yield Found(
                    key=one["Key"].removeprefix(self.address.prefix),
                    size=one["Size"],
                    changed_at=one["LastModified"].timestamp(),
                    now=_date(told),
                )
            if not told.get("IsTruncated"):
                return
            more = {"ContinuationToken": told["NextContinuationToken"]}

    def remove(self, key: str) -> float:
        """Remove an object, if it is there; return the server's time."""
        return _date(self._call("delete_object", key))

    def begin(self, key: str) -> str:
        """Begin an object that is sent in parts, and return the id of that; nobody sees it before ``complete``."""
        return str(self._call("create_multipart_upload", key)["UploadId"])

    def send(self, key: str, upload: str, number: int, body: bytes) -> str:
        """Send a part, of 5 MiB at least if it is not the last; return its tag. The same number again replaces it."""
        told = self._call("upload_part", key, UploadId=upload, PartNumber=number, Body=body, ContentMD5=_md5(body))
        return str(told["ETag"])

    def complete(self, key: str, upload: str, tags: Sequence[str]) -> float:
        """Make an object of the parts with these tags; return the server's time. FileNotFoundError when they were dropped."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        told = self._call("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
        return _date(told)

    def drop(self, key: str, upload: str) -> None:
        """Drop the parts of an object that was not completed, if they are there."""
        with suppress(FileNotFoundError):
            self._call("abort_multipart_upload", key, UploadId=upload)

    def unfinished(self, prefix: str) -> Iterator[tuple[Found, str]]:
        """Yield objects that were begun in parts and neither completed nor dropped, with the ids of that. Sizes are 0."""
        more: dict[str, str] = {}
        while True:
            told = self._call("list_multipart_uploads", None, Prefix=self.address.prefix + prefix, **more)
            for one in told.get("Uploads", ()):
                key, began = one["Key"].removeprefix(self.address.prefix), one["Initiated"].timestamp()
                yield Found(key=key, size=0, changed_at=began, now=_date(told)), one["UploadId"]
            if not told.get("IsTruncated"):
                return
            more = {"KeyMarker": told["NextKeyMarker"], "UploadIdMarker": told["NextUploadIdMarker"]}

    def link(self, key: str, *, seconds: int, media_type: str, disposition: str) -> str:
        """Return a URL with which whoever has it gets the object for some seconds, under this type and Content-Disposition."""
        asked = {
            "Bucket": self.address.bucket,
            "Key": self.address.prefix + key,
            "ResponseContentType": media_type,
            "ResponseContentDisposition": disposition,
            "ResponseCacheControl": "private, no-cache",
        }
        with _told(key):
            return str(self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds))

    def _call(self, name: str, key: str | None, **asked: Any) -> Any:
        place = {"Bucket": self.address.bucket} | ({} if key is None else {"Key": self.address.prefix + key})
        with _told(key or ""):
            return getattr(self._client, name)(**place, **asked)


class _Body(io.RawIOBase):
    """What is left of the body of an answer, which has ``size`` bytes: one that ends before that has broken off."""

    def __init__(self, body: Any, size: int) -> None:
        super().__init__()
        self._body = body
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told("the body of an answer"):
            piece = self._body.read(min(len(buffer), self._left)) if self._left else b""
        if self._left and not piece:
            raise StorageUnreachable(f"the storage's answer broke off {self._left} bytes before its end")
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the library raises into what this module promises."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _MISSING:
            raise FileNotFoundError(what) from error
        if code in _FULL or status == 507:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if status == 412:
            raise FileExistsError(what) from error
        raise StorageUnreachable(f"the storage refused ({code or status}): {error}") from error
    except (BotoCoreError, HTTPClientError, HTTPError) as error:
        raise StorageUnreachable(f"the storage does not answer: {error}") from error


def _date(told: Any) -> float:
    """Return the server's time of an answer."""
    value = told["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        moment: datetime = parsedate_to_datetime(value)
    except ValueError:
        raise StorageUnreachable(f"the storage does not say what time it is: Date is {value!r}") from None
    return moment.timestamp()


def _md5(body: bytes | io.BufferedIOBase) -> str:
    if isinstance(body, bytes):
        digest = hashlib.md5(body, usedforsecurity=False)
    else:
        digest = hashlib.file_digest(body, lambda: hashlib.md5(usedforsecurity=False))
        body.seek(0)
    return base64.b64encode(digest.digest()).decode("ascii")
