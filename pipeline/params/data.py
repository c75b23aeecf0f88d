"""``data``: which images, how they are read, and what becomes of the bad ones."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Positive, Section, Sequence, Share


class DigitsSource(Section):
    """The 1,797 handwritten digits inside scikit-learn (8x8, grey). Its one origin is called ``digits``."""

    kind: Literal["digits"]


class ParquetSource(Section):
    """Parquet files in the layout of the Hugging Face Hub: a struct column ``{bytes, path}`` and an integer label."""

    kind: Literal["parquet"]
    files: dict[str, Sequence[str]]
    """Origin (such as ``train``) to the files or glob patterns that hold it, relative to the project."""
    image_column: str
    label_column: str
    limit: Positive | None
    """At most this many rows of each origin, from its start; null takes all."""


class FolderSource(Section):
    """A folder with a sub-folder per class, whose name is the class name."""

    kind: Literal["folder"]
    roots: dict[str, str]
    """Origin to its folder; every origin must hold the same classes."""


Source = Annotated[DigitsSource | ParquetSource | FolderSource, Field(discriminator="kind")]


Mode = Literal["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B"]
"""The Pillow modes that can be converted; ``I`` and ``F`` are none, since their values have no known range."""


class ImageFormat(Section):
    """The one format that every prepared image has."""

    channels: Literal[1, 3]
    height: Positive
    width: Positive
    resize: bool
    """Whether images of another size are scaled (shorter side, bicubic) and cropped at the centre, or quarantined."""
    convert: Sequence[Mode]
    """Pillow modes besides the one that ``channels`` implies (``L`` or ``RGB``) that are converted, not quarantined."""
    max_pixels: Positive
    """An image with more pixels than this (read from its header) is quarantined before it is decoded."""
    max_bytes: Positive


class DataParams(Section):
    """Which images, how they are read, and what becomes of the bad ones."""

    source: Source
    image: ImageFormat
    max_quarantined: Share
    """The run stops where a larger share of the source's images than this is unusable."""
    shard_size: Positive
    """The most images that a shard is planned to hold (shards are cut by the image's hash, so this holds on average)."""
