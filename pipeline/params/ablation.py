"""``ablation``: a detector with one thing changed at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.params.base import Name, Section
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.params.messages import sentences
from pipeline.params.tune import TrialParams

T = TypeVar("T", FingerprintParams, SelectionParams, CommitteeDetectorParams)
Changes = Mapping[str, Any]
"""Dotted key to its value: a key of ``fingerprints`` or ``selection``, or one of the detector's own, under ``detector``. A mapping
changes the entries that it names, where there is a mapping already."""
Sections = tuple[FingerprintParams, SelectionParams, CommitteeDetectorParams]
UNCHANGED = "unchanged"
"""The design as it is, beside which every variant is measured."""
_ROOTS: dict[str, type[Section]] = {"fingerprints": FingerprintParams, "selection": SelectionParams, "detector": CommitteeDetectorParams}
_FIXED = ("fingerprints.fit_attacks", "detector.kind")
"""What no variant changes: the attacks that all are measured on, and what a design is."""


def _known(variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Refuses what no detector could have; what only does not go with the design as it is now is for the stage to say."""
    if UNCHANGED in variants:
        raise ValueError(f"{UNCHANGED!r} is the design as it is, where another name was expected")
    if idle := [name for name, changes in variants.items() if not changes]:
        raise ValueError(f"{idle} change nothing, where at least one key was expected")
    for name, changes in variants.items():
        for key, value in changes.items():
            root, _, field = key.partition(".")
            fields = _ROOTS[root].model_fields if root in _ROOTS else {}
            if field not in fields or key in _FIXED:
                raise ValueError(
                    f"{name}: {key!r} is no key that a variant changes, where one of {', '.join(_ROOTS)} with one of its own behind a dot "
                    f"was expected ({' and '.join(_FIXED)} stay)"
                )
            info = fields[field]
            kind: Any = Annotated[info.annotation, Field(), *info.metadata]
            try:
                TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
            except ValidationError as error:
                said = "; ".join(line.removesuffix(".") for line in sentences(Path(f"{name}: {key}"), value, error))
                raise ValueError(said) from error
    return variants


class AblationParams(TrialParams):
    """What is changed in the detector, and how each variant is measured, as a search measures its trials."""

    variants: Annotated[dict[Name, dict[str, Any]], AfterValidator(_known)]
    """Name to what it changes (see ``Changes``)."""


def varied(sections: Sections, changes: Changes) -> Sections:
    """The sections with some changes, whose keys are known.

    Raises:
        ValueError: the values do not go with one another, or a mapping names an entry that there is not.
    """
    plain = dict(zip(_ROOTS, (section.model_dump() for section in sections), strict=True))
    for key, value in changes.items():
        root, _, field = key.partition(".")
        now = plain[root][field]
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            if missing := [entry for entry in value if entry not in now]:
                raise ValueError(f"{key}: {missing} are not there, where some of {list(now)} were expected")
            value = {**now, **value}
        plain[root][field] = value
    fingerprints, selection, detector = sections
    return (
        _valid(fingerprints, plain["fingerprints"], "fingerprints"),
        _valid(selection, plain["selection"], "selection"),
        _valid(detector, plain["detector"], "detector"),
    )


def _valid(section: T, values: dict[str, Any], root: str) -> T:
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(said.removesuffix(".") for said in sentences(Path(root), values, error))) from error
