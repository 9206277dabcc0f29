"""Turning pixels of any mode into 8-bit sRGB: palettes, 16 bits, CMYK, Lab, and embedded colour profiles."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageCms

from processors.plaintext import plain_line
from processors.sniffed import holds

#: The colour space an ICC profile names, and the mode it fits.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def profile_name(icc: Any) -> str | None:
    """Return the description of an ICC profile, at most 200 characters; None without a profile that can be read."""
    if not isinstance(icc, bytes):
        return None
    name = holds(lambda: ImageCms.getProfileDescription(_profile(icc)))
    return plain_line(name, 200) or None if name else None


def eight_bit(image: Image.Image) -> Image.Image:
    """Return `image` in a mode that can be resized without harm: L, LA, RGB, RGBA, CMYK or LAB.

    16 bits are scaled to 8; wider numbers, which have no agreed range, are stretched from their least to their most.
    """
    if image.mode.startswith("I;16"):
        return _scaled(image.convert("I"), 0, 65535)
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        # 16-bit formats are opened as wider numbers too; those that fit a byte or two have that range.
        ends = (low, high) if image.mode == "F" or low < 0 or high > 65535 else (0, 255 if high <= 255 else 65535)
        return _scaled(image, *ends)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image, icc: Any) -> Image.Image:
    """Return an image of `eight_bit` as RGB or RGBA in sRGB, through the profile `icc` where it fits the mode."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert(image.mode[:-1]) if alpha is not None else image
    colored = _through_profile(opaque, icc) if isinstance(icc, bytes) else None
    if colored is None and opaque.mode == "LAB":
        colored = _transform(opaque, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if colored is None:
        colored = opaque.convert("RGB")
    if alpha is not None:
        colored.putalpha(alpha)
    return colored


def _through_profile(image: Image.Image, icc: bytes) -> Image.Image | None:
    """Return the image by way of its profile; None for a profile that is broken or meant for other pixels."""
    profile = holds(lambda: _profile(icc))
    mode = _SPACES.get(profile.profile.xcolor_space.strip()) if profile else None
    if profile is None or mode is None:
        return None
    if image.mode == "L" and mode == "RGB":
        # Writers turn colours to grey and leave the profile in.
        image = image.convert("RGB")
    return holds(lambda: _transform(image, profile)) if image.mode == mode else None


def _profile(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None, "it is None for a transform in place only"
    return converted


def _scaled(image: Image.Image, low: float, high: float) -> Image.Image:
    factor = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * factor + (0.5 - low * factor)).convert("L")
