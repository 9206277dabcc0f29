"""What the routes share."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from service.intake import Intake


async def _intake(request: Request) -> Intake:  # one that is not async costs a thread
    return cast("Intake", request.app.state.intake)


async def _root_path(request: Request) -> str:
    return cast("Intake", request.app.state.intake).services.settings.root_path


IntakeDep = Annotated[Intake, Depends(_intake)]
RootPath = Annotated[str, Depends(_root_path)]
