"""How the index answers a list: the rarest filter leads, and the others are checked row by row.

Left to itself, SQLite would guess, and at worst look at every job that passes a filter which most jobs pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from service.ids import first_id
from service.jobs.store import JobQuery

_MANY: Final = 5000  #: rows that can be looked at within a few milliseconds


@dataclass(frozen=True)
class Plan:
    """What to select from, by which key, under which conditions, with which values."""

    source: str
    key: str
    where: list[str]
    values: list[Any]

    @classmethod
    def of(cls, query: JobQuery, count: Callable[[str, list[Any]], int]) -> Self:
        """Plan a query; ``count`` runs a statement that counts rows, with its values."""
        filters = _filters(query)
        choice = len(filters) > 1 or len(query.statuses) > 1
        counts = [count(*each.counted()) for each in filters] if choice else [0]
        ranked = [each for _, each in sorted(zip(counts, filters, strict=False), key=lambda pair: pair[0])]
        where = [each.where if number == 0 else each.condition() for number, each in enumerate(ranked)]
        values: list[Any] = [value for each in ranked for value in each.values]
        source, key = "jobs", "jobs.id"
        if ranked and ranked[0].index is None:
            source, key = "labels cross join jobs on jobs.id = labels.id", "labels.id"
        elif ranked and (min(counts) < _MANY or len(query.statuses) < 2):  # else the jobs themselves are in order
            source = f"jobs indexed by {ranked[0].index}"
        for sign, moment in ((">=", query.created_after), ("<", query.created_before)):
            if moment:
                where.append(f"{key} {sign} ?")
                values.append(first_id(moment))
        return cls(source, key, where, values)

    def page(self, before: str | None, size: int) -> tuple[str, list[Any]]:
        """Return the statement for up to ``size`` ids older than ``before``, newest first, and its values."""
        where = " and ".join([*self.where, f"{self.key} < ?"] if before else self.where)
        sql = f"select {self.key} from {self.source} where {where or '1'} order by {self.key} desc limit {size:d}"  # noqa: S608
        return sql, [*self.values, before] if before else self.values


@dataclass(frozen=True)
class _Filter:
    """One member of a query: a condition on the rows of ``jobs`` with their index, or on those of ``labels``."""

    where: str
    values: list[str]
    index: str | None = None

    def condition(self) -> str:
        """Return the condition for when another filter leads."""
        return self.where if self.index else f"exists (select 1 from labels where id = jobs.id and {self.where})"  # noqa: S608

    def counted(self) -> tuple[str, list[Any]]:
        """Return the statement that counts the rows that pass, up to many, and its values."""
        table = f"jobs indexed by {self.index}" if self.index else "labels"
        return f"select count(*) from (select 1 from {table} where {self.where} limit {_MANY})", self.values  # noqa: S608


def _filters(query: JobQuery) -> list[_Filter]:
    filters = []
    if query.statuses:
        marks = ", ".join("?" * len(query.statuses))
        filters.append(_Filter(f"status in ({marks})", sorted(query.statuses), "jobs_status"))
    columns = {"media_type": query.media_type, "pipeline": query.pipeline, "sha256": query.sha256, "owner": query.owner}
    filters.extend(
        _Filter(f"{name} = ?", [value], f"jobs_{name}") for name, value in columns.items() if value is not None
    )
    filters.extend(_Filter("key = ? and value = ?", list(pair)) for pair in sorted(query.labels.items()))
    return filters
