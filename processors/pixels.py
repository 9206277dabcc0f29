"""Opening images from strangers: an allow-list, limits before the first pixel, and errors that say what is wrong."""

from __future__ import annotations

import contextlib
import errno
import warnings
from typing import TYPE_CHECKING

from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError

from processors.contract import Limits, Reject
from processors.sniffed import holds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Media types and the Pillow formats that may read them. A phone's JPEG may come back as "MPO", which has no opener.
FORMATS = {
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
}

#: Longest file of the formats that Pillow reads into memory in one go, when only its type is asked for.
_WHOLE_FILE_BYTES = 64 * 1024 * 1024
_READ_WHOLE = frozenset({"WEBP", "AVIF"})

#: Errors of the system about positions in the file, which stand for nonsense in the file.
_NONSENSE = frozenset({errno.EINVAL, errno.EOVERFLOW})


@contextlib.contextmanager
def open_image(path: Path, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """Give the image at `path`, opened but not decoded, and within `limits`; decode it inside the `with`.

    Raises Reject: `image-unknown` for what is none of `FORMATS`, `image-corrupt` for anything Pillow stumbles over here
    or inside the `with`, and a code per limit. MemoryError passes through, and so does an error of the disk.
    """
    with _sorted_errors(path, limits), _pillow_limited_to(limits.max_pixels), path.open("rb") as file:
        try:
            # By file object, as Pillow would load a plugin by the name's extension.
            image = Image.open(file, formats=list(FORMATS.values()))
        except UnidentifiedImageError:
            raise Reject(
                "image-unknown",
                "The file is not an image of a format that is read here, or its beginning is broken.",
                "Send JPEG, PNG, GIF, WebP, TIFF, BMP or AVIF.",
            ) from None
        with image:
            _check_size(image.size, limits)
            try:
                yield image
            except (OSError, RuntimeError, ValueError) as error:
                if image.format in _READ_WHOLE:
                    _ask_for_memory(image.size, error)
                raise


def can_open(path: Path, media_type: str) -> bool:
    """Whether Pillow can read the header of the file at `path` as `media_type`, one of `FORMATS`; decodes nothing."""
    format_ = FORMATS[media_type]
    if format_ in _READ_WHOLE and path.stat().st_size > _WHOLE_FILE_BYTES:
        return False

    def opened() -> bool:
        with _pillow_limited_to(None), path.open("rb") as file, Image.open(file, formats=[format_]):
            return True

    return bool(holds(opened))


def count_frames(image: ImageFile.ImageFile, limits: Limits) -> int:
    """Return the number of frames or pages, within `limits`. Raises Reject if there are more, or too large together."""
    # TIFF finds its pages one by one, and a file may chain a million of them: stop at the first too many.
    if image.format == "TIFF":
        frames, pixels = 0, 0
        with contextlib.suppress(EOFError):
            while frames <= limits.max_frames:
                image.seek(frames)
                frames += 1
                pixels += image.width * image.height  # each page has a size of its own
        image.seek(0)
    else:
        frames = getattr(image, "n_frames", 1)
        pixels = frames * image.width * image.height
    if frames > limits.max_frames:
        raise Reject(
            "image-too-many-frames",
            f"The image has more than {limits.max_frames} frames or pages.",
            "Send fewer frames, or raise INTAKE_MAX_FRAMES.",
        )
    if pixels > limits.max_total_pixels:
        raise Reject(
            "image-too-many-total-pixels",
            f"Its {frames} frames have more than {limits.max_total_pixels} pixels together.",
            "Send fewer or smaller frames, or raise INTAKE_MAX_TOTAL_PIXELS.",
        )
    return frames


@contextlib.contextmanager
def _sorted_errors(path: Path, limits: Limits) -> Iterator[None]:
    """Turn what Pillow raises at a bad image into Reject; see `open_image`."""
    try:
        yield
    except (Reject, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except OSError as error:
        if error.errno is not None and error.errno not in _NONSENSE:
            raise
        # Pillow's decoders report their want of memory in words only.
        if "out of memory" in str(error).lower():
            raise MemoryError from error
        _ask_for_memory(_webp_size(path), error)
        raise _corrupt(error) from error
    except Exception as error:
        raise _corrupt(error) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if max(size) > limits.max_side:
        raise Reject(
            "image-side-too-long",
            f"The image is {width} by {height} pixels; no side may be longer than {limits.max_side}.",
            "Send a smaller image, or raise INTAKE_MAX_SIDE.",
        )
    if width * height > limits.max_pixels:
        raise _too_many_pixels(limits)


def _too_many_pixels(limits: Limits) -> Reject:
    return Reject(
        "image-too-many-pixels",
        f"One frame of the image has more than {limits.max_pixels} pixels.",
        "Send a smaller image, or raise INTAKE_MAX_PIXELS.",
    )


def _corrupt(error: Exception) -> Reject:
    return Reject(
        "image-corrupt",
        f"The image cannot be read: {error or type(error).__name__}",
        "It may be cut short or damaged; send it again from the original.",
    )


@contextlib.contextmanager
def _pillow_limited_to(max_pixels: int | None) -> Iterator[None]:
    """Set Pillow's global limit and thread count for as long as the `with`, and silence its warnings."""
    before = Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS
    # Pillow warns at its setting and raises at twice that, in places that know nothing of warnings: half is the limit.
    Image.MAX_IMAGE_PIXELS = None if max_pixels is None else max_pixels / 2  # type: ignore[assignment]
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = before


def _ask_for_memory(size: tuple[int, int], error: Exception) -> None:
    """Raise MemoryError if there is none for an image of `size` that libwebp or libavif gave up on.

    The two do not tell want of memory from damage. They ask for about eight bytes a pixel, so that is asked for here;
    nothing is written to it, so it takes no time.
    """
    try:
        bytes(8 * size[0] * size[1])
    except MemoryError:
        raise MemoryError from error


def _webp_size(path: Path) -> tuple[int, int]:
    """Return the size in the header of a WebP, whose decoder allocates on opening; nothing for any other file."""
    with path.open("rb") as file:
        head = file.read(30)
    if head[8:16] == b"WEBPVP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[8:16] == b"WEBPVP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[8:16] == b"WEBPVP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0
