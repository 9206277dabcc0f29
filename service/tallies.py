"""Sums of observations in SQLite: one row each, added to by any number of processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Final

from service.figures import Key, Sum

SCHEMA: Final = """
create table if not exists tallies (metric text, labels text, bucket integer, count integer, total real,
  primary key (metric, labels, bucket)) without rowid;
"""
_ADD: Final = """
insert into tallies values (?, ?, ?, ?, ?) on conflict do update set count = count + excluded.count, total = total + excluded.total
"""


def add(db: sqlite3.Connection, sums: Mapping[Key, Sum]) -> None:
    """Add these sums, within the transaction of the caller."""
    db.executemany(_ADD, [(key.metric, json.dumps(key.labels), key.bucket, *more) for key, more in sums.items()])


def read(db: sqlite3.Connection) -> dict[Key, Sum]:
    """Return all sums."""
    rows = db.execute("select metric, labels, bucket, count, total from tallies")
    return {
        Key(metric, tuple(json.loads(labels)), bucket): Sum(count, total)
        for metric, labels, bucket, count, total in rows
    }
