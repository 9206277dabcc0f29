"""The settings of what surrounds one attempt, a part of ``Settings``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from service.kinds import Size


class AttemptSettings(BaseSettings):
    """What an attempt's process may use, and what it is kept from."""

    # limits of one attempt
    attempt_memory: Size = Field(1 * 2**30, description="Address space of an attempt's process; 0 for no limit.")
    sandbox: Literal["auto", "strict", "off"] = Field(
        "auto",
        description="What surrounds an attempt's process beside the limits: `auto` takes all the system has (Landlock, "
        "seccomp), `strict` does not start without them, `off` takes none.",
    )
    attempt_files: int = Field(64, ge=16, description="Files an attempt's process may have open.")
    max_output: Size = Field(1 * 2**30, description="Bytes one attempt may write.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, in pixels of one frame.")
    max_total_pixels: int = Field(200_000_000, ge=1, description="Largest animation, in pixels of all frames together.")
    max_frames: int = Field(500, ge=1, description="Most frames of an animation.")
    max_side: int = Field(20_000, ge=1, description="Longest side of an image, in pixels.")

    clamd: Path | None = Field(None, description="Unix socket of ClamAV's clamd, for steps of the `malware` processor.")
    max_scan: Size = Field(
        25 * 2**20,
        description="Largest file that is sent to clamd: the least of its StreamMaxLength, MaxFileSize and MaxScanSize. A "
        "larger one is `unscanned`.",
    )
