"""``/metrics`` for Prometheus: what the records, the disk and the counters of all processes say, asked anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from starlette.responses import Response

from service import __version__, figures
from service.api.auth import Administers
from service.figures import METRICS, Key, Metric, Sum, known_labels
from service.wiring import Services

router = APIRouter(tags=["probes"])
Values = dict[tuple[str, ...], float]
_PLAIN: Final = "text/plain; version=0.0.4"


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"description": "Figures", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, intake: Administers) -> Response:
    """Answer in Prometheus' text format, or as OpenMetrics where `Accept` asks for it. Any API process answers for all."""
    services = intake.services
    engine = await services.engine.health()
    snapshot = await run_sync(Snapshot.take, services, engine.ok)
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(snapshot), headers={"Content-Type": kind, "Cache-Control": "no-store"})


@dataclass(frozen=True)
class Snapshot(Collector):
    """All figures of one moment."""

    gauges: Mapping[str, Values]
    sums: Mapping[str, Mapping[Key, Sum]]  #: by metric

    @classmethod
    def take(cls, services: Services, engine_up: bool) -> Snapshot:
        """Ask records, disk and counters. What the disk does not tell at the moment is left out."""
        now = services.clock()
        gauges: dict[str, Values] = {
            figures.ENGINE_UP.name: {(): float(engine_up)},
            figures.QUEUE_LIMIT.name: {(): float(services.settings.queue_limit)},
            figures.BUILD.name: {(__version__,): 1},
        }
        sums: dict[str, dict[Key, Sum]] = {}
        told = services.counts.read()
        try:
            jobs = services.store.figures(now)
            gauges[figures.IN_PROGRESS.name] = {(status,): float(n) for status, n in jobs.in_progress.items()}
            gauges[figures.QUARANTINED.name] = {(): float(jobs.quarantined)}
            gauges[figures.UNDELIVERED.name] = {(): float(jobs.undelivered)}
            gauges[figures.DEAD_LETTERS.name] = {(): float(jobs.dead_letters)}
            gauges[figures.OLDEST.name] = {(): jobs.oldest_due} if jobs.oldest_due is not None else {}
            told |= jobs.sums
            gauges[figures.FREE.name] = {(): float(services.storage.free())}
            gauges[figures.UPLOADS_IN_PROGRESS.name] = {(): float(services.storage.arriving())}
        except OSError:  # the disk fails: /readyz says so, and what is known is still told
            pass
        for key, value in told.items():
            sums.setdefault(key.metric, {})[key] = value
        return cls(gauges=gauges, sums=sums)

    def collect(self) -> Iterator[Family]:
        """Yield every metric, each with its samples."""
        for metric in METRICS.values():
            yield _FAMILIES[metric.kind](self, metric)

    def gauge(self, metric: Metric) -> Family:
        """Return a gauge as it is now."""
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in self.gauges.get(metric.name, {}).items():
            family.add_metric(labels, value)
        return family

    def info(self, metric: Metric) -> Family:
        """Return what is told in labels."""
        family = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for labels in self.gauges.get(metric.name, {}):
            family.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return family

    def counter(self, metric: Metric) -> Family:
        """Return a counter, with noughts where its labels are known beforehand."""
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, buckets in self._by_labels(metric).items():
            family.add_metric(labels, sum(each.total for each in buckets.values()))
        return family

    def histogram(self, metric: Metric) -> Family:
        """Return a histogram; its buckets are cumulative, as Prometheus wants them."""
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, found in self._by_labels(metric).items():
            buckets, reached = [], 0
            for number, bound in enumerate((*metric.buckets, float("inf"))):
                reached += found.get(number, Sum()).number
                buckets.append((_bound(bound), reached))
            family.add_metric(labels, buckets, sum(each.total for each in found.values()))
        return family

    def _by_labels(self, metric: Metric) -> dict[tuple[str, ...], dict[int, Sum]]:
        found: dict[tuple[str, ...], dict[int, Sum]] = {labels: {} for labels in known_labels(metric)}
        for key, value in sorted(self.sums.get(metric.name, {}).items()):
            found.setdefault(key.labels, {})[key.bucket] = value
        return found


_FAMILIES: Final = {
    "gauge": Snapshot.gauge,
    "info": Snapshot.info,
    "counter": Snapshot.counter,
    "histogram": Snapshot.histogram,
}


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(value))
