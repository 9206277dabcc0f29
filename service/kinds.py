"""The kinds of values that settings have: how each is read from text, and how it is shown."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr

from service.units import format_duration, format_size, parse_duration, parse_size


def _optional(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("", "off", "none", "never") else value


def _without_password(url: SecretStr) -> str:
    """Return what may be shown of an address that may hold a password."""
    shown = re.sub(r"://([^:@/?]*):.*@", r"://\1:***@", url.get_secret_value())
    return re.sub(r"(password=)[^&\s]*", r"\1***", shown)


Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size), Field(ge=0)]
Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration), Field(ge=timedelta(0))
]
Address = Annotated[SecretStr, PlainSerializer(_without_password, return_type=str)]
OptionalDuration = Annotated[Duration | None, BeforeValidator(_optional)]
