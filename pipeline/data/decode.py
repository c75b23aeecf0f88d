"""From an image file's bytes to the one format that every prepared image has, or to the reason why it cannot be.

What can be told from the header is checked before a pixel is decoded, so that a small file cannot claim a huge image.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.sources.base import MOST_BYTES
from pipeline.errors import DataError
from pipeline.params.data import ImageFormat

Reason = Literal["empty", "unreadable", "truncated", "oversized", "wrong_mode", "wrong_size"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The file formats that are tried. Pillow knows more, but some of them hand the file to another program."""

_NATIVE = {1: "L", 3: "RGB"}
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg"}
_UNKNOWN_RANGE = ("I", "F")
_CUT_SHORT = re.compile(r"truncat|EOF|not enough", re.IGNORECASE)


class Unusable(DataError):
    """An image that cannot be taken.

    Attributes:
        reason: the kind of problem, one of ``Reason``.
        detail: what was found and what was expected, the same on every run.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(encoded: bytes, format: ImageFormat) -> npt.NDArray[np.uint8]:
    """Decodes an image file into the given format, as ``decode_image`` does once its bytes are few enough and its header is read.

    Args:
        encoded: a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM file. Of an animation the first frame is taken.
        format: the format to arrive at, and what is refused.

    Returns:
        uint8 of shape (C, H, W), in [0, 255].

    Raises:
        Unusable: with the first reason found, in the order empty, oversized (bytes), unreadable, oversized (pixels),
            wrong_mode, wrong_size, and then truncated or unreadable, which show when the pixels are decoded.
    """
    _check_bytes(encoded, format)
    with _silent_pillow():
        image = _opened(encoded)
    return decode_image(image, format)


def decode_image(image: Image.Image, format: ImageFormat) -> npt.NDArray[np.uint8]:
    """Brings an opened image into the given format; its pixels are decoded only once its header has passed.

    An EXIF orientation is applied, so that the image is the one a viewer shows. A mode named in ``format.convert`` is
    converted as Pillow does (transparency is dropped; 16-bit grey is scaled to 8 bits). With ``format.resize`` an image
    of another size is scaled (bicubic, antialiased) until its shorter side fits and cropped at the centre.

    Args:
        image: any Pillow image; of several frames the current one counts. Its pixels are loaded, and it is not changed otherwise.
        format: the format to arrive at, and what is refused; its ``max_bytes`` is about files and is not looked at.

    Returns:
        uint8 of shape (C, H, W), in [0, 255].

    Raises:
        Unusable: with the first reason found, in the order empty, oversized, wrong_mode, wrong_size, truncated or unreadable.
    """
    with _silent_pillow():
        _check_header(image, format)
        standard = _converted(_upright(image), _NATIVE[format.channels])
    _check_size(standard, format)
    if standard.size != (format.width, format.height):
        # Cuts before it scales: a very long thin image would otherwise grow beyond any memory.
        standard = ImageOps.fit(standard, (format.width, format.height), Image.Resampling.BICUBIC)
    return _channels_first(standard)


def standard_bytes(encoded: bytes, pixels: npt.NDArray[np.uint8], format: ImageFormat) -> tuple[bytes, str]:
    """The bytes to keep for a decoded image.

    Args:
        encoded: the original file, as it was given to ``decode``.
        pixels: what ``decode`` made of it, uint8 of shape (C, H, W).
        format: the format that it was decoded into.

    Returns:
        The original bytes where any reader gets exactly these pixels from them (no conversion, no scaling, no EXIF
        orientation), otherwise a PNG of the pixels; and the file extension without a dot.
    """
    with _silent_pillow():
        image = _opened(encoded)
        plain = image.mode == _NATIVE[format.channels] and image.size == (format.width, format.height)
        if plain and np.array_equal(_channels_first(image), pixels):
            name = image.format or "PNG"
            return encoded, _EXTENSIONS.get(name, name.lower())
    return encode_png(pixels), "png"


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 pixels of shape (1, H, W), grey, or (3, H, W), RGB; the same bytes for the same pixels."""
    channels_last = pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(channels_last)).save(stream, "PNG")
    return stream.getvalue()


def _check_bytes(encoded: bytes, format: ImageFormat) -> None:
    if not encoded:
        raise Unusable("empty", "0 bytes, where an image file was expected")
    if len(encoded) > (most := min(format.max_bytes, MOST_BYTES)):
        found = f"{len(encoded)} bytes" if len(encoded) <= MOST_BYTES else f"more than {MOST_BYTES} bytes"
        raise Unusable("oversized", f"{found}, where at most {most} were expected")


def _opened(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unusable("oversized", _said(error)) from error
    except UnidentifiedImageError as error:
        # Pillow's own message holds a memory address, which would differ from run to run.
        raise Unusable("unreadable", f"no header of a {', '.join(FORMATS)} file in its {len(encoded)} bytes") from error
    except Exception as error:
        raise _undecodable(error) from error


def _check_header(image: Image.Image, format: ImageFormat) -> None:
    native = _NATIVE[format.channels]
    width, height = image.size
    if width * height == 0:
        raise Unusable("empty", f"{height}x{width} pixels, where at least 1x1 was expected")
    if width * height > format.max_pixels:
        raise Unusable("oversized", f"{height}x{width} pixels, where at most {format.max_pixels} in all were expected")
    if image.mode in _UNKNOWN_RANGE:
        raise Unusable("wrong_mode", f"mode {image.mode}, whose values have no known range, where {native} was expected")
    if image.mode != native and image.mode not in format.convert:
        expected = " or ".join(dict.fromkeys([native, *format.convert]))
        raise Unusable("wrong_mode", f"mode {image.mode}, where {expected} was expected")
    if sorted(image.size) != sorted((format.width, format.height)):  # its sides may yet be swapped by an EXIF orientation
        _check_size(image, format)


def _check_size(image: Image.Image, format: ImageFormat) -> None:
    if not format.resize and image.size != (format.width, format.height):
        raise Unusable("wrong_size", f"{image.height}x{image.width} (height x width), where {format.height}x{format.width} was expected")


def _upright(image: Image.Image) -> Image.Image:
    """A copy with decoded pixels, turned as its EXIF orientation asks."""
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise _undecodable(error) from error


def _converted(image: Image.Image, native: str) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip everything above 255 to white
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    try:
        return image if image.mode == native else image.convert(native)
    except ValueError as error:
        raise Unusable("wrong_mode", f"mode {image.mode}, which cannot be converted to {native}") from error


def _channels_first(image: Image.Image) -> npt.NDArray[np.uint8]:
    pixels = np.array(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def _undecodable(error: Exception) -> Unusable:
    """Pillow's decoders raise nearly any exception on a damaged file; a broken image must stop nothing."""
    cut_short = isinstance(error, EOFError) or _CUT_SHORT.search(str(error)) is not None
    return Unusable("truncated" if cut_short else "unreadable", _said(error))


def _said(error: Exception) -> str:
    said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    return f"{said or type(error).__name__}"[:200]


@contextmanager
def _silent_pillow() -> Iterator[None]:
    """Without Pillow's warnings (of corrupt EXIF, of large images): what matters of them is a reason here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
