"""P6: a photo of 12 megapixels to three previews and its metadata, in CPU seconds."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench import servers
from bench.jobs import photo
from bench.measure import run
from bench.report import Bench, Result

_SIZES = (256, 1024, 2048)
_OURS = """
import sys
from pathlib import Path
from processors.testing import run
from processors.image import previews, info
source = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    run(info, source, media_type="image/jpeg")
    run(previews, source, media_type="image/jpeg", options={"sizes": [256, 1024, 2048]})
"""
_PLAIN = """
import sys
from PIL import Image, ImageOps
for _ in range(int(sys.argv[2])):
    for size in (256, 1024, 2048):
        with Image.open(sys.argv[1]) as image:
            image = ImageOps.exif_transpose(image)
            image.getexif()
            image.thumbnail((size, size))
            image.save(f"{sys.argv[3]}/{size}.webp", quality=80)
"""


def previews(bench: Bench) -> Result:
    """Run ours, plain Pillow as most write it, and libvips over the same photo; start-up is measured and taken off."""
    times = 1 if bench.quick else 5
    result = Result("P6: 12 megapixels to three WebP previews and metadata, CPU seconds a photo")
    vips = servers.need("vipsthumbnail", "libvips-tools")
    source = bench.folder / "photo.jpg"
    source.write_bytes(photo(4000, 3000))
    with tempfile.TemporaryDirectory(dir=bench.folder) as made:

        def python(code: str, count: int) -> float:
            return run(sys.executable, "-c", code, str(source), str(count), made)[1]

        for _ in range(bench.rounds):
            for who, code in (("file-intake's processors", _OURS), ("plain Pillow", _PLAIN)):
                result.add("cpu s a photo", who, (python(code, times) - python(code, 0)) / times)
            outputs = [run(vips, str(source), "-s", str(size), "-o", f"{made}/%s-{size}.webp[Q=80]") for size in _SIZES]
            result.add("cpu s a photo", "vipsthumbnail, three runs", sum(cpu for _, cpu in outputs))
        assert len(list(Path(made).iterdir())) == 2 * len(_SIZES)
    ours = result.of("cpu s a photo", "file-intake's processors")
    result.ratio("CPU, ours / plain Pillow", ours, result.of("cpu s a photo", "plain Pillow"), target=("<=", 0.45))
    limit = result.of("cpu s a photo", "vipsthumbnail, three runs")
    result.ratio("CPU, ours / vipsthumbnail", ours, limit, target=("<=", 1.5))
    return result
