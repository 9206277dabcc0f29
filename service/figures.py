"""What can be measured: every metric with its name, labels and buckets, and sums of observations of them.

Names follow Prometheus' rules: base units, ``_total`` on counters, labels of few values (never an id, a path or a file name).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from threading import Lock
from typing import Final, Literal, NamedTuple

from service.jobs.model import ENDS, JobStatus, Reason


@dataclass(frozen=True)
class Metric:
    """One metric as ``/metrics`` names it."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[
        float, ...
    ] = ()  #: upper bounds of a histogram, in its unit; the last one is infinity, and not named
    values: tuple[tuple[str, ...], ...] = ()  #: all values of each label, where they are known: shown from the start


_QUICK: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    30,
)  # OpenTelemetry's, and 30
_LONG: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_SIZES: Final = tuple(float(4**power * 1024) for power in range(12))  # 1 KiB to 4 GiB

# From the records
JOBS: Final = Metric(
    "intake_jobs_total",
    "counter",
    "Jobs that came to an end, by the status in which.",
    ("status",),
    values=(tuple(sorted(ENDS)),),
)
JOB_DURATION: Final = Metric(
    "intake_job_duration_seconds",
    "histogram",
    "From the acceptance of a job to its first end, waiting and retries included.",
    buckets=_LONG,
)
QUEUE_WAIT: Final = Metric(
    "intake_job_queue_wait_seconds",
    "histogram",
    "From the acceptance of a job to the start of its first attempt; observed when that attempt has ended.",
    buckets=_LONG,
)
ATTEMPTS: Final = Metric(
    "intake_attempts_total",
    "counter",
    "Attempts that ended, by the reason.",
    ("reason",),
    values=(tuple(Reason),),
)
STAGE_DURATION: Final = Metric(
    "intake_stage_duration_seconds",
    "histogram",
    "Run of one step of a pipeline in one attempt.",
    ("stage", "outcome"),
    buckets=_LONG,
)
IN_PROGRESS: Final = Metric(
    "intake_jobs_in_progress",
    "gauge",
    "Jobs that have not ended, by status.",
    ("status",),
)
QUEUE_LIMIT: Final = Metric(
    "intake_queue_limit_jobs",
    "gauge",
    "Jobs in progress at which uploads are refused (INTAKE_QUEUE_LIMIT).",
)
OLDEST: Final = Metric(
    "intake_queue_oldest_job_timestamp_seconds",
    "gauge",
    "Since when the job that has waited longest has been due; absent while none is. A retry is due at its retry_at.",
)
QUARANTINED: Final = Metric(
    "intake_jobs_quarantined",
    "gauge",
    "Jobs whose records cannot be read.",
)
UNDELIVERED: Final = Metric(
    "intake_deliveries_waiting_jobs",
    "gauge",
    "Jobs of whose end somebody is still to be told, by webhook or e-mail.",
)
DEAD_LETTERS: Final = Metric(
    "intake_deliveries_dead_jobs",
    "gauge",
    "Jobs of which a webhook or an e-mail was given up, and not replayed since.",
)

# From the disk and the engine
FREE: Final = Metric(
    "intake_storage_free_bytes",
    "gauge",
    "Space that uploads may still fill before the reserve (INTAKE_MIN_FREE); negative below it.",
)
UPLOADS_IN_PROGRESS: Final = Metric(
    "intake_uploads_in_progress",
    "gauge",
    "Uploads that are arriving.",
)
ENGINE_UP: Final = Metric(
    "intake_engine_up",
    "gauge",
    "1 while something runs the jobs, 0 while nothing does.",
)
BUILD: Final = Metric(
    "intake_build_info",
    "info",
    "Version of the service, in a label; always 1.",
    ("version",),
)

# Counted by the supervisor
DELIVERY_TRIES: Final = Metric(
    "intake_delivery_tries_total",
    "counter",
    "Tries to tell somebody of a job's end: delivered, failed and to be tried again, or given up (dead).",
    ("kind", "outcome"),
    values=(("email", "webhook"), ("dead", "delivered", "failed")),
)
DELIVERY_DELAY: Final = Metric(
    "intake_delivery_delay_seconds",
    "histogram",
    "From a job's end until somebody was told of it.",
    ("kind",),
    buckets=(*_LONG, 14400, 43200, 86400, 259200),
    values=(("email", "webhook"),),
)

# Counted by the API's processes
REQUESTS: Final = Metric(
    "intake_http_requests_total",
    "counter",
    "Requests, by method, template of the route and status.",
    ("method", "route", "status"),
)
REQUEST_DURATION: Final = Metric(
    "intake_http_request_duration_seconds",
    "histogram",
    "From a request's headers to the end of its answer; bodies, long polls and slow clients included.",
    ("method", "route"),
    buckets=_QUICK,
)
UPLOADS: Final = Metric(
    "intake_uploads_total",
    "counter",
    "Uploads that ended, by the way they came and what became of them.",
    ("protocol", "outcome"),
    values=(("form", "raw"), ("accepted", "replayed", "refused", "aborted", "failed")),
)
UPLOAD_BYTES: Final = Metric(
    "intake_upload_bytes_total",
    "counter",
    "Bytes of files received, of those that were refused later too.",
)
UPLOAD_SIZE: Final = Metric(
    "intake_upload_size_bytes",
    "histogram",
    "Size of accepted files.",
    buckets=_SIZES,
)
REFUSALS: Final = Metric(
    "intake_refusals_total",
    "counter",
    "Requests answered with a problem document, by its code.",
    ("reason",),
)
LOOP_LAG: Final = Metric(
    "intake_event_loop_lag_seconds_total",
    "counter",
    "Time by which the event loops of the API were late, where more than 50 ms: somebody blocked them, or the machine is full.",
)

METRICS: Final[Mapping[str, Metric]] = {
    one.name: one for one in list(globals().values()) if isinstance(one, Metric)
}  # in this order they are shown


class Key(NamedTuple):
    """What one sum is of: a metric, values of its labels, and the number of the bucket (0 for a counter)."""

    metric: str
    labels: tuple[str, ...] = ()
    bucket: int = 0


class Sum(NamedTuple):
    """Observations of one key: how many, and their total."""

    number: int = 0
    total: float = 0.0

    def plus(self, other: Sum) -> Sum:
        """Return both together."""
        return Sum(self.number + other.number, self.total + other.total)


_NOTHING: Final = Sum()


class Tallies:
    """Sums that grow. Safe to use from many threads."""

    def __init__(self, sums: Mapping[Key, Sum] | None = None) -> None:
        self._sums: dict[Key, Sum] = dict(sums or {})
        self._lock = Lock()

    def add(self, metric: Metric, *labels: str, value: float = 1.0) -> None:
        """Count one observation: an increment of a counter, a value of a histogram."""
        assert len(labels) == len(metric.labels), f"{metric.name} has the labels {metric.labels}"
        key = Key(metric.name, labels, bisect_left(metric.buckets, value) if metric.buckets else 0)
        with self._lock:
            number, total = self._sums.get(key, _NOTHING)
            self._sums[key] = Sum(number + 1, total + value)

    def merge(self, sums: Mapping[Key, Sum]) -> None:
        """Add what others have counted."""
        with self._lock:
            for key, more in sums.items():
                self._sums[key] = self._sums.get(key, Sum()).plus(more)

    def read(self) -> dict[Key, Sum]:
        """Return all sums."""
        with self._lock:
            return dict(self._sums)

    def is_empty(self) -> bool:
        """Tell whether there is nothing."""
        return not self._sums

    def take(self) -> dict[Key, Sum]:
        """Return all sums and begin anew."""
        with self._lock:
            taken, self._sums = self._sums, {}
            return taken


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a job store knows of its jobs as a whole."""

    in_progress: Mapping[JobStatus, int]  #: of those that have not ended
    oldest_due: float | None  #: seconds since the epoch: since when the job that has waited longest could have been run
    quarantined: int
    undelivered: int  #: of which something waits to be sent
    dead_letters: int  #: of which something was given up
    sums: Mapping[Key, Sum]


def known_labels(metric: Metric) -> Iterator[tuple[str, ...]]:
    """Yield the values of a metric's labels that are known beforehand."""
    if not metric.labels:
        yield ()
    elif metric.values:
        yield from product(*metric.values)
