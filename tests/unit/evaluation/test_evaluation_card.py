"""The guard's card says which draws the guard uses, and what that means."""

from typing import Any

import pytest
from fake_report_run import params, report_inputs

from pipeline.evaluation.card import render_card

CONFIG = {"architecture": "cifar_resnet20", "factory": None, "factory_version": None}


def _card(draws: str) -> str:
    own: dict[str, Any] = params()
    own |= {"publish": {**own["publish"], "draws": draws}, "activations": {"layers": {"logits": 10}}}
    own["detectors"] = {"likelihood_ratio": {"kind": "fingerprint", "statistic": "likelihood_ratio", "draw": 20}}
    return " ".join(render_card(report_inputs(params=own), CONFIG, "artifacts/guard").split())


@pytest.mark.parametrize(
    ("draws", "said", "unsaid"),
    [
        ("fresh", "every call draws 20 fingerprints for each image from the operating system's", "whorl key rotate"),
        ("keyed", "which 20 fingerprints an image meets follows from its pixels and a secret key", "from the operating system's"),
    ],
)
def test_the_card_says_how_the_guard_draws(draws: str, said: str, unsaid: str) -> None:
    card = _card(draws)
    assert f"The draws are **{draws}**: {said}" in card and unsaid not in card
    assert f"`guard.json` | what images must be like, and which draws are used: {draws} |" in card
    assert "one changed pixel" in card and "limit how often one client may ask" in card
