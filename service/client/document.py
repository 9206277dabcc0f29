"""What the service tells of a job, as attributes. Members this version does not know stay reachable in ``document``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from service.client.errors import ClientError, JobFailed


@dataclass(frozen=True)
class Snapshot:
    """One answer about one job.

    Attributes:
        document: the job document.
        etag: names its version, for ``If-None-Match``.
        delay: seconds the service asks to wait before the next look.

    """

    document: dict[str, Any]
    etag: str | None = None
    delay: float | None = None


@dataclass(frozen=True)
class Artifact:
    """A file that a step made."""

    step: str
    name: str
    size: int
    media_type: str
    sha256: str


@dataclass(frozen=True)
class StepResult:
    """What a step came to: its status, its facts (small JSON) and its artifacts."""

    status: str
    facts: dict[str, Any] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()


class JobView:
    """A job as it was last seen. ``refresh`` and ``wait`` of the subclasses look again."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"

    @property
    def document(self) -> dict[str, Any]:
        """The whole job document."""
        return self._snapshot.document

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self.document["id"])

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``succeeded``, ``failed`` or ``canceled``; a later service may know more."""
        return str(self.document["status"])

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return bool(self.document["done"])

    @property
    def attempt(self) -> int:
        """Attempts begun so far."""
        return int(self.document["attempt"])

    @property
    def created_at(self) -> datetime:
        """When the service accepted the file."""
        return datetime.fromisoformat(self.document["created_at"])

    @property
    def file(self) -> dict[str, Any]:
        """Name, size, media types and SHA-256 of the file."""
        return dict(self.document["file"])

    @property
    def pipeline(self) -> str:
        """Name of the pipeline the file goes through."""
        return str(self.document["pipeline"])

    @property
    def labels(self) -> dict[str, str]:
        """The labels it was submitted with."""
        return dict(self.document.get("labels") or {})

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps in their order."""
        return list(self.document["steps"])

    @property
    def error(self) -> dict[str, Any] | None:
        """Why the job failed, as a problem document; None unless it did."""
        error: dict[str, Any] | None = self.document.get("error")
        return error

    @property
    def results(self) -> dict[str, StepResult]:
        """Facts and artifacts by the name of the step."""
        return {step["name"]: _result(step) for step in self.steps}

    def artifact(self, step: str, name: str | None = None) -> Artifact:
        """Return an artifact of a step; the name may be left out when it has made exactly one.

        Raises:
            ClientError: there is none, or none of this name, or several to choose from.

        """
        result = self.results.get(step)
        made = result.artifacts if result else ()
        found = [artifact for artifact in made if name in (None, artifact.name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(artifact.name for artifact in made) or "none"
        known = ", ".join(self.results)
        if result is None:
            raise ClientError(f"job {self.id} has no step {step}", hint=f"its steps are {known}")
        if not found:
            raise ClientError(
                f"step {step} has made no artifact{f' {name}' if name else ''}", hint=f"it has made: {names}"
            )
        raise ClientError(f"step {step} has made {len(found)} artifacts", hint=f"name one of {names}")

    def check(self) -> Self:
        """Return the job itself, unless it has failed or was canceled.

        Raises:
            JobFailed: it ended without success.

        """
        if self.done and self.status != "succeeded":
            raise JobFailed(self)
        return self


def _result(step: dict[str, Any]) -> StepResult:
    artifacts = tuple(
        Artifact(step["name"], item["name"], int(item["size"]), item["media_type"], item["sha256"])
        for item in step.get("artifacts") or ()
    )
    return StepResult(str(step["status"]), dict(step.get("facts") or {}), artifacts)
