"""Small previews: their pixels, their sizes, and nothing else in them."""

import struct
import subprocess
import sys

import pytest
from PIL import Image, ImageCms

from processors import Reject, testing
from processors.colors import eight_bit, to_srgb
from processors.image import previews

from . import files

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def make(path, **options):
    """The previews by name; lossless unless told otherwise, so that pixels can be compared."""
    options = {"format": "png", "sizes": (100,)} | options
    made = testing.run(previews, path, options=options)
    opened = {}
    for name, artifact in made.artifacts.items():
        with Image.open(artifact) as image:
            image.load()
            opened[name] = image.copy()
            opened[name].info = dict(image.info)
    assert {(p["name"], p["width"], p["height"]) for p in made.facts["previews"]} == {
        (name, *image.size) for name, image in opened.items()
    }
    return opened


def one(path, **options):
    (image,) = make(path, **options).values()
    return image


def saved(tmp_path, image, name, **more):
    path = tmp_path / name
    image.save(path, **more)
    return path


def near(pixel, expected, within=12):
    return len(pixel) == len(expected) and all(abs(a - b) <= within for a, b in zip(pixel, expected, strict=True))


def test_previews_are_made_in_all_sizes_and_never_enlarged(tmp_path):
    path = saved(tmp_path, files.two_colors((400, 200)), "a.png")
    made = testing.run(previews, path)
    assert made.facts["previews"] == [
        {"name": "preview-1024.webp", "width": 400, "height": 200},
        {"name": "preview-256.webp", "width": 256, "height": 128},
    ]
    assert made.progress == [(1, 2, "previews"), (2, 2, "previews")]
    assert {name: image.size for name, image in make(path, sizes=(16, 64, 400)).items()} == {
        "preview-400.png": (400, 200),
        "preview-64.png": (64, 32),
        "preview-16.png": (16, 8),
    }


@pytest.mark.parametrize("format_", ["webp", "jpeg", "png", "avif"])
def test_every_format_shows_the_same_picture(tmp_path, format_):
    image = one(saved(tmp_path, files.two_colors(), "a.png"), format=format_, quality=95)
    assert image.size == (100, 50)
    assert near(image.convert("RGB").getpixel((10, 10)), BLUE)
    assert near(image.convert("RGB").getpixel((90, 40)), RED)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_previews_are_upright(tmp_path, suffix, orientation):
    path = saved(tmp_path, files.two_colors(), f"a.{suffix}", exif=files.exif(orientation))
    image = one(path)
    assert image.size == ((100, 50) if orientation < 5 else (50, 100))
    # Where the stored upper left corner is seen, by the definition of EXIF.
    right = orientation in (2, 3, 6, 7)
    below = orientation in (3, 4, 7, 8)
    corners = {(x, y): image.convert("RGB").getpixel((x * (image.width - 1), y * (image.height - 1)))
               for x in (0, 1) for y in (0, 1)}  # fmt: skip
    assert [corner for corner, pixel in corners.items() if near(pixel, BLUE, 30)] == [(int(right), int(below))]


def test_previews_carry_no_metadata(tmp_path):
    path = saved(
        tmp_path, files.two_colors(), "a.jpg", exif=files.exif(6), icc_profile=files.srgb_profile(), comment=b"secret-c"
    )
    for format_ in ("webp", "jpeg", "png", "avif"):
        made = testing.run(previews, path, options={"format": format_, "sizes": [64]})
        content = made.artifacts[f"preview-64.{format_}"].read_bytes()
        assert not [word for word in (b"Exif", b"secret", b"Cam", b"ICC", b"iCCP", b"acsp") if word in content]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (32768, 128), (40000, 156), (257, 1)])
def test_sixteen_bits_are_scaled(tmp_path, value, expected):
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path, Image.new("I;16", (20, 20), value), name)
        assert one(path).getpixel((5, 5)) == (expected,) * 3


def test_wide_numbers_are_stretched():
    image = Image.new("F", (2, 1))
    image.putpixel((1, 0), 0.5)
    assert [eight_bit(image).getpixel((x, 0)) for x in (0, 1)] == [0, 255]
    image = Image.new("I", (2, 1), -1000)
    image.putpixel((1, 0), 1000)
    assert [eight_bit(image).getpixel((x, 0)) for x in (0, 1)] == [0, 255]
    assert eight_bit(Image.new("I", (1, 1), 200)).getpixel((0, 0)) == 200
    assert eight_bit(Image.new("I", (1, 1), 65535)).getpixel((0, 0)) == 255
    assert eight_bit(Image.new("F", (1, 1), 3.5)).getpixel((0, 0)) in (0, 1)


def test_big_endian_sixteen_bits_are_scaled_too(tmp_path):
    tiff = (
        b"MM\x00\x2a\x00\x00\x00\x0a\xff\xff"
        + struct.pack(">H", 8)
        + b"".join(
            struct.pack(">HHIHH", tag, 3, 1, value, 0)
            for tag, value in ((256, 1), (257, 1), (258, 16), (259, 1), (262, 1))
        )
        + struct.pack(">HHII", 273, 4, 1, 8)
        + struct.pack(">HHIHH", 277, 3, 1, 1, 0)
        + struct.pack(">HHII", 279, 4, 1, 2)
        + struct.pack(">I", 0)
    )
    (tmp_path / "a.tif").write_bytes(tiff)
    assert one(tmp_path / "a.tif").getpixel((0, 0)) == WHITE


def test_cmyk_becomes_rgb(tmp_path):
    image = one(saved(tmp_path, files.two_colors(mode="CMYK"), "a.jpg", quality=95))
    assert near(image.getpixel((90, 40)), RED, 30)
    assert near(image.getpixel((10, 10)), BLUE, 30)


def test_palettes_keep_their_colors_and_transparency(tmp_path):
    image = Image.new("P", (64, 64))
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.paste(1, (32, 0, 64, 64))
    assert one(saved(tmp_path, image, "a.png")).getpixel((50, 10)) == BLUE
    transparent = one(saved(tmp_path, image, "b.png", transparency=0))
    assert transparent.mode == "RGBA"
    assert transparent.getpixel((10, 10))[3] == 0
    assert transparent.getpixel((50, 10)) == (*BLUE, 255)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path, mode):
    image = one(saved(tmp_path, Image.new(mode, (20, 20), 1 if mode == "1" else 200), "a.png"))
    assert image.getpixel((5, 5)) == (WHITE if mode == "1" else (200,) * 3)


def test_grey_with_alpha_keeps_it(tmp_path):
    image = one(saved(tmp_path, Image.new("LA", (20, 20), (200, 100)), "a.png"))
    assert image.getpixel((5, 5)) == (200, 200, 200, 100)


def test_one_transparent_color_is_transparent(tmp_path):
    path = saved(tmp_path, files.two_colors(), "a.png", transparency=RED)
    assert one(path).getpixel((90, 40))[3] == 0


def test_edges_of_transparent_parts_do_not_bleed(tmp_path):
    image = Image.new("RGBA", (400, 400), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 201, 400))
    made = one(saved(tmp_path, image, "a.png"))
    visible = [made.getpixel((x, 50)) for x in range(100) if made.getpixel((x, 50))[3] > 20]
    assert all(near(pixel[:3], RED, 3) for pixel in visible)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "jpeg"}, WHITE),
        ({"format": "jpeg", "background": "#0000ff"}, BLUE),
        ({"format": "png", "background": "#0000FF"}, BLUE),
    ],
)
def test_transparent_parts_get_the_background(tmp_path, options, expected):
    path = saved(tmp_path, Image.new("RGBA", (64, 64), (0, 255, 0, 0)), "a.png")
    image = one(path, **options)
    assert image.mode == "RGB"
    assert near(image.getpixel((5, 5)), expected)


def test_an_opaque_image_needs_no_background(tmp_path):
    assert near(one(saved(tmp_path, files.two_colors(), "a.png"), format="jpeg").getpixel((90, 40)), RED)


def swapped_profile():
    """A profile of a space whose red is sRGB's green."""
    content = bytearray(files.srgb_profile())
    count = struct.unpack(">I", content[128:132])[0]
    for index in range(count):
        at = 132 + 12 * index
        tag = bytes(content[at : at + 4])
        if tag in (b"rXYZ", b"gXYZ"):
            content[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}[tag]
    return bytes(content)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_go_through_the_profile(tmp_path, mode):
    path = saved(tmp_path, files.two_colors(mode=mode), "a.png", icc_profile=swapped_profile())
    assert near(one(path).getpixel((90, 40))[:3], (0, 255, 0), 3)


def test_a_grey_image_may_have_a_profile_of_colors():
    grey = Image.new("L", (4, 4), 100)
    assert near(to_srgb(grey, files.srgb_profile()).getpixel((0, 0)), (100,) * 3, 2)


@pytest.mark.parametrize("icc", [b"nonsense", None, "text", b""])
def test_a_profile_that_does_not_fit_is_left_out(icc):
    assert to_srgb(Image.new("RGB", (4, 4), RED), icc).getpixel((0, 0)) == RED


def test_a_profile_for_other_pixels_is_left_out():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert to_srgb(Image.new("RGB", (4, 4), RED), lab).getpixel((0, 0)) == RED
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert to_srgb(Image.new("RGB", (4, 4), RED), xyz).getpixel((0, 0)) == RED
    assert to_srgb(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), files.srgb_profile()).getpixel((0, 0)) == RED


def test_lab_has_a_meaning_without_a_profile():
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), RED), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert near(to_srgb(lab, None).getpixel((0, 0)), RED, 6)


def test_only_the_first_frame_is_shown(tmp_path):
    for suffix in ("gif", "png", "webp", "avif", "tif"):
        image = one(files.animation(tmp_path / f"a.{suffix}"))
        assert near(image.convert("RGB").getpixel((5, 5)), (0, 0, 0))


def test_very_long_images_keep_a_pixel(tmp_path):
    assert one(saved(tmp_path, Image.new("RGB", (5000, 2)), "a.png"), sizes=(16,)).size == (16, 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_a_cut_image_is_refused(tmp_path, suffix):
    image = Image.effect_noise((300, 300), 50).convert("RGB")
    path = saved(tmp_path, image, f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Reject) as caught:
        make(path)
    assert caught.value.code == "image-corrupt"
    assert caught.value.hint


PEAK = """
import resource, sys
from pathlib import Path
from processors import testing, warm
warm()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
testing.run("image.previews", Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_photo_is_not_decoded_whole(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (8000, 6000), RED), "a.jpg")
    # In a process of its own: this one has held the 192 MB of the picture already.
    grown = subprocess.run([sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True)
    assert int(grown.stdout) < 80


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": []},
        {"sizes": [15]},
        {"sizes": [4097]},
        {"sizes": [64, 64]},
        {"sizes": list(range(16, 25))},
        {"format": "gif"},
        {"quality": 0},
        {"quality": 101},
        {"background": "white"},
        {"size": 3},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="validation error"):
        previews.options(**options)
