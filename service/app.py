"""The application: settings in, ASGI out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service import __version__, faults, logs, telemetry
from service.access.opening import require_tokens_or_loopback
from service.api import (
    browsers,
    catalogue,
    downloads,
    events,
    health,
    jobs,
    links,
    metrics,
    openapi,
    problems,
    uploads,
    webhooks,
)
from service.api.audited import Refusals, TokenUses
from service.api.guard import Guard
from service.api.hosts import Hosts
from service.api.meter import Meter
from service.api.rates import Rates
from service.batch import Batch
from service.counts import keep
from service.draining import Draining
from service.intake import Intake
from service.protocol import Wire
from service.settings import Settings
from service.wiring import Services, build


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> FastAPI:
    """Build the application. Without arguments it is configured by the environment, as servers that import it need it.

    Raises:
        ConfigError: the settings cannot work.

    """
    settings = settings or (services.settings if services else Settings.load())
    parts = services or build(settings)
    require_tokens_or_loopback(settings, parts.tokens)
    provider = telemetry.start(settings)

    wire = Wire(
        max_header=settings.max_header,
        header_timeout=settings.header_timeout.total_seconds(),
        min_rate=settings.upload_min_rate,
        max_connections=settings.max_connections,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        logs.configure(settings)
        faults.arm(settings.faults)
        await parts.engine.start()
        counting = asyncio.create_task(keep(parts.counts))
        with app.state.draining.watched(parts.settings.shutdown_notice.total_seconds()):
            yield {"wire": wire}
        counting.cancel()
        await parts.engine.stop()
        app.state.audit_lines.close()
        parts.close()
        await asyncio.to_thread(telemetry.stop, provider)

    app = FastAPIOffline(  # /docs without a content delivery network
        title="File intake",
        version=__version__,
        summary="Takes files, answers 202 once they are safe on disk, processes them in the background.",
        root_path=settings.root_path,
        lifespan=lifespan,
        telemetry=telemetry.of_requests(provider),
        redoc_url=None,
        redirect_slashes=False,  # a redirect would make a client send its file twice
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.intake = Intake(parts)
    app.state.token_uses, app.state.refusals = TokenUses(), Refusals()
    app.state.audit_lines = Batch(parts.audit.write_all, name="audit")
    app.state.draining = Draining(app.state.intake.watch.end)
    app.state.rates = Rates(settings.rate_limit) if settings.rate_limit else None
    problems.install(app)
    for part in (uploads, jobs, events, downloads, links, catalogue, health, metrics, webhooks):
        app.include_router(part.router)
    if origins := settings.names("cors_origins"):
        app.add_middleware(
            browsers.Cors,
            allow_origins=origins,
            allow_methods=browsers.METHODS,
            allow_headers=["*"],
            expose_headers=browsers.EXPOSED,
        )
    if allowed := settings.names("allowed_hosts"):
        app.add_middleware(Hosts, allowed=allowed)
    app.add_middleware(Guard)
    app.add_middleware(Meter, counts=parts.counts)  # outermost: it sees every answer
    openapi.install(app)
    return app
