"""From a source to the images that the pipeline uses: decoded, identified, split; and what was left out, with the reason."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.data.decode import Unusable, decode, standard_bytes
from pipeline.data.identity import assign_split, image_id
from pipeline.data.sources.base import RawImage, Source
from pipeline.errors import DataError
from pipeline.params.data import DataParams, ImageFormat
from pipeline.params.splits import SPLITS, SplitParams

_REPEATED = ("duplicate", "in_two_splits")
"""Reasons that lose no image: another copy of it stays."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image that the pipeline uses."""

    id: str
    """32 hex characters, from its pixels."""
    label: int
    split: str
    origin: str
    key: str
    """Where the source holds it, for people."""
    encoded: bytes
    """An image file that decodes to exactly the prepared pixels."""
    extension: str
    """Of that file, without a dot."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that was left out.

    ``reason`` is one of ``pipeline.data.decode.Reason``, or ``duplicate``, ``conflicting_labels`` or ``in_two_splits``.
    """

    key: str
    origin: str
    label: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a source's images: each is either among ``images`` (sorted by id) or ``quarantined``."""

    images: list[PreparedImage]
    quarantined: list[Quarantined]
    notes: list[str]
    """What a person should know, a sentence each."""
    class_names: tuple[str, ...]


def prepare_images(source: Source, data: DataParams, splits: SplitParams, advance: Callable[[int], None]) -> Prepared:
    """Decodes, identifies and splits a source's images.

    Of several copies of an image one is used. Copies under two labels are all quarantined (``conflicting_labels``).
    Otherwise the first copy in the earliest split (train before fit before tune before calibrate before test) stays, so
    that an image that was seen never counts as unseen; its copies are quarantined as ``duplicate``, or, where their
    origin would have put them in another split, as ``in_two_splits``.

    Args:
        source: where the images come from.
        data: their format, and the largest share of them that may be unusable (duplicates are not unusable).
        splits: the fractions of each origin.
        advance: called with the number of images read since its last call.

    Returns:
        The images sorted by id, whatever their order in the source.

    Raises:
        DataError: an origin without fractions, no image, too many unusable ones, or fewer than two classes left.
    """
    copies: dict[str, list[PreparedImage]] = {}
    quarantined: list[Quarantined] = []
    for raw in source:
        try:
            image = _prepare(raw, data.image, splits)
            copies.setdefault(image.id, []).append(image)
        except Unusable as problem:
            quarantined.append(Quarantined(raw.key, raw.origin, raw.label, problem.reason, problem.detail))
        advance(1)
    images, repeated, notes = _settle(copies, source.class_names)
    quarantined += repeated
    _check_quarantine(quarantined, len(images) + len(quarantined), data.max_quarantined)
    notes += _check_classes(images, source.class_names)
    return Prepared(sorted(images, key=lambda image: image.id), quarantined, notes, source.class_names)


def _prepare(raw: RawImage, format: ImageFormat, splits: SplitParams) -> PreparedImage:
    if raw.origin not in splits.origins:
        raise DataError(
            f"splits.origins: {raw.origin!r}, the origin of {raw.key}, is none of {sorted(splits.origins)}, where one was expected."
        )
    if raw.problem is not None:
        raise Unusable("unreadable", raw.problem)
    pixels = decode(raw.encoded, format)
    identity = image_id(pixels)
    split = assign_split(identity, splits.split_seed, splits.origins[raw.origin])
    encoded, extension = standard_bytes(raw.encoded, pixels, format)
    return PreparedImage(identity, raw.label, split, raw.origin, raw.key, encoded, extension)


def _settle(copies: dict[str, list[PreparedImage]], class_names: Sequence[str]) -> tuple[list[PreparedImage], list[Quarantined], list[str]]:
    """Which copy of each image stays, what becomes of the others, and what to say of it."""
    images: list[PreparedImage] = []
    conflicting: list[list[Quarantined]] = []
    repeated: list[Quarantined] = []
    for group in copies.values():
        if len({image.label for image in group}) > 1:
            conflicting.append([_conflict(image, group, class_names) for image in group])
            continue
        kept = min(group, key=lambda image: SPLITS.index(image.split))  # the first of them, where several share the split
        images.append(kept)
        repeated += [_repetition(image, kept) for image in group if image is not kept]
    notes = _notes(conflicting, repeated)
    return images, [*(copy for group in conflicting for copy in group), *repeated], notes


def _conflict(image: PreparedImage, group: list[PreparedImage], class_names: Sequence[str]) -> Quarantined:
    other = next(copy for copy in group if copy.label != image.label)
    detail = f"{class_names[image.label]!r} here, and the same pixels are {class_names[other.label]!r} in {other.key} ({other.origin})"
    return Quarantined(image.key, image.origin, image.label, "conflicting_labels", detail)


def _repetition(image: PreparedImage, kept: PreparedImage) -> Quarantined:
    detail = f"the same pixels as {kept.key} ({kept.origin})"
    if image.split == kept.split:
        return Quarantined(image.key, image.origin, image.label, "duplicate", detail)
    detail += f", which is in {kept.split}; this would be in {image.split}"
    return Quarantined(image.key, image.origin, image.label, "in_two_splits", detail)


def _notes(conflicting: list[list[Quarantined]], repeated: list[Quarantined]) -> list[str]:
    notes = []
    if conflicting:
        first = conflicting[0][0]
        notes.append(
            f"{len(conflicting)} of the images occur under two labels or more, so all {sum(map(len, conflicting))} copies of them "
            f"were quarantined; the first: {first.key} ({first.origin}) is {first.detail}."
        )
    if doubled := [copy for copy in repeated if copy.reason == "in_two_splits"]:
        first = doubled[0]
        notes.append(
            f"{len(doubled)} images were copies that their origin would have put into a second split; the copy in the earlier split "
            f"was kept, so that no seen image counts as unseen; the first: {first.key} ({first.origin}) has {first.detail}."
        )
    return notes


def _check_quarantine(quarantined: list[Quarantined], total: int, most: float) -> None:
    if not total:
        raise DataError("data.source: gave no image, where at least one a class was expected.")
    unusable = [image for image in quarantined if image.reason not in _REPEATED]
    if len(unusable) > most * total:
        counts = Counter(image.reason for image in unusable)
        said = ", ".join(f"{counts[reason]} {reason}" for reason in sorted(counts))
        first = unusable[0]
        raise DataError(
            f"data.source: {len(unusable)} of its {total} images are unusable ({said}; the first is {first.key}: {first.detail}), "
            f"where a share of at most {most:g} was expected (data.max_quarantined)."
        )


def _check_classes(images: list[PreparedImage], class_names: Sequence[str]) -> list[str]:
    """A note on each class without an image."""
    there = {image.label for image in images}
    if len(there) < 2:
        left = [class_names[label] for label in sorted(there)]
        raise DataError(f"data.source: the usable images are of the classes {left}, where at least 2 of {list(class_names)} were expected.")
    return [f"The class {name!r} has no usable image." for label, name in enumerate(class_names) if label not in there]
