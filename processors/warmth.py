"""Loading ahead of time what processors would load late, so that a forked, sandboxed child opens no library file."""

from __future__ import annotations

import codecs
import contextlib
import encodings.aliases
import importlib
import io


def warm() -> None:
    """Import the built-in processors and make them load what they load lazily: image plugins, codecs, the detector.

    For the process that forks attempts; call it once. Starts no thread and opens no file but Python's own.
    """
    # Imported here, so that `import processors` alone stays cheap.
    import charset_normalizer
    from PIL import Image, ImageCms

    from processors import colors
    from processors.pixels import FORMATS
    from processors.registry import BUILT_IN

    for module in (*BUILT_IN, "PIL.MpoImagePlugin", "PIL.TiffImagePlugin", "html.parser"):
        importlib.import_module(module)
    # The detector tries every codec Python has, each a module of its own.
    for name in set(encodings.aliases.aliases.values()):
        with contextlib.suppress(LookupError):  # those of another system
            codecs.lookup(name)
    charset_normalizer.from_bytes("Grüße, naïve façade; ".encode("cp1252") * 20).best()
    picture = Image.new("RGB", (16, 16), "#336699")
    for format_ in FORMATS.values():
        file = io.BytesIO()
        picture.save(file, format_)
        with Image.open(file, formats=[format_]) as image:
            image.load()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colors.profile_name(profile)
    colors.to_srgb(picture, profile)
