"""The guard's card says which draws the guard uses, and what that means."""

from typing import Any

import pytest
from fake_report_run import params, report_inputs

from pipeline.evaluation.card import render_card

CONFIG = {"architecture": "cifar_resnet20", "factory": None, "factory_version": None}


SINGLE = {"kind": "fingerprint", "statistic": "likelihood_ratio", "draw": 20}
JOINT = {
    "kind": "committee",
    "layer_weights": None,
    "draw": 60,
    "committees": 50,
    "directions": 20,
    "shrinkage": 0.1,
    "pooling": 0.0,
    "seed": 0,
}


def _card(draws: str, detector: dict[str, Any]) -> str:
    own: dict[str, Any] = params()
    own |= {"publish": {**own["publish"], "draws": draws}, "activations": {"layers": {"logits": 10}}}
    own["detectors"] = {"likelihood_ratio": detector}
    return " ".join(render_card(report_inputs(params=own), CONFIG, "artifacts/guard").split())


@pytest.mark.parametrize(
    ("draws", "detector", "said", "unsaid"),
    [
        ("fresh", SINGLE, "every call draws 20 fingerprints for each image from the operating system's", "whorl key rotate"),
        ("keyed", SINGLE, "which 20 fingerprints an image meets follows from its pixels and a secret key", "from the operating system's"),
        ("fresh", JOINT, "every call draws one of 50 committees of 60 fingerprints, made beforehand, for each image", "draws 60"),
        ("keyed", JOINT, "which of 50 committees of 60 fingerprints, made beforehand, an image meets follows from", "which 60"),
    ],
)
def test_the_card_says_how_the_guard_draws(draws: str, detector: dict[str, Any], said: str, unsaid: str) -> None:
    card = _card(draws, detector)
    assert f"The draws are **{draws}**: {said}" in card and unsaid not in card
    assert f"`guard.json` | what images must be like, and which draws are used: {draws} |" in card
    assert "one changed pixel" in card and "limit how often one client may ask" in card
    assert ("| `committees.safetensors`, `calibration.safetensors`" in card) == (detector is JOINT)
