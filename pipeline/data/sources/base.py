"""What every data source gives: encoded images with a label, one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import DataError

MOST_BYTES = 2**28
"""No source reads more of one file than this (and one byte, by which it shows): a stray archive must not fill the memory."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image as the source holds it, neither decoded nor checked."""

    key: str
    """Where it is, for people: a path, or a file and its row; valid Unicode."""
    encoded: bytes
    """The image file's bytes; empty where there are none."""
    label: int
    """Index into the source's ``class_names``."""
    origin: str
    """Which part of the source it belongs to, such as ``train``."""
    problem: str | None = None
    """Why the bytes could not be read, where they could not."""


class Source(Protocol):
    """Iterates over its images in an order that depends on the data alone; may be iterated more than once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names; a label is an index into them. At least two."""

    def __len__(self) -> int:
        """How many images an iteration gives."""

    def __iter__(self) -> Iterator[RawImage]:
        """The images, origin by origin."""


def require_classes(where: str, names: Sequence[str]) -> None:
    """Raises DataError where there are fewer than two classes."""
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no class"
        raise DataError(f"{where}: holds {found}, where at least 2 classes were expected.")
