"""The keys under which a bucket has the bytes of jobs: as a data directory has them, so that either can be copied to the other."""

from __future__ import annotations

from typing import Final

from service.ids import created_at
from service.jobs.model import Artifact

INCOMING: Final = "incoming/"  #: begins the keys of signs of life


def folder_key(job_id: str) -> str:
    """Return what the keys of all objects of a job begin with."""
    return f"jobs/{created_at(job_id):%Y/%m/%d}/{job_id}/"


def source_key(job_id: str) -> str:
    """Return the key of the file of a job."""
    return f"{folder_key(job_id)}source"


def artifact_key(job_id: str, step: str, artifact: Artifact) -> str:
    """Return the key of what a step of a job made."""
    return f"{folder_key(job_id)}attempt-{artifact.attempt}/{step}/{artifact.name}"


def marker_key(job_id: str) -> str:
    """Return the key of the sign that an upload is alive."""
    return f"{INCOMING}{job_id}"
