"""Images: what is known about one without looking at it, and small upright previews in plain sRGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Literal

from PIL import Image, ImageFile, TiffImagePlugin
from pydantic import Field, JsonValue, field_validator

from processors.colors import eight_bit, profile_name, to_srgb
from processors.contract import Facts, Options, StepContext, processor
from processors.exif import exif_facts, gps_facts, orientation_of
from processors.pixels import FORMATS, count_frames, open_image
from processors.sniffed import holds

if TYPE_CHECKING:
    from pathlib import Path

_ANIMATED = frozenset({"AVIF", "GIF", "PNG", "WEBP"})
_BITS = {"1": 1, "F": 32, "I": 32, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}

#: What makes an image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: How long libwebp tries, 0 to 6. At its own 4 a photo takes over twice the time, for 3 percent fewer bytes.
_WEBP_METHOD = 2

Size = Annotated[int, Field(ge=16, le=4096)]


class InfoOptions(Options):
    """What to tell of an image."""

    gps: bool = Field(default=True, description="Whether to tell where it was taken.")


class PreviewOptions(Options):
    """Which previews to make."""

    sizes: tuple[Size, ...] = Field(
        default=(256, 1024),
        min_length=1,
        max_length=8,
        description="Longest side of each preview in pixels. A smaller image keeps its size.",
    )
    format: Literal["webp", "jpeg", "png", "avif"] = Field(default="webp", description="The format of the previews.")
    quality: int = Field(default=80, ge=1, le=100, description="Of webp, jpeg and avif: 1 is smallest, 100 is best.")
    background: str | None = Field(
        default=None,
        pattern="^#[0-9a-fA-F]{6}$",
        description="Color behind transparent parts, such as #ffffff. Without one they stay so; jpeg gets white.",
    )

    @field_validator("sizes")
    @classmethod
    def _unique(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) != len(sizes):
            raise ValueError("each size once")
        return sizes


@processor("image.info", accepts=tuple(FORMATS))
def info(ctx: StepContext, options: InfoOptions) -> Facts:
    """Tell size, color, frames and EXIF of an image.

    Facts: `format`; `width` and `height` in pixels as shown, that is, turned by `orientation` (1 to 8 as in EXIF);
    `mode` as Pillow names it; `bits` per channel or null; `frames` (pages, for TIFF) and the `duration_ms` of an
    animation; `has_alpha`; `icc`, the color profile's name; `dpi`; `exif` by the standard's names; and `gps`, unless
    left out by its option. Missing ones are null. Rejects like `image.previews`; only animations are decoded.
    """
    with open_image(ctx.input, ctx.limits) as image:
        frames = count_frames(image, ctx.limits)
        exif = holds(image.getexif) or Image.Exif()
        orientation = holds(lambda: orientation_of(exif)) or 1
        width, height = image.size
        # Pillow has turned the size of a TIFF already.
        if orientation >= 5 and image.format != "TIFF":
            width, height = height, width
        facts: dict[str, JsonValue] = {
            "format": "JPEG" if image.format == "MPO" else image.format,
            "width": width,
            "height": height,
            "mode": image.mode,
            "bits": _bits(image, ctx.input),
            "frames": frames,
            "has_alpha": image.has_transparency_data,
            "icc": profile_name(image.info.get("icc_profile")),
            "dpi": _dpi(image),
            "orientation": orientation,
            "exif": holds(lambda: exif_facts(exif)) or None,
        }
        if options.gps:
            facts["gps"] = holds(lambda: gps_facts(exif))
        facts["duration_ms"] = _duration(ctx, image, frames) if frames > 1 and image.format in _ANIMATED else None
    return facts


@processor("image.previews", accepts=tuple(FORMATS))
def previews(ctx: StepContext, options: PreviewOptions) -> Facts:
    """Make small previews of an image: upright, in sRGB, without metadata, of the first frame.

    Artifacts: `preview-<size>.<format>` for each size. Facts: `previews`, a list of name, width and height. Rejects
    `image-corrupt` and `image-unknown`, and what is over a limit: `image-side-too-long`, `image-too-many-pixels`,
    `image-too-many-frames`, `image-too-many-total-pixels`.
    """
    sizes = sorted(options.sizes, reverse=True)
    with open_image(ctx.input, ctx.limits) as image:
        count_frames(image, ctx.limits)
        # A JPEG is decoded at a fraction of its size; twice the target leaves the resampling something to do.
        image.draft(None, _fitting(image.size, 2 * sizes[0]))
        image.load()
        profile = image.info.get("icc_profile")
        # After loading: Pillow turns a TIFF itself, and takes the orientation out.
        orientation = orientation_of(holds(image.getexif) or Image.Exif())
        # Small first, then the costly conversions.
        picture = _shrunk(eight_bit(image), sizes[0])
        if orientation in _TURNS:
            picture = picture.transpose(_TURNS[orientation])
        picture = to_srgb(picture, profile)
    if options.background or options.format == "jpeg":
        picture = _flattened(picture, options.background or "#ffffff")
    made: list[JsonValue] = []
    for size in sizes:
        picture = _shrunk(picture, size)
        name = f"preview-{size}.{options.format}"
        path = ctx.output(name, media_type=f"image/{options.format}")
        # By way of memory, as Pillow's own writing loses the reason when the disk is full.
        path.write_bytes(_encoded(picture, options))
        made.append({"name": name, "width": picture.width, "height": picture.height})
        ctx.progress(len(made), len(sizes), "previews")
    return {"previews": made}


def _bits(image: ImageFile.ImageFile, path: Path) -> int | None:
    """Return the bits per channel in the file, which Pillow's mode does not always tell."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return max((int(bits) for bits in stored), default=None)
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    if image.format == "AVIF":
        # Eight, ten or twelve; Pillow gives eight of them and does not say.
        return None
    return _BITS.get(image.mode, 8)


def _dpi(image: ImageFile.ImageFile) -> list[JsonValue] | None:
    # One dot an inch is what Pillow says of a TIFF that says nothing.
    def read() -> list[JsonValue] | None:
        horizontal, vertical = (round(float(value), 2) for value in image.info["dpi"])
        return [horizontal, vertical] if 1 < horizontal < 1e6 and 1 < vertical < 1e6 else None

    return holds(read) if "dpi" in image.info else None


def _duration(ctx: StepContext, image: ImageFile.ImageFile, frames: int) -> int:
    total = 0.0
    for frame in range(frames):
        image.seek(frame)
        image.load()
        total += max(0, image.info.get("duration") or 0)
        ctx.progress(frame + 1, frames, "frames")
    return round(total)


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return `size` scaled down, never up, so that no side is longer than `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    size = _fitting(image.size, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _flattened(image: Image.Image, background: str) -> Image.Image:
    if image.mode != "RGBA":
        return image
    below = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(below, image).convert("RGB")


def _encoded(image: Image.Image, options: PreviewOptions) -> bytes:
    # A copy without info: some writers fall back to it for profiles, comments and resolutions.
    bare = image.copy()
    bare.info = {}
    buffer = io.BytesIO()
    if options.format == "png":
        bare.save(buffer, "PNG")
    elif options.format == "jpeg":
        bare.save(buffer, "JPEG", quality=options.quality, optimize=True, progressive=True)
    elif options.format == "avif":
        bare.save(buffer, "AVIF", quality=options.quality, max_threads=1)
    else:
        bare.save(buffer, "WEBP", quality=options.quality, method=_WEBP_METHOD)
    return buffer.getvalue()
