"""Decoding: exact pixels against Pillow and NumPy, and every reason for which an image is refused."""

import copy
import io
import struct
import warnings
import zlib
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydantic import ValidationError

from pipeline.data import decode as module
from pipeline.data.decode import Unusable, decode, decode_image, encode_png, standard_bytes
from pipeline.errors import WhorlError
from pipeline.params.data import ImageFormat, Mode

REASONS = {"empty", "unreadable", "truncated", "oversized", "wrong_mode", "wrong_size"}


def image_format(**changes: Any) -> ImageFormat:
    """An 8x8 RGB format with some fields changed."""
    fields = {
        "channels": 3,
        "height": 8,
        "width": 8,
        "resize": False,
        "convert": (),
        "max_pixels": 10_000,
        "max_bytes": 100_000,
    }
    return ImageFormat.model_validate(fields | changes)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def refusal(encoded: bytes, format: ImageFormat) -> Unusable:
    with pytest.raises(Unusable) as caught:
        decode(encoded, format)
    return caught.value


def header_only_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be an RGB image of any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_lossless_file_gives_back_its_pixels(kind: str, channels: int) -> None:
    pixels = noise(6, 9, 3) if channels == 3 else noise(6, 9)
    decoded = decode(saved(pixels, kind), image_format(channels=channels, height=6, width=9))
    assert decoded.dtype == np.uint8 and decoded.shape == (channels, 6, 9) and decoded.flags.c_contiguous and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])


@pytest.mark.parametrize(("kind", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp"), ("WEBP", "webp"), ("PPM", "ppm")])
def test_a_file_in_the_format_is_kept_as_it_is(kind: str, extension: str) -> None:
    encoded, format = saved(noise(8, 8, 3), kind), image_format()
    assert standard_bytes(encoded, decode(encoded, format), format) == (encoded, extension)


@given(
    st.sampled_from([1, 3])
    .flatmap(lambda c: st.tuples(st.just(c), st.integers(1, 12), st.integers(1, 12)))
    .flatmap(lambda s: arrays(np.uint8, s))
)
def test_encode_png_is_undone_by_decode(pixels: np.ndarray) -> None:
    channels, height, width = pixels.shape
    format = image_format(channels=channels, height=height, width=width)
    np.testing.assert_array_equal(decode(encode_png(pixels), format), pixels)
    assert encode_png(pixels) == encode_png(np.asfortranarray(pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied_and_the_bytes_are_then_written_anew(orientation: int) -> None:
    stored = noise(8, 8, 3)
    # What each value asks of a viewer, from the EXIF 2.3 standard (tag 0x0112), in NumPy's terms.
    shown = [
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.transpose(1, 0, 2),
        np.rot90(stored, -1),
        stored[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(stored, 1),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded, format = saved(stored, exif=exif), image_format()
    decoded = decode(encoded, format)
    np.testing.assert_array_equal(decoded, shown.transpose(2, 0, 1))
    kept, extension = standard_bytes(encoded, decoded, format)
    assert (kept == encoded) is (orientation == 1) and extension == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(kept))).transpose(2, 0, 1), decoded)


def test_an_orientation_that_swaps_the_sides_is_measured_after_it_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = saved(noise(4, 8, 3), exif=exif)
    assert decode(lying, image_format(height=8, width=4)).shape == (3, 8, 4)
    assert refusal(lying, image_format(height=4, width=8)).reason == "wrong_size"


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.fromarray(noise(8, 8, 4), "RGBA"), 3),
        (Image.fromarray(noise(8, 8, 3)).convert("P", palette=Image.Palette.ADAPTIVE), 3),
        (Image.fromarray(noise(8, 8)), 3),
        (Image.fromarray(noise(8, 8, 2), "LA"), 1),
        (Image.fromarray(noise(8, 8)).convert("1"), 1),
        (Image.fromarray(noise(8, 8, 3)), 1),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_a_mode_is_converted_only_where_the_params_name_it(image: Image.Image, channels: int) -> None:
    encoded, native = saved(image), {1: "L", 3: "RGB"}[channels]
    refused = refusal(encoded, image_format(channels=channels))
    assert refused.reason == "wrong_mode" and image.mode in refused.detail and native in refused.detail
    format = image_format(channels=channels, convert=(image.mode,))
    decoded = decode(encoded, format)
    expected = np.asarray(image.convert(native))
    np.testing.assert_array_equal(decoded, expected[None] if channels == 1 else expected.transpose(2, 0, 1))
    kept, extension = standard_bytes(encoded, decoded, format)
    assert extension == "png" and kept != encoded
    np.testing.assert_array_equal(decode(kept, image_format(channels=channels)), decoded)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 128, 129, 257], [385, 386, 32896, 65535]], np.uint16)
    format = image_format(channels=1, height=2, width=4, convert=("I;16",))
    np.testing.assert_array_equal(decode(saved(grey), format)[0], np.round(grey / 257))


def test_a_palette_with_transparency_is_converted_without_a_warning() -> None:
    image = Image.fromarray(noise(8, 8)).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(saved(image, transparency=bytes(range(256))), image_format(convert=("P",))).shape == (3, 8, 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_mode_without_a_known_range_is_refused_and_cannot_be_named(mode: str) -> None:
    refused = refusal(saved(Image.new(mode, (8, 8), 3), "TIFF"), image_format(channels=1))
    assert refused.reason == "wrong_mode" and "no known range" in refused.detail
    with pytest.raises(ValidationError, match="convert"):
        image_format(channels=1, convert=(mode,))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", [mode for mode in get_args(Mode) if mode != "LAB"])
def test_every_mode_that_can_be_named_is_converted(mode: str, channels: int) -> None:
    """Handed over as Pillow would open it: not every mode has a file format of its own here."""
    image = Image.new(mode, (8, 8))
    converted = module._converted(image, {1: "L", 3: "RGB"}[channels])
    assert np.asarray(converted).shape == {1: (8, 8), 3: (8, 8, 3)}[channels] and np.asarray(converted).dtype == np.uint8


def test_a_mode_that_pillow_cannot_convert_is_refused() -> None:
    assert refusal(saved(Image.new("LAB", (8, 8)), "TIFF"), image_format(channels=1, convert=("LAB",))).reason == "wrong_mode"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 8), (8, 24), (5, 8), (6, 6), (200, 12)])
def test_resize_crops_the_centre_and_scales_the_shorter_side(height: int, width: int) -> None:
    # A ramp along each axis is what bicubic scaling leaves straight, so the pixel centres can be computed by hand.
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([rows * (255 / max(height - 1, 1)), columns * (255 / max(width - 1, 1)), np.full_like(rows, 77)])
    encoded, format = encode_png(np.round(ramp).astype(np.uint8)), image_format(resize=True)
    decoded = decode(encoded, format).astype(float)
    scale = min(height, width) / 8
    centres = (np.arange(8) - 3.5) * scale
    inner = slice(2, 6)  # away from the edges, where the filter runs out of pixels
    for axis, side in ((0, height), (1, width)):
        expected = (centres + (side - 1) / 2) * (255 / (side - 1))
        found = decoded[axis].mean(axis=1 - axis)
        np.testing.assert_allclose(found[inner], expected[inner], atol=0.05 * 255 * scale / side + 1.5)
    assert (decoded[2] == 77).all()
    assert refusal(encoded, image_format()).reason == "wrong_size"
    assert standard_bytes(encoded, decode(encoded, format), format) == (encode_png(decode(encoded, format)), "png")


def test_a_very_long_thin_image_is_cut_before_it_is_scaled() -> None:
    # Scaled first, its shorter side alone would ask for 224 x 2,240,000 pixels.
    thin = encode_png(np.full((3, 10_000, 1), 5, np.uint8))
    assert (decode(thin, image_format(height=224, width=224, resize=True)) == 5).all()


@pytest.mark.parametrize(
    ("encoded", "changes", "reason", "said"),
    [
        (b"", {}, "empty", "0 bytes"),
        (b"no image at all", {}, "unreadable", "15 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", {}, "unreadable", "no header"),
        (saved(noise(8, 8, 3))[:-40], {}, "truncated", "truncated"),
        (saved(noise(8, 8, 3), "JPEG")[:-40], {}, "truncated", "truncated"),
        (saved(noise(8, 8, 3), "PPM")[:-1], {}, "truncated", "truncated"),
        (saved(noise(8, 8, 3), "WEBP")[:-40], {}, "unreadable", "decoder"),
        (saved(noise(8, 8, 3)), {"max_bytes": 50}, "oversized", "at most 50"),
        (saved(noise(8, 8, 3)), {"max_pixels": 63}, "oversized", "8x8 pixels, where at most 63"),
        (header_only_png(8, 30_000), {}, "oversized", "30000x8"),
        (header_only_png(2**20, 2**20), {}, "oversized", "exceeds limit"),
        (header_only_png(8, 9), {}, "wrong_size", "9x8 (height x width), where 8x8"),
        (header_only_png(8, 8), {"channels": 1}, "wrong_mode", "mode RGB, where L"),
        (saved(noise(8, 9, 3)), {"channels": 1}, "wrong_mode", "mode RGB"),
    ],
)
def test_each_reason_says_what_was_found_and_expected(encoded: bytes, changes: dict[str, Any], reason: str, said: str) -> None:
    refused = refusal(encoded, image_format(**changes))
    assert refused.reason == reason and said in refused.detail
    assert str(refused) == f"{reason}: {refused.detail}" and isinstance(refused, WhorlError)
    assert str(copy.deepcopy(refused)) == str(refused)  # rebuilt as Ray does when it crosses processes


def test_a_file_that_a_source_stopped_reading_is_called_oversized(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = saved(noise(8, 8, 3))
    monkeypatch.setattr(module, "MOST_BYTES", len(encoded))
    assert decode(encoded, image_format()).shape == (3, 8, 8)
    refused = refusal(encoded + b"\0", image_format())
    assert refused.reason == "oversized" and refused.detail.startswith(f"more than {len(encoded)} bytes")


def test_the_header_is_judged_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    cases = [(image_format(max_pixels=10), "oversized"), (image_format(channels=1), "wrong_mode"), (image_format(height=9), "wrong_size")]
    encoded = saved(noise(8, 8, 3))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for format, reason in cases:
        assert refusal(encoded, format).reason == reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_every_cut_of_a_file_is_refused_or_whole(kind: str) -> None:
    encoded, format = saved(noise(8, 8, 3), kind), image_format(convert=("P",))
    whole = decode(encoded, format)
    refused = 0
    for length in range(len(encoded)):
        try:
            np.testing.assert_array_equal(decode(encoded[:length], format), whole)
        except Unusable as problem:
            assert problem.reason in {"empty", "truncated", "unreadable"} and "0x" not in problem.detail
            refused += 1
    assert refused >= len(encoded) - 25  # a file that lacks only its end mark has all its pixels


@settings(max_examples=300)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
)
def test_damage_is_refused_for_a_known_reason_or_decodes_into_the_format(kind: str, damage: list[tuple[int, int]]) -> None:
    encoded = bytearray(saved(noise(8, 8, 3), kind))
    for place, value in damage:
        encoded[place % len(encoded)] = value
    format = image_format(convert=("P", "RGBA", "L", "CMYK"))
    try:
        decoded = decode(bytes(encoded), format)
    except Unusable as problem:
        assert problem.reason in REASONS and len(problem.detail) <= 250 and " at 0x" not in problem.detail
    else:
        assert decoded.shape == (3, 8, 8) and decoded.dtype == np.uint8
        kept, _ = standard_bytes(bytes(encoded), decoded, format)
        np.testing.assert_array_equal(decode(kept, image_format()), decoded)


def test_an_image_without_a_file_goes_the_same_way() -> None:
    pixels = noise(8, 8, 4)
    image = Image.fromarray(pixels, "CMYK")
    exif = image.getexif()
    exif[0x0112] = 3
    expected = np.asarray(image.convert("RGB"))[::-1, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(image, image_format(convert=("CMYK",), max_bytes=1)), expected)
    np.testing.assert_array_equal(np.asarray(image), pixels)
    assert image.getexif()[0x0112] == 3, "the image given is left as it was"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (0, 8)), "empty"),
        (Image.new("RGB", (101, 100)), "oversized"),
        (Image.new("CMYK", (8, 8)), "wrong_mode"),
        (Image.new("RGB", (8, 9)), "wrong_size"),
        (Image.open(io.BytesIO(saved(noise(8, 8, 3), "JPEG")[:-40])), "truncated"),
    ],
)
@pytest.mark.parametrize("resize", [False, True])
def test_an_opened_image_is_refused_for_the_same_reasons(image: Image.Image, reason: str, resize: bool) -> None:
    if reason == "wrong_size" and resize:
        assert decode_image(image, image_format(resize=True)).shape == (3, 8, 8)
        return
    with pytest.raises(Unusable) as caught:
        decode_image(image, image_format(resize=resize))
    assert caught.value.reason == reason and ("expected" in caught.value.detail) is (reason != "truncated")
