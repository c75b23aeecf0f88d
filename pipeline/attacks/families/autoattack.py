"""AutoAttack's standard ensemble: four attacks that fail for different reasons, each on what those before it left.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020, section 5, in the order of the authors' code: APGD on the cross-entropy, APGD on the targeted difference-of-logits
ratio (DLR), targeted FAB, and Square; none is targeted at a class of our choosing. The paper's numbers are 100 steps, 9
target classes (all wrong ones where there are fewer) and 5,000 queries. What "standard" fixes is in this module: one run of
each attack (``RESTARTS``) per class, APGD's ``RHO`` = 0.75, FAB's ``ALPHA_MAX`` = 0.1, ``ETA`` = 1.05 and ``BETA`` = 0.9,
Square's ``P_INIT`` = 0.8 and ``SCHEDULE`` = 2. APGD stops an example at its first success, which changes no verdict.

Guarantees: within epsilon of the image (pixel units) and in [0, 1], up to float32 rounding; an example is passed on only
while the model is right about the very image that would be returned, so its robust accuracy is at most that of any
member on the same draws (of what the attack itself sees: in an L2 ball so small that rounding fills it, storing bytes takes
more back from an attack that stops at success than from one that goes on; see ``generate``). Each member's draws are its
own and depend on the image alone. ``steps`` are summed over the members: gradient steps of the first three, queries of
Square. One further forward pass of one image counts the classes.
"""

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, Family, LogitFn, Outcome
from pipeline.attacks.families import apgd, fab, square
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import on_survivors
from pipeline.attacks.objectives import misclassified
from pipeline.errors import ClassifierError
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom

RESTARTS = 1
"""Runs of APGD and FAB, for each class where they aim at one."""
RHO = 0.75
"""APGD: the share of steps that must raise the loss, or else the step is halved."""
ALPHA_MAX = 0.1
"""FAB: the most that a step leans towards the clean image."""
ETA = 1.05
"""FAB: how far a step overshoots the boundary."""
BETA = 0.9
"""FAB: what is left of a perturbation when it is drawn back towards the image."""
P_INIT = 0.8
"""Square: the share of the image that a square covers at first."""
SCHEDULE = 2
"""Square: the length of its schedule over the queries made, since the standard's 5,000 are those of a schedule of 10,000."""
FAMILIES: dict[str, Family] = {"apgd": cast(Family, apgd), "fab": cast(Family, fab), "square": cast(Family, square)}
LEAST_CLASSES = 4
"""Targeted DLR divides by a difference that takes four logits."""


class Options(AttackOptions):
    """Options of ``autoattack``."""

    family: Literal["autoattack"]
    norm: NormName
    """The norm that bounds the perturbation."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    steps: Positive
    """The steps of a run of APGD or FAB (the standard: 100)."""
    queries: Positive
    """The queries of Square (the standard: 5,000)."""
    target_classes: Positive
    """How many of the likeliest wrong classes targeted APGD and FAB aim at in turn (the standard: 9)."""


def targeted(options: Options) -> bool:
    """Never: its targeted members try several classes in turn, and any wrong one will do."""
    return False


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Every member draws under ``draws``' purpose with its own name after it, as ``/apgd_ce``.

    Raises:
        ClassifierError: fewer than four classes, before any step; or what a member says of the model.
    """
    _check_classes(logits_fn, images)
    attempts = [
        partial(_attempt, member, logits_fn, images, labels, ImageRandom(draws.seed, f"{draws.purpose}/{name}", draws.ids))
        for name, member in members(options).items()
    ]
    return on_survivors(attempts, images, logits_fn, misclassified(labels, None))


def members(options: Options) -> dict[str, AttackOptions]:
    """The ensemble in order: what each member's draws are named after, and its own options."""
    ball = {"norm": options.norm, "epsilon": options.epsilon}
    runs = {**ball, "steps": options.steps, "restarts": RESTARTS}
    aimed = {"target_classes": options.target_classes}
    climb = {**runs, "family": "apgd", "rho": RHO, "stop_on_success": True}
    content: dict[str, dict[str, Any]] = {
        "apgd_ce": {**climb, "loss": "ce", "target_classes": None},
        "apgd_dlr_targeted": {**climb, **aimed, "loss": "dlr_targeted"},
        "fab": {**runs, **aimed, "family": "fab", "alpha_max": ALPHA_MAX, "eta": ETA, "beta": BETA},
        "square": {
            **ball,
            "family": "square",
            "queries": options.queries,
            "p_init": P_INIT,
            "schedule": SCHEDULE * options.queries,
            "targeted": False,
        },
    }
    return {name: FAMILIES[entry["family"]].Options.model_validate(entry) for name, entry in content.items()}


def _attempt(member: AttackOptions, logits_fn: LogitFn, images: Tensor, labels: Tensor, draws: ImageRandom, rows: Tensor) -> Outcome:
    """What a member makes of the examples of ``rows``, inside the ball."""
    kind, centres = FAMILIES[member.family], images[rows]
    outcome = kind.attack(logits_fn, centres, labels[rows], None, member, draws.subset(rows.cpu().numpy()))
    if member.family != "fab":
        return outcome
    # The nearest point beyond the boundary may be too far away, and wrong only there.
    ball = kind.bound(member)
    assert ball is not None
    return Outcome(ball.norm.project(outcome.images, centres, ball.epsilon), outcome.steps)


def _check_classes(logits_fn: LogitFn, images: Tensor) -> None:
    with torch.no_grad():
        classes = logits_fn(images[:1]).shape[1]
    if classes < LEAST_CLASSES:
        raise ClassifierError(
            f"classifier: it has {classes} classes, where at least {LEAST_CLASSES} were expected by the targeted DLR loss of "
            "autoattack's standard ensemble; its other members (apgd with the loss ce, fab, square) can be run on their own."
        )
