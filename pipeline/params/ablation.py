"""``ablation``: the detector that ``tune`` searches, with one thing changed at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ValidationError

from pipeline.params.base import Name, Section
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.params.messages import sentences

T = TypeVar("T", FingerprintParams, SelectionParams, CommitteeDetectorParams)
Changes = Mapping[str, Any]
"""Dotted key to its value: a key of ``fingerprints`` or ``selection``, or one of the detector's own, under ``detector``. A mapping
changes the entries that it names, where there is a mapping already."""
Sections = tuple[FingerprintParams, SelectionParams, CommitteeDetectorParams]
UNCHANGED = "unchanged"
"""The design as it is, beside which every variant is measured."""
_ROOTS = ("fingerprints", "selection", "detector")


def _changing(variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    if UNCHANGED in variants:
        raise ValueError(f"{UNCHANGED!r} is the design as it is, where another name was expected")
    if idle := [name for name, changes in variants.items() if not changes]:
        raise ValueError(f"{idle} change nothing, where at least one key was expected")
    return variants


class AblationParams(Section):
    """What is changed, measured on ``tune`` as ``tune`` says (its detector, its looks and draws, the family that it holds out)."""

    variants: Annotated[dict[Name, dict[str, Any]], AfterValidator(_changing)]
    """Name to what it changes (see ``Changes``)."""


def varied(sections: Sections, changes: Changes) -> Sections:
    """The sections with some changes.

    Raises:
        ValueError: a key is unknown, or its value is not valid.
    """
    plain = [section.model_dump() for section in sections]
    for key, value in changes.items():
        root, _, field = key.partition(".")
        values = plain[_ROOTS.index(root)] if root in _ROOTS else {}
        if field not in values:
            raise ValueError(f"{key!r} is no key, where one of {', '.join(_ROOTS)} with one of its own behind a dot was expected")
        merged = isinstance(value, Mapping) and isinstance(values[field], Mapping)
        values[field] = {**values[field], **value} if merged else value
    fingerprints, selection, detector = sections
    return _valid(fingerprints, plain[0], "fingerprints"), _valid(selection, plain[1], "selection"), _valid(detector, plain[2], "detector")


def _valid(section: T, values: dict[str, Any], root: str) -> T:
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(said.removesuffix(".") for said in sentences(Path(root), values, error))) from error
