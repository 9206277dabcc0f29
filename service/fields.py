"""The form fields of an upload, in whatever form they are sent: each is checked as it comes, and given once at most."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable
from typing import Final

from service.errors import BadRequest, Invalid, UnknownPipeline
from service.wiring import Catalogue

MAX_LABELS: Final = 16
MAX_LABEL_VALUE: Final = 256  #: characters
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Fields:
    """What a client says about its file besides the bytes: ``pipeline`` (a known one), ``labels``, ``sha256`` (hexadecimal).

    ``callback_url`` and ``notify_email`` are what ``callback`` and ``email`` return for those that were given.
    """

    def __init__(self, catalogue: Catalogue, callback: Callable[[str], str], email: Callable[[str], str]) -> None:
        self._catalogue = catalogue
        self._callback = callback
        self._email = email
        self.notify_email: str | None = None
        self.notify_on = "both"
        self.callback_url: str | None = None
        self._given: set[str] = set()
        self.pipeline = catalogue.default
        self.labels: dict[str, str] = {}
        self.sha256: str | None = None

    def take(self, name: str, value: str) -> None:
        """Take a field. Raises Invalid for one that there is not, UnknownPipeline, BadRequest."""
        if name in self._given:
            raise Invalid(f"The field {name[:64]!r} is given twice.", hint="Give each field once.", field=name[:64])
        self._given.add(name)
        if name == "pipeline":
            require_pipeline(self._catalogue, value)
            self.pipeline = value
        elif name == "sha256":
            self.sha256 = _sha256(value)
        elif name == "callback_url":
            self.callback_url = self._callback(value)
        elif name == "notify_email":
            self.notify_email = self._email(value)
        elif name == "notify_on":
            if value not in ("failure", "success", "both"):
                raise Invalid("notify_on is none of failure, success and both.", field="notify_on")
            self.notify_on = value
        elif name.startswith("labels."):
            self._label(name.removeprefix("labels."), value)
        else:
            raise Invalid(
                f"There is no field {name[:64]!r}.",
                hint="The fields are file, pipeline, sha256, callback_url, notify_email, notify_on and labels.<key>.",
                field=name[:64],
            )

    def _label(self, key: str, value: str) -> None:
        if not _LABEL_KEY.fullmatch(key):
            raise Invalid(
                f"{key[:64]!r} cannot be a label.",
                hint="Labels have up to 63 letters, digits, dots, dashes, underscores.",
                field="labels",
            )
        if len(value) > MAX_LABEL_VALUE or any(unicodedata.category(char) == "Cc" for char in value):
            raise Invalid(f"The value of label {key} is too long or has control characters.", field=f"labels.{key}")
        self.labels[key] = value
        if len(self.labels) > MAX_LABELS:
            raise Invalid(f"A job has at most {MAX_LABELS} labels.", field="labels")


def require_pipeline(catalogue: Catalogue, name: str) -> None:
    """Raise UnknownPipeline for one that is not in the catalogue."""
    if name not in catalogue.pipelines:
        names = ", ".join(sorted(catalogue.pipelines))
        raise UnknownPipeline(f"There is no pipeline {name[:64]!r}.", hint=f"The pipelines are: {names}.")


def _sha256(value: str) -> str:
    text = value.strip()
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return text.lower()
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one; text beyond ASCII is another
        raw = b""
    if len(raw) != 32:
        raise BadRequest("The field sha256 is not a SHA-256.", hint="Write 64 hexadecimal digits, or base64.")
    return raw.hex()
