"""Is any attack of ours weaker than a peer's at the same budget?

Every attack and every peer that has it attack the same images of the same classifier; all results are floats, and one judge
looks at them. ``python benchmarks/quality.py --help`` has the options; README.md how to read it.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from budget import FIXED_CONSTANT, Attack, Budget
from common import (
    Bools,
    Entry,
    Spread,
    add_output_options,
    against,
    conditions,
    figure,
    keep,
    mcnemar,
    mean_ratio,
    means,
    one_thread,
    publish,
    row,
    share_ratio,
    wilson,
)
from judge import BATCH, UNITS, Verdicts, judge, sizes_of_both
from ours import options, stepping_models
from peers import peers
from subject import Subject, add_subject_options, subject
from torch import nn

from pipeline.attacks.generate import attack_images, draw_targets
from pipeline.attacks.geometry import NormName
from pipeline.random import ImageRandom

QUESTION = "What share of images does an attack leave right, and how far does it move the others?"
BOUNDED = ("fgsm", "pgd", "pgd_targeted", "bim", "mim", "apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square", "autoattack")
MINIMAL: dict[str, NormName] = {"deepfool_l2": "l2", "deepfool_linf": "linf", "carlini_wagner": "l2", FIXED_CONSTANT: "l2"}
_ALL = (*BOUNDED, *MINIMAL)
BALLS = ("linf:8/255", "linf:1/255", "l2:0.25")
TARGETED = ("pgd_targeted",)
LEVEL = 0.05


@dataclass(frozen=True)
class Ball:
    """A bound, as ``--balls`` writes it: ``linf:8/255``."""

    norm: NormName
    epsilon: float
    text: str


def main() -> None:
    """Runs the chosen attacks in the chosen balls and publishes their table."""
    chosen = _options()
    one_thread()
    found = subject(chosen, chosen.count)
    stepping = stepping_models(found, chosen.precision)
    caption, entries = _caption(found, chosen), list[Entry]()
    pairs = [(attack, ball) for attack in chosen.only or _ALL for ball in (chosen.balls[:1] if attack in MINIMAL else chosen.balls)]
    for attack, ball in pairs:
        options(attack, _budget(ball, chosen))  # what is wrong with them is said now, not hours later
    for attack, ball in pairs:
        entries += compare(attack, ball, found, stepping, chosen)
        keep("quality", caption, entries, chosen)
    publish("quality", caption, entries, chosen)


def _caption(found: Subject, chosen: argparse.Namespace) -> str:
    return f"""{QUESTION} {found.about}; batches of {BATCH}.
Ours by way of the product, kept as floats, stepping on the folded, channels-last model in {chosen.precision}; the peers have the
model as loaded (float32). FGSM: one step. PGD, BIM and MIM: {chosen.steps} steps of a quarter of the radius, PGD from a random start.
APGD and FAB: {chosen.run_steps} steps. Square: {chosen.queries} queries. AutoAttack: its standard four with as many. DeepFool: 50
steps, overshoot 0.02. Carlini-Wagner: {chosen.searches} constants from 0.1 (fixed: the constant 1), {chosen.search_steps} steps each.
{conditions()}.

Ratio: ours over the peer's. Robust accuracy: the share of these images that the model as loaded still classifies correctly; a result
outside the bound or [0, 1] counts as correct, a margin under 1e-5 logits as crossed; of targeted PGD, which stops on success, the share
that is not classified as a class drawn for each image, the same for all. Its note has both Wilson intervals, the images
that one side alone fooled, McNemar's exact p, and who is stronger where p is below {LEVEL} (of many rows a few are by chance). Its
ratio's interval is a posterior's under Jeffreys' prior. Norms are means over the images that both fool, with a bootstrap over images.
Images/s are of one run, checks included."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_subject_options(parser)
    add_output_options(parser)
    parser.add_argument("--only", nargs="+", choices=_ALL, help="the attacks to run; all where it is left out")
    parser.add_argument("--balls", nargs="+", type=_ball, default=[_ball(text) for text in BALLS], metavar="NORM:SIZE", help="bounds")
    parser.add_argument("--count", type=int, default=500, help="images")
    parser.add_argument("--steps", type=int, default=20, help="of PGD, BIM and MIM")
    parser.add_argument("--run-steps", type=int, default=100, help="of a run of APGD and FAB")
    parser.add_argument("--queries", type=int, default=5000, help="of Square")
    parser.add_argument("--searches", type=int, default=5, help="constants that Carlini-Wagner tries")
    parser.add_argument("--search-steps", type=int, default=100, help="of Carlini-Wagner, for each constant")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of our steps")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PEER:ATTACK", help="what takes too long, such as foolbox:carlini_wagner")
    return parser.parse_args()


def _ball(text: str) -> Ball:
    name, _, size = text.partition(":")
    top, _, bottom = size.partition("/")
    try:
        epsilon = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}, where a norm and a radius such as linf:8/255 were expected") from error
    norms: dict[str, NormName] = {"linf": "linf", "l2": "l2"}
    if name not in norms:
        raise argparse.ArgumentTypeError(f"{text!r}, where linf or l2 was expected before the colon")
    return Ball(norms[name], epsilon, text)


def compare(attack: str, ball: Ball, found: Subject, stepping: tuple[nn.Module, ...], chosen: argparse.Namespace) -> list[Entry]:
    """One attack in one ball: ours against every peer that has it."""
    budget = _budget(ball, chosen)
    title = attack if attack in MINIMAL else f"{attack} {ball.text}"
    engines = peers(found.model, found.floats()[:BATCH], found.classes, budget)
    rivals = {name: has[attack] for name, has in engines.items() if attack in has and f"{name}:{attack}" not in chosen.skip}
    targets = wanted(attack, found)
    ours = _judged(title, "ours", attack, ball, found, targets, partial(_ours, attack, budget, found, stepping))
    entries = []
    for name, rival in rivals.items():
        peer = _judged(title, name, attack, ball, found, targets, partial(_theirs, rival, found, targets))
        entries += _entries(attack, ball, f"{title}: {against(name)}", ours, peer)
    return entries


def _budget(ball: Ball, chosen: argparse.Namespace) -> Budget:
    return Budget(
        norm=ball.norm,
        epsilon=ball.epsilon,
        steps=chosen.steps,
        run_steps=chosen.run_steps,
        queries=chosen.queries,
        deepfool_steps=50,
        overshoot=0.02,
        searches=chosen.searches,
        search_steps=chosen.search_steps,
        learning_rate=0.01,
        constant=0.1,
    )


def wanted(attack: str, found: Subject) -> torch.Tensor:
    """The class that each image is to be given, (n,): those that our generator draws, or, untargeted, the true ones."""
    if attack not in TARGETED:
        return torch.from_numpy(found.labels)
    return torch.from_numpy(draw_targets(ImageRandom(0, f"attack/{attack}", found.ids), found.labels, found.classes))


@dataclass(frozen=True)
class Judged:
    """What came of an engine's attack, and at what rate."""

    verdicts: Verdicts
    won: Bools
    """(n,) fooled; of a targeted attack, as it wanted."""
    rate: float
    """Images a second, of one run, checks included."""


def _judged(title: str, name: str, attack: str, ball: Ball, found: Subject, targets: torch.Tensor, run: partial[torch.Tensor]) -> Judged:
    began = time.perf_counter()
    attacked = run()
    taken = time.perf_counter() - began
    bound = None if attack in MINIMAL else (ball.norm, ball.epsilon)
    labels = torch.from_numpy(found.labels)
    verdicts = judge(found.model, found.floats(), attacked, labels, targets, bound)
    won = verdicts.reached if attack in TARGETED else verdicts.fooled
    print(f"{title}, {name}: {taken:.1f} s, {1 - won.mean():.3f} withstood it", file=sys.stderr)
    return Judged(verdicts, won, len(labels) / taken)


def _ours(attack: str, budget: Budget, found: Subject, stepping: tuple[nn.Module, ...]) -> torch.Tensor:
    result = attack_images(
        found.model,
        found.images,
        found.labels,
        found.ids,
        attack,
        options(attack, budget),
        seed=0,
        batch_size=BATCH,
        eight_bit=False,
        device="cpu",
        advance=lambda _: None,
        steps_fns=stepping,
    )
    return torch.from_numpy(result.images)


def _theirs(attack: Attack, found: Subject, targets: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    np.random.seed(0)  # ART draws from NumPy's global stream
    images, labels = found.floats(), torch.from_numpy(found.labels)
    batches = [slice(first, first + BATCH) for first in range(0, len(labels), BATCH)]
    return torch.cat([attack(images[part], labels[part], targets[part]).detach() for part in batches])


def _entries(attack: str, ball: Ball, case: str, ours: Judged, peer: Judged) -> list[Entry]:
    """The row of robust accuracies and that of norms."""
    left = ~ours.won, ~peer.won
    shares = float(left[0].mean()), float(left[1].mean())
    rates = f"{figure(ours.rate)} and {figure(peer.rate)} images/s"
    norm = MINIMAL.get(attack, ball.norm if attack == "fab_t" else "l2")
    sizes = sizes_of_both(ours.verdicts, peer.verdicts, norm)
    spread = mean_ratio(*sizes)
    reading = _reading(spread) if attack in MINIMAL or attack == "fab_t" else "no aim of the attack"
    return [
        Entry(row(QUESTION, case, shares, "robust accuracy", share_ratio(*left)), f"{_against_noise(*left)}; {rates}"),
        Entry(row(QUESTION, case, means(*sizes), UNITS[norm], spread), f"{len(sizes[0])} images; {reading}"),
    ]


def _against_noise(ours: Bools, peer: Bools) -> str:
    """The two shares of images still right as a sentence about which is lower."""
    chance = mcnemar(ours, peer)
    intervals = " and ".join("{:.3f}-{:.3f}".format(*wilson(int(side.sum()), len(side))) for side in (ours, peer))
    alone, other = int((peer & ~ours).sum()), int((ours & ~peer).sum())
    reading = "within noise" if chance >= LEVEL else "ours is STRONGER" if alone > other else "ours is WEAKER"
    return f"{intervals}; fooled by ours alone {alone}, by the peer alone {other}, p {chance:.2g}: {reading}"


def _reading(spread: Spread) -> str:
    if spread.low is None or spread.high is None:
        return "too few to tell"
    return "ours is SMALLER" if spread.high < 1 else "ours is LARGER" if spread.low > 1 else "within noise"


if __name__ == "__main__":
    main()
