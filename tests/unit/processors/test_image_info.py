"""What is told of an image, and which images are refused."""

import contextlib
import json
import struct
import zlib

import pytest
from PIL import AvifImagePlugin, Image, TiffImagePlugin

from processors import Limits, Reject, testing
from processors.image import info
from processors.pixels import open_image

from . import files


def facts(path, **more):
    return testing.run(info, path, **more).facts


def saved(tmp_path, image, name, **more):
    path = tmp_path / name
    image.save(path, **more)
    return path


def code(path, **more):
    with pytest.raises(Reject) as caught:
        testing.run(info, path, media_type="image/png", **more)
    return caught.value.code


def test_a_photo_tells_all_about_itself(tmp_path):
    path = saved(
        tmp_path, files.two_colors(), "a.jpg", exif=files.exif(6), dpi=(300, 300), icc_profile=files.srgb_profile()
    )
    assert facts(path) == {
        "format": "JPEG",
        "width": 200,
        "height": 400,
        "mode": "RGB",
        "bits": 8,
        "frames": 1,
        "has_alpha": False,
        "icc": "sRGB built-in",
        "dpi": [300.0, 300.0],
        "orientation": 6,
        "exif": {
            "Orientation": 6,
            "Make": "Camera",
            "DateTimeOriginal": "2026:01:02 03:04:05",
            "ExposureTime": 0.008,
            "ExifVersion": "0232",
        },
        "gps": {
            "latitude": -33.5,
            "longitude": 151.2083333,
            "altitude": -12.5,
            "direction": 90.0,
            "time": "2026-01-02T01:02:03Z",
        },
        "duration_ms": None,
    }


def test_the_place_can_be_left_out(tmp_path):
    path = saved(tmp_path, files.two_colors(), "a.jpg", exif=files.exif(6))
    found = facts(path, options={"gps": False})
    assert "gps" not in found
    assert "151" not in json.dumps(found)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_width_and_height_are_as_shown(tmp_path, suffix):
    for orientation in range(1, 9):
        path = saved(tmp_path, files.two_colors(), f"a.{suffix}", exif=files.exif(orientation))
        found = facts(path)
        assert found["orientation"] == orientation
        assert (found["width"], found["height"]) == ((400, 200) if orientation < 5 else (200, 400))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_a_senseless_orientation_is_upright(tmp_path, orientation):
    assert facts(saved(tmp_path, files.two_colors(), "a.jpg", exif=files.exif(orientation)))["orientation"] == 1


@pytest.mark.parametrize(
    ("mode", "name", "bits", "alpha"),
    [
        ("1", "a.png", 1, False),
        ("L", "a.png", 8, False),
        ("LA", "a.png", 8, True),
        ("RGBA", "a.png", 8, True),
        ("I;16", "a.png", 16, False),
        ("1", "a.tif", 1, False),
        ("I;16", "a.tif", 16, False),
        ("F", "a.tif", 32, False),
        ("L", "a.gif", 8, False),
        ("1", "a.bmp", 1, False),
        ("RGBA", "a.webp", 8, True),
        ("RGB", "a.avif", None, False),
    ],
)
def test_mode_bits_and_alpha_are_told(tmp_path, mode, name, bits, alpha):
    found = facts(saved(tmp_path, Image.new(mode, (8, 8)), name))
    assert (found["bits"], found["has_alpha"]) == (bits, alpha)
    assert found["icc"] is found["exif"] is found["gps"] is None


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_animations_have_frames_and_a_duration(tmp_path, suffix):
    result = testing.run(info, files.animation(tmp_path / f"a.{suffix}"))
    assert (result.facts["frames"], result.facts["duration_ms"]) == (5, 500)
    assert result.progress[-1] == (5, 5, "frames")


def test_pages_have_no_duration(tmp_path):
    found = facts(files.animation(tmp_path / "a.tif"))
    assert (found["frames"], found["duration_ms"], found["dpi"]) == (5, None, None)


def test_a_picture_of_two_pictures_is_a_jpeg(tmp_path):
    first, *others = files.frames(3)
    found = facts(saved(tmp_path, first, "a.mpo", save_all=True, append_images=others))
    assert (found["format"], found["frames"], found["duration_ms"]) == ("JPEG", 3, None)


def entries(tmp_path, **directories):
    exif = Image.Exif()
    exif.update(directories.get("base", {}))
    for tag, content in ((0x8769, directories.get("exif")), (0x8825, directories.get("gps"))):
        if content:
            exif.get_ifd(tag).update(content)
    return facts(saved(tmp_path, files.two_colors(), "a.jpg", exif=exif))


def test_exif_is_plain_json(tmp_path):
    found = entries(
        tmp_path,
        base={
            0x010E: "x" * 300,
            0x9C9B: "Tïtle\0".encode("utf-16-le"),
            0xBEEF: "unknown",
            0x0131: "",
            0x02BC: b"<x:xmpmeta/>",
        },
        exif={
            0x9286: b"ASCII\0\0\0a comment\0",
            0x9101: b"\x01\x02\x03\x00",
            0xA432: (24.0, 70.0, 2.8, 4.0),
            0x829D: TiffImagePlugin.IFDRational(1, 0),
            0x9214: tuple(range(4)),
            0x828E: b"b" * 300,
        },
    )["exif"]
    assert found == {
        "ImageDescription": "x" * 199 + "…",
        "XPTitle": "Tïtle",
        "UserComment": "a comment",
        "LensSpecification": [24.0, 70.0, 2.8, 4.0],
        "SubjectLocation": [0, 1, 2, 3],
    }


def test_a_comment_may_be_in_unicode(tmp_path):
    found = entries(tmp_path, exif={0x9286: b"UNICODE\0" + "übrig".encode("utf-16-be")})
    assert found["exif"]["UserComment"] == "übrig"


def test_exif_is_kept_short(tmp_path, monkeypatch):
    monkeypatch.setattr("processors.exif.MAX_ENTRIES", 2)
    assert len(entries(tmp_path, base={0x010E: "a", 0x010F: "b", 0x0110: "c"})["exif"]) == 2


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({1: "N", 2: (99.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}, None),
        ({1: "N", 2: (1.0, 0.0, 0.0)}, None),
        ({1: "N", 2: (1.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)}, None),
        ({2: (1.0, TiffImagePlugin.IFDRational(1, 0), 0.0), 4: (1.0, 0.0, 0.0)}, None),
        ({2: (1.0, 30.0, TiffImagePlugin.IFDRational(0, 0)), 4: (1.0, 0.0, 0.0)}, {"latitude": 1.5, "longitude": 1.0}),
        ({5: b"\x00", 6: 8848.86}, {"altitude": 8848.86}),
        ({7: (25.0, 0.0, 0.0), 29: "2026:01:02"}, None),
        ({7: (1.0, 0.0, 0.0), 29: "yesterday!"}, None),
        ({7: (1.0, 0.0), 29: "2026:01:02"}, None),
        ({29: "2026:01:02"}, None),
    ],
)
def test_places_that_make_no_sense_are_left_out(tmp_path, gps, expected):
    assert entries(tmp_path, gps=gps)["gps"] == expected


def test_broken_exif_is_no_exif(tmp_path):
    content = files.encoded(files.two_colors(), "JPEG", exif=b"Exif\0\0garbage and more of it")
    (tmp_path / "a.jpg").write_bytes(content)
    found = facts(tmp_path / "a.jpg")
    assert (found["exif"], found["gps"], found["orientation"]) == (None, None, 1)


def test_a_broken_profile_is_no_profile(tmp_path):
    assert facts(saved(tmp_path, files.two_colors(), "a.png", icc_profile=b"nonsense"))["icc"] is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(max_pixels=79_999), "image-too-many-pixels"),
        (Limits(max_pixels=30_000), "image-too-many-pixels"),
        (Limits(max_side=399), "image-side-too-long"),
        (Limits(max_total_pixels=79_999), "image-too-many-total-pixels"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "webp", "avif", "jpg", "bmp"])
def test_a_large_image_is_refused_before_it_is_decoded(tmp_path, suffix, limits, expected):
    path = saved(tmp_path, files.two_colors(), f"a.{suffix}")
    assert code(path, limits=limits) == expected


def test_pixels_are_counted_whatever_pillow_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image._decompression_bomb_check", lambda size, **more: None)
    path = saved(tmp_path, files.two_colors(), "a.png")
    assert code(path, limits=Limits(max_pixels=79_999)) == "image-too-many-pixels"


def test_an_image_just_within_the_limits_is_fine(tmp_path):
    path = saved(tmp_path, files.two_colors(), "a.webp")
    assert facts(path, limits=Limits(max_pixels=80_000, max_side=400, max_total_pixels=80_000))["width"] == 400


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif", "tif"])
def test_too_many_frames_are_refused(tmp_path, suffix):
    path = files.animation(tmp_path / f"a.{suffix}")
    assert code(path, limits=Limits(max_frames=4)) == "image-too-many-frames"
    assert code(path, limits=Limits(max_total_pixels=4 * 64 * 64)) == "image-too-many-total-pixels"
    assert facts(path, limits=Limits(max_frames=5))["frames"] == 5


def test_each_refusal_names_its_setting(tmp_path):
    path = files.animation(tmp_path / "a.gif")
    for name in ("max_pixels", "max_total_pixels", "max_frames", "max_side"):
        with pytest.raises(Reject) as caught:
            testing.run(info, path, limits=Limits(**{name: 1}))
        assert f"INTAKE_{name.upper()}" in caught.value.hint


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_lie_about_frames_is_refused(tmp_path):
    content = files.animation(tmp_path / "a.png").read_bytes()
    start = content.index(b"acTL") - 4
    lie = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    (tmp_path / "a.png").write_bytes(content[:start] + lie + content[start + len(lie) :])
    assert code(tmp_path / "a.png") == "image-too-many-frames"


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"GIF89 no more than that")
    assert code(tmp_path / "a") == "image-unknown"


def test_formats_beyond_the_list_are_refused(tmp_path):
    for format_ in ("EPS", "ICO", "PPM", "TGA", "PDF"):
        path = tmp_path / f"a.{format_.lower()}"
        path.write_bytes(files.encoded(files.two_colors((64, 64)), format_))
        assert code(path) == "image-unknown"


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_a_cut_animation_is_refused(tmp_path, suffix):
    path = files.animation(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:-60])
    assert code(path) in ("image-corrupt", "image-unknown")


def test_an_error_of_the_disk_is_not_the_files_fault(tmp_path):
    with pytest.raises(FileNotFoundError):
        testing.run(info, tmp_path / "none", media_type="image/png")


def raised_while_open(path, error):
    with open_image(path, Limits()):
        raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("decoder error -9: out of memory error when reading image file"), MemoryError),
        (MemoryError(), MemoryError),
        (OSError(5, "Input/output error"), OSError),
        (OSError(22, "Invalid argument"), Reject),
        (Image.DecompressionBombError("big"), Reject),
        (SyntaxError("broken"), Reject),
        (RuntimeError(), Reject),
        (Reject("mine", "Mine."), Reject),
    ],
)
def test_errors_while_decoding_are_sorted(tmp_path, error, expected):
    path = saved(tmp_path, files.two_colors(), "a.png")
    with pytest.raises(expected):
        raised_while_open(path, error)


def test_pillows_own_settings_are_left_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS
    path = saved(tmp_path, files.two_colors(), "a.avif")
    with contextlib.suppress(Reject):
        facts(path, limits=Limits(max_pixels=1))
    assert before == (Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS)


@pytest.mark.parametrize("more", [{"lossless": True}, {"lossless": False}, {"exif": files.exif(6)}])
def test_a_webp_without_memory_for_its_canvas_is_not_corrupt(tmp_path, monkeypatch, more):
    path = saved(tmp_path, files.two_colors(), "a.webp", **more)

    def no_canvas(*args):
        raise OSError("could not create decoder object")

    asked = []
    monkeypatch.setattr("PIL.WebPImagePlugin._webp.WebPAnimDecoder", no_canvas)
    monkeypatch.setattr("processors.pixels.bytes", asked.append, raising=False)
    assert code(path) == "image-corrupt"
    assert asked == [8 * 400 * 200]
    monkeypatch.setattr("processors.pixels.bytes", no_memory)
    with pytest.raises(MemoryError):
        facts(path)


@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_frames_without_memory_are_not_corrupt(tmp_path, monkeypatch, suffix):
    path = saved(tmp_path, files.two_colors(), f"a.{suffix}")
    monkeypatch.setattr("processors.pixels.bytes", no_memory, raising=False)
    with pytest.raises(MemoryError):
        raised_while_open(path, RuntimeError("failed to decode"))


def test_other_formats_tell_want_of_memory_themselves(tmp_path, monkeypatch):
    path = saved(tmp_path, files.two_colors(), "a.png")
    with pytest.raises(Reject):
        raised_while_open(path, OSError("broken data stream"))


def no_memory(size):
    raise MemoryError


def test_pages_of_different_sizes_are_summed(tmp_path):
    first, second = Image.new("1", (10, 10)), Image.new("1", (1000, 1000))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])

    enough, less = Limits(max_total_pixels=1_000_100), Limits(max_total_pixels=1_000_099)

    assert testing.run(info, tmp_path / "pages.tif", limits=enough).facts["frames"] == 2
    with pytest.raises(Reject) as told:
        testing.run(info, tmp_path / "pages.tif", limits=less)
    assert told.value.code == "image-too-many-total-pixels"
    assert "INTAKE_MAX_TOTAL_PIXELS" in told.value.hint
