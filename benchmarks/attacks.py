"""Is an attack of ours faster than the peers' at the same budget, and no weaker?

Ours, torchattacks, foolbox and the Adversarial Robustness Toolbox attack the same images of the same classifier in one
process, on one thread, taking turns. ``python benchmarks/attacks.py --help`` has the options; README.md how to read it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from budget import FIXED_CONSTANT, Attack, Budget
from common import (
    Entry,
    Timed,
    add_output_options,
    against,
    alternate,
    conditions,
    keep,
    mean_ratio,
    means,
    one_thread,
    publish,
    row,
    share_ratio,
    speed_ratio,
)
from judge import UNITS, Verdicts, judge, sizes_of_both
from ours import bare_attack, options, stepping_models
from peers import peers
from subject import Subject, add_subject_options, subject
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.geometry import NormName

QUESTION = "How many images a second does an attack take, at what quality?"
OURS, BARE = "ours", "bare forward and backward"


@dataclass(frozen=True)
class Case:
    """One line-up.

    Attributes:
        title: the attack and its settings, for the table.
        attack: its name in ``peers`` and ``ours``.
        batch: images.
        rounds: how often each engine runs, after its warm-up.
        steps: of PGD.
        norm: of the result's quality; None where every engine does the same steps.
        bare: also time as many bare forward and backward passes as the attack has steps.
        shared_model: the peers, too, are given our folded model: what is left is the loop.
    """

    title: str
    attack: str
    batch: int
    rounds: int
    steps: int
    norm: NormName | None
    bare: bool = False
    shared_model: bool = False


EPSILON = 8 / 255
CASES = {
    "pgd": Case("PGD-10 Linf 8/255", "pgd", 128, 15, 10, None, bare=True),
    "pgd_shared": Case("PGD-10 Linf 8/255, peers on our folded model", "pgd", 128, 15, 10, None, shared_model=True),
    "pgd_targeted": Case("targeted PGD-100 Linf 8/255, ours stops on success", "pgd_targeted", 128, 7, 100, None),
    "deepfool": Case("DeepFool L2, 50 steps, overshoot 0.02", "deepfool_l2", 64, 7, 10, "l2"),
    "deepfool_linf": Case("DeepFool Linf, 50 steps, overshoot 0.02", "deepfool_linf", 64, 7, 10, "linf"),
    "carlini_wagner": Case("Carlini-Wagner L2, 5 constants from 0.1, 100 steps each", "carlini_wagner", 32, 7, 10, "l2"),
    "carlini_wagner_fixed": Case("Carlini-Wagner L2, constant 1, 100 steps", FIXED_CONSTANT, 64, 7, 10, "l2"),
}


def main() -> None:
    """Runs the chosen cases and publishes their table."""
    chosen = _options()
    one_thread()
    cases = [CASES[name] for name in chosen.only or CASES]
    images = subject(chosen, chosen.batch or max(case.batch for case in cases))
    caption, entries = _caption(images, chosen), list[Entry]()
    for case in cases:
        entries += compare(case, images, chosen)
        keep("attacks", caption, entries, chosen)
    publish("attacks", caption, entries, chosen)


def _caption(images: Subject, chosen: argparse.Namespace) -> str:
    return f"""{QUESTION} {images.about}; attacked in one batch.
Ours steps on the folded, channels-last model in {chosen.precision}; the peers have the model as loaded (float32).
{conditions()}.

Ratio: ours over the peer's. Of images/s it is the median over rounds of the paired ratio, with the 95 % interval of that median by
order statistics (below 6 rounds its extremes; none for a peer that takes more than {chosen.patience:g} times as long as we do: of that its
first run alone counts). Success is judged by the model as loaded; its ratio's interval is a posterior's under Jeffreys' prior. Norms
are means over the images that both fool, with a bootstrap over images."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_subject_options(parser)
    add_output_options(parser)
    parser.add_argument("--only", nargs="+", choices=CASES, help="the cases to run; all where it is left out")
    parser.add_argument("--batch", type=int, help="images, in place of each case's own number")
    parser.add_argument("--rounds", type=int, help="timed runs, in place of each case's own number")
    parser.add_argument("--patience", type=float, default=12, help="who takes more than this many times as long as we do is timed once")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PEER", help="who takes too long, such as foolbox")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of our steps")
    return parser.parse_args()


def compare(case: Case, found: Subject, chosen: argparse.Namespace) -> list[Entry]:
    """Times a case's engines and compares each with ours."""
    part = found.part(chosen.batch or case.batch)
    images, labels = part.floats(), torch.from_numpy(part.labels)
    targets = (labels + 1 + torch.arange(len(labels)) % (part.classes - 1)) % part.classes
    stepping = stepping_models(part, chosen.precision)
    contestants: dict[str, Callable[[], Tensor]] = {}
    for name, attack in _line_up(case, part, stepping, images, chosen.skip).items():
        contestants[name] = partial(_seeded, attack, images, labels, targets)
    timed = alternate(contestants, chosen.rounds or case.rounds, chosen.patience)
    print(f"{case.title}: " + ", ".join(f"{name} {np.median(run.seconds):.2f} s" for name, run in timed.items()), file=sys.stderr)
    bound: tuple[NormName, float] | None = None if case.norm else ("linf", EPSILON)
    verdicts = {name: judge(part.model, images, run.result, labels, targets, bound) for name, run in timed.items() if name != BARE}
    entries = [_speed(case, name, timed, len(labels)) for name in timed if name != OURS]
    for name in verdicts:
        if name != OURS:
            entries += _quality(case, name, verdicts)
    return entries


def _line_up(case: Case, part: Subject, stepping: tuple[nn.Module, ...], images: Tensor, skipped: Sequence[str]) -> dict[str, Attack]:
    """Engine to attack, ours first."""
    budget = Budget(
        norm="linf",
        epsilon=EPSILON,
        steps=case.steps,
        run_steps=100,
        queries=5000,
        deepfool_steps=50,
        overshoot=0.02,
        searches=5,
        search_steps=100,
        learning_rate=0.01,
        constant=0.1,
    )
    engines = {OURS: bare_attack(part, stepping, options(case.attack, budget))}
    if case.bare:
        engines[BARE] = _bare(stepping[0], case.steps)
    others = peers(stepping[-1] if case.shared_model else part.model, images, part.classes, budget)
    return engines | {name: attacks[case.attack] for name, attacks in others.items() if case.attack in attacks and name not in skipped}


def _seeded(attack: Attack, images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    torch.manual_seed(0)
    np.random.seed(0)  # ART draws from NumPy's global stream
    return attack(images, labels, targets).detach()


def _bare(model: nn.Module, steps: int) -> Attack:
    """What the steps of PGD cannot do without: a forward pass and a backward pass to the images each, on the model that we step on."""

    def passes(images: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
        slope = images
        for _ in range(steps):
            leaf = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        return slope

    return passes


def _speed(case: Case, name: str, timed: dict[str, Timed[Tensor]], count: int) -> Entry:
    ours, peer = timed[OURS].seconds, timed[name].seconds
    seconds = float(np.median(ours)), float(np.median(peer))
    rates = count / seconds[0], count / seconds[1]
    note = f"{seconds[0]:.2f} s and {seconds[1]:.2f} s a batch of {count}; runs: {len(peer)}"
    return Entry(row(QUESTION, _against(case, name), rates, "images/s", speed_ratio(ours, peer)), note)


def _quality(case: Case, name: str, verdicts: dict[str, Verdicts]) -> list[Entry]:
    """The shares of images that reached what was wanted, and, of a minimum-norm attack, the mean norms."""
    ours, peer = verdicts[OURS], verdicts[name]
    a, b = (ours.reached, peer.reached) if case.attack == "pgd_targeted" else (ours.fooled, peer.fooled)
    note = f"{(a & ~b).sum()} images by ours alone, {(~a & b).sum()} by the peer alone"
    entries = [Entry(row(QUESTION, _against(case, name), (float(a.mean()), float(b.mean())), "success", share_ratio(a, b)), note)]
    if case.norm is not None:
        sizes = sizes_of_both(ours, peer, case.norm)
        found = row(QUESTION, _against(case, name), means(*sizes), UNITS[case.norm], mean_ratio(*sizes))
        entries.append(Entry(found, f"{len(sizes[0])} images"))
    return entries


def _against(case: Case, name: str) -> str:
    return f"{case.title}: {name if name == BARE else against(name)}"


if __name__ == "__main__":
    main()
