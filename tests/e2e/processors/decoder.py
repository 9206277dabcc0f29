"""A processor that keeps a core and much memory busy with one image. For tests alone."""

from __future__ import annotations

from PIL import Image
from pydantic import Field

from processors import Facts, Options, StepContext, processor


class DecodeOptions(Options):
    """How often the image is decoded."""

    times: int = Field(1, ge=1)


@processor("decode")
def decode(ctx: StepContext, options: DecodeOptions) -> Facts:
    """Decode every pixel of an image, and turn it round."""
    pixels = 0
    for number in range(options.times):
        with Image.open(ctx.input) as image:
            image.load()
            pixels += image.width * image.height
            image.rotate(90, expand=True).close()
        ctx.progress(number + 1, options.times, "times")
    return {"pixels": pixels}
