"""What does every attack of ours do to a classifier, by way of the product, bytes stored?

The whole table of attacks on the same images: success, norms, steps and images per second. No peers: ``quality.py`` and
``attacks.py`` have those. ``python benchmarks/matrix.py --help`` has the options.
"""

import argparse
import sys
import time
from fractions import Fraction

from budget import Budget
from common import Entry, Row, add_output_options, conditions, figure, keep, one_thread, publish, wilson
from judge import BATCH
from ours import options, stepping_models
from subject import Subject, add_subject_options, subject
from torch import nn

from pipeline.attacks.generate import AttackedImages, attack_images
from pipeline.attacks.geometry import NormName

QUESTION = "What does every attack do to the classifier, as stored in 8 bits?"
BALL = ("fgsm", "bim", "pgd", "pgd_targeted", "mim", "apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square", "autoattack")
MINIMAL = ("deepfool_l2", "deepfool_linf", "carlini_wagner")
CASES: dict[str, tuple[NormName, str]] = {
    **{name: ("linf", name) for name in (*BALL, "confidence_ifgsm", *MINIMAL)},
    **{f"{name}_l2": ("l2", name) for name in BALL},
}


def main() -> None:
    """Runs the chosen attacks and publishes their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_subject_options(parser)
    add_output_options(parser)
    parser.add_argument("--only", nargs="+", choices=CASES, help="the attacks to run; all where it is left out")
    parser.add_argument("--count", type=int, help="images; 2,000, or as many as there are, where it is left out")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the steps")
    chosen = parser.parse_args()
    one_thread()
    found = subject(chosen, chosen.count or 2000, fewer=chosen.count is None)
    stepping = stepping_models(found, chosen.precision)
    caption, entries = _caption(found, chosen), list[Entry]()
    for case in chosen.only or CASES:
        entries += _run(case, found, stepping)
        keep("matrix", caption, entries, chosen)
    publish("matrix", caption, entries, chosen)


def _caption(found: Subject, chosen: argparse.Namespace) -> str:
    return f"""{QUESTION} {found.about}; batches of {BATCH}, one after the other.
Linf at {Fraction(8, 255)}, ``_l2`` at {RADIUS["l2"]}; PGD, BIM and MIM: 20 steps of a quarter of the radius. APGD and FAB: 100 steps, 9
target classes. Square: 5000 queries. AutoAttack: its standard four. DeepFool: 50 steps. Carlini-Wagner: 5 constants from 0.1, 100 steps
each. Confidence-targeted IFGSM: steps of 1/255 until it is 70 % sure, at most 100. Steps on the folded, channels-last model in
{chosen.precision}, verdicts by the model itself. {conditions()}.

Success: the share of these images that the model gets wrong as stored, with Wilson's 95 % interval in the note; norms are
means over those, steps over all. Images/s include checking and rounding."""


RADIUS: dict[NormName, float] = {"linf": 8 / 255, "l2": 0.5}


def _budget(name: NormName) -> Budget:
    return Budget(
        norm=name,
        epsilon=RADIUS[name],
        steps=20,
        run_steps=100,
        queries=5000,
        deepfool_steps=50,
        overshoot=0.02,
        searches=5,
        search_steps=100,
        learning_rate=0.01,
        constant=0.1,
    )


def _run(case: str, found: Subject, stepping: tuple[nn.Module, ...]) -> list[Entry]:
    ball, attack = CASES[case]
    began = time.perf_counter()
    result = attack_images(
        found.model,
        found.images,
        found.labels,
        found.ids,
        case,
        options(attack, _budget(ball)),
        seed=0,
        batch_size=BATCH,
        eight_bit=True,
        device="cpu",
        steps_fns=stepping,
    )
    taken = time.perf_counter() - began
    print(f"{case}: {taken:.1f} s, {result.success.mean():.4f} succeeded", file=sys.stderr)
    return _entries(case, result, len(found.labels) / taken)


def _entries(case: str, result: AttackedImages, rate: float) -> list[Entry]:
    won, count = result.success, len(result.success)
    low, high = wilson(int(won.sum()), count)
    shares = f"{int(won.sum())} of {count}, {low:.3f}-{high:.3f}; {figure(float(result.steps.mean()))} steps"
    values = {"success": float(won.mean()), "images/s": rate}
    if won.any():
        values |= {"mean L2": float(result.l2[won].mean()), "mean Linf": float(result.linf[won].mean())}
    rows = [Row(QUESTION, case, value, None, unit, None, None, None) for unit, value in values.items()]
    return [Entry(row, shares if row.unit == "success" else "") for row in rows]


if __name__ == "__main__":
    main()
