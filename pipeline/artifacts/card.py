"""The card of an adversarial data set: what a person who is handed the folder should know, and how tools open it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.artifacts.classifiers import CONFIG, WEIGHTS
from pipeline.attacks.registry import family

if TYPE_CHECKING:
    from pipeline.artifacts.adversarial import Contents
    from pipeline.artifacts.images import ImageSet
    from pipeline.artifacts.manifest import Artifact
    from pipeline.attacks.base import AttackOptions
    from pipeline.params.attacks import GenerationParams

COLUMNS = {
    "id": "the image's id, from the pixels of its clean self; the same in every data set made of the same images",
    "label": "the true class",
    "clean_predicted": "the class that the classifier gives the clean image",
    "predicted": "the class that the classifier gives the image as it is stored here",
    "success": "the classifier is right on the clean image and wrong on the stored one",
    "skipped": "the classifier is wrong on the clean image, which was therefore not attacked and is stored as it was",
    "target": "the class number that the attack aimed at; -1 where it aimed at none",
    "target_reached": "`predicted` is `target`",
    "linf": "the largest change of a pixel, in pixel units (1 is the range from black to white)",
    "l2": "the Euclidean norm of the change over all pixels and channels, in pixel units",
    "steps": "gradient steps that the attack took, or queries of one without gradients",
    "image": "the stored image as a PNG file, `{bytes, path}`",
}
"""Column to what it means."""


@dataclass(frozen=True)
class Origin:
    """Where an adversarial data set comes from.

    Attributes:
        name: the attack's name in the params.
        about: the attack family's own description: the paper, the equation, the guarantees.
        options: the attack's options.
        generation: how data sets are made, whatever the attack; ``eight_bit`` says whether bytes are stored, or floats.
        network: the attacked classifier's architecture, or the factory that makes it.
        weights: the SHA-256 of its weights.
        class_names: in label order.
        shape: of an image, (C, H, W).
    """

    name: str
    about: str
    options: Mapping[str, Any]
    generation: Mapping[str, Any]
    network: str
    weights: str
    class_names: Sequence[str]
    shape: tuple[int, int, int]


def origin_of(name: str, options: "AttackOptions", generation: "GenerationParams", images: "ImageSet", classifier: "Artifact") -> Origin:
    """Where the data set of attack ``name`` on these images and this classifier comes from."""
    config, format = classifier.json(CONFIG), images.format
    return Origin(
        name=name,
        about=getdoc(family(options.family)) or "",
        options=options.model_dump(mode="json"),
        generation=generation.model_dump(mode="json"),
        network=config["architecture"] or config["factory"],
        weights=classifier.sha256(WEIGHTS),
        class_names=images.class_names,
        shape=(format.channels, format.height, format.width),
    )


def render_card(origin: Origin, contents: "Contents") -> str:
    """The card in Markdown, with the front matter by which the Hub's tools find the shards of each split."""
    environment = Environment(  # Markdown, not HTML: nothing to escape
        loader=PackageLoader("pipeline.artifacts"), autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"json": _json, "share": _share, "number": _number}
    eight_bit = origin.generation["eight_bit"]
    return environment.get_template("adversarial.md.j2").render(
        origin=origin,
        contents=contents,
        eight_bit=eight_bit,
        columns={name: meaning for name, meaning in COLUMNS.items() if eight_bit or name != "image"},
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
