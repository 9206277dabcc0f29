"""A warm process loads nothing more, which is what a sandboxed child can afford."""

import subprocess
import sys
import threading

from processors import warm

from . import files

CHILD = r"""
import sys, tempfile, threading
from pathlib import Path
import processors
assert "PIL" not in sys.modules, "importing the package alone is cheap"
from processors.pipeline import load_pipelines
from processors.registry import load_registry
from processors.runner import Source, run

registry = load_registry(entry_points=False)
pipelines = load_pipelines(registry)
processors.warm()
assert threading.active_count() == 1
modules = set(sys.modules)
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
folder = Path(sys.argv[1])
for file in sorted(folder.iterdir()):
    events = []
    run(pipelines["default"].steps, registry, source=Source(file, file.name, None, 1),
        workdir=folder.parent / ("work-" + file.name), limits=processors.Limits(), report=events.append)
    assert events[-1] == {"event": "outcome", "outcome": "succeeded"}, events[-1]
late = sorted(set(sys.modules) - modules)
assert not late, late
elsewhere = sorted({name for name in opened if not name.startswith(str(folder.parent)) and not name.isdigit()})
assert not elsewhere, elsewhere
"""


def test_after_warming_no_module_is_imported_and_no_library_file_opened(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for suffix in ("jpg", "png", "webp", "avif", "tif", "bmp"):
        more = {} if suffix == "bmp" else {"exif": files.exif(6), "icc_profile": files.srgb_profile()}
        files.two_colors().save(folder / f"a.{suffix}", **more)
    files.two_colors(mode="CMYK").save(folder / "c.jpg")
    files.animation(folder / "a.gif")
    first, *others = files.frames(3)
    first.save(folder / "m.jpg", "MPO", save_all=True, append_images=others)
    files.archive(folder / "a.zip", {"näme\x82": "a"})
    texts = {
        "utf-16": "Grüße",
        "latin-1": "Grüße aus Köln über Straße und Möhre, schön für alle Bären",
        "cp1251": "Привет, как дела?",
        "shift_jis": "これは日本語のテキストです。文字コードを調べます。",
        "utf-8": "<html><title>&amp;ü</title>",
    }
    for encoding, text in texts.items():
        (folder / f"{encoding}.txt").write_bytes(text.encode(encoding))
    (folder / "a.json").write_text('{"a": 1}')
    (folder / "a.xml").write_text("<?xml version='1.0' encoding='iso-8859-2'?><a/>")
    (folder / "a.csv").write_text("a,b,c\n1,2,3\n")
    (folder / "a.pdf").write_bytes(files.PDF)
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, timeout=60)


def test_warming_twice_does_no_harm():
    before = threading.active_count()
    warm()
    assert threading.active_count() == before
