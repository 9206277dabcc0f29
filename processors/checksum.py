"""Checksums of a file, all in one pass."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field, JsonValue

from processors.contract import Facts, Options, StepContext, processor

_PIECE = 1024 * 1024

Algorithm = Literal["sha256", "sha1", "md5", "blake2b"]


class ChecksumOptions(Options):
    """Which checksums to make."""

    algorithms: tuple[Algorithm, ...] = Field(
        default=("sha256", "sha1", "md5", "blake2b"),
        min_length=1,
        description="The checksums to compute. SHA-1 and MD5 are for comparing with old lists, never for trust.",
    )


@processor("checksum", opaque=True)
def checksum(ctx: StepContext, options: ChecksumOptions) -> Facts:
    """Compute checksums of the whole file.

    Facts: `size` in bytes, and per algorithm its digest in lower case hex (BLAKE2b with 512 bits).
    """
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in dict.fromkeys(options.algorithms)}
    total = ctx.input.stat().st_size
    size = 0
    with ctx.open() as file:
        while piece := file.read(_PIECE):
            for digest in digests.values():
                digest.update(piece)
            size += len(piece)
            ctx.progress(size, total, "bytes")
    facts: dict[str, JsonValue] = {"size": size}
    return facts | {name: digest.hexdigest() for name, digest in digests.items()}
