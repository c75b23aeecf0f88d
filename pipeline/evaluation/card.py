"""The guard's card: what a person who is handed the folder should know."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.report_rows import game_says
from pipeline.evaluation.studies import changed_sentence, transfer_sentence
from pipeline.evaluation.verdict import verdict


def _limits(inputs: ReportInputs) -> Iterator[str]:
    """What the guard is weakest against, of what the run studied: attacks that it never met, and clean images that were changed."""
    if inputs.transfer is not None:
        yield transfer_sentence(inputs.transfer, inputs.alpha)
    if inputs.redrawn is not None and (said := changed_sentence(inputs.redrawn, inputs.alpha)):
        yield said


def render_card(inputs: ReportInputs, config: Mapping[str, Any], folder: str) -> str:
    """The card in Markdown.

    Args:
        inputs: what the report prints.
        config: the classifier's.
        folder: where the guard is, for the example.
    """
    environment = Environment(  # Markdown, not HTML: nothing to escape
        loader=PackageLoader("pipeline.evaluation"), autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    attacks = [str(row["attack"]) for row in inputs.attacks]
    confidence = float(inputs.params["evaluation"]["confidence"])
    settings = inputs.params["detectors"][inputs.guard_detector]
    return environment.get_template("card.md.j2").render(
        verdict=verdict(inputs.metrics, inputs.guard_detector, attacks, alpha=inputs.alpha, confidence=confidence, promise=inputs.promise),
        game=game_says(inputs),
        limits=[*_limits(inputs)],
        promise=inputs.promise,
        architecture=config["architecture"] or config["factory"],
        factory=config["factory"],
        factory_version=config["factory_version"],
        class_names=inputs.class_names,
        layers=list(inputs.params["activations"]["layers"]),
        detector=inputs.guard_detector,
        draw=settings["draw"],
        committees=settings.get("committees"),
        draws=inputs.params["publish"]["draws"],
        alpha=inputs.alpha,
        folder=folder,
    )
