"""What the members of a record are made of: frozen values, and moments to the millisecond."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, PlainSerializer


def rfc3339(moment: datetime) -> str:
    """Return a moment of UTC as RFC 3339 has it, with milliseconds and a Z."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


#: RFC 3339 in UTC with milliseconds and a Z.
Moment = Annotated[AwareDatetime, AfterValidator(_milliseconds), PlainSerializer(rfc3339, when_used="json")]


class Value(BaseModel):
    """A frozen value; the next version is made with ``evolve``. Members unknown to this version are kept out, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def evolve(self, **changes: Any) -> Any:
        """Return a copy with these members replaced."""
        return self.model_copy(update=changes)
