"""The type of a file by its content, and whether its name and its sender said the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors.contract import Facts, StepContext, processor
from processors.mediatypes import agrees, canonical, type_of_name
from processors.plaintext import plain_line
from processors.sniff import sniff

if TYPE_CHECKING:
    from pydantic import JsonValue


@processor("media_type", identifies=True)
def media_type(ctx: StepContext) -> Facts:
    """Tell the file's type from its content, never from its name or the sender's claim.

    Facts: `media_type`; `confirmed`, whether a parser of that type read the file, and `confirmed_by` which one;
    `declared_type` and `extension_type`, what sender and name say, or null; `declared_agrees` and `extension_agrees`,
    null where they say nothing; for text also `charset`.
    """
    sniffed = sniff(ctx.input)
    declared = plain_line(canonical(ctx.declared_type), 255) if ctx.declared_type else None
    by_name = type_of_name(ctx.filename)
    facts: dict[str, JsonValue] = {
        "media_type": sniffed.media_type,
        "confirmed": sniffed.confirmed,
        "confirmed_by": sniffed.confirmed_by,
        "declared_type": declared,
        "declared_agrees": agrees(declared, sniffed.media_type),
        "extension_type": by_name,
        "extension_agrees": agrees(by_name, sniffed.media_type),
    }
    if sniffed.charset is not None:
        facts["charset"] = sniffed.charset
    return facts
