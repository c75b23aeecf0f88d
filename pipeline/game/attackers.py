"""The attackers of the game who need the classifier for every try, each on images that it gets right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.attacks.evasion import Ask, Descent, Look, Reply, descend, nudged, search
from pipeline.attacks.geometry import LEVELS, as_floats
from pipeline.classifiers.activations import Pooled, activations, tap
from pipeline.classifiers.model import Classifier
from pipeline.evaluation.game import Play
from pipeline.game.defenders import Defender, drawing
from pipeline.params.game import DescendParams
from pipeline.random import ImageRandom, generator

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pool = Mapping[str, Ints]


@dataclass(frozen=True)
class Tried:
    """What an attacker ended with, image by image.

    Attributes:
        play: what it got and paid.
        l2: (N,) of the perturbation, in pixel units.
        linf: (N,) likewise.
    """

    play: Play
    l2: Floats
    linf: Floats


@dataclass(frozen=True)
class Crafted:
    """Images of an attacker who sends nothing before it is done.

    Attributes:
        images: uint8 (N, C, H, W).
        neurons: (N, D) float32.
        predicted: (N,).
        local: draws looked at, the same number for each image.
    """

    images: Bytes
    neurons: npt.NDArray[np.float32]
    predicted: Ints
    local: int


def descents(params: DescendParams) -> dict[str, Descent]:
    """The descending attackers, by name."""
    bounds = (params.norm, params.epsilon, params.step_size, params.steps)
    return {
        **{f"weighted_{weight:g}": Descent("weighted", weight, *bounds) for weight in params.weights},
        **{f"traded_{sigma:g}": Descent("traded", sigma, *bounds) for sigma in params.trades},
        "orthogonal": Descent("orthogonal", 0, *bounds),
        "selective": Descent("selective", 0, *bounds),
    }


def craft(
    classifier: Classifier,
    pool: Pool,
    copy: Defender,
    images: Bytes,
    labels: Ints,
    ids: Sequence[str],
    name: str,
    params: DescendParams,
    seed: int,
) -> Crafted:
    """Descends on the score of the attacker's own copy of the guard.

    Args:
        classifier: frozen.
        pool: which of its neurons the guard reads.
        copy: what the attacker takes for the guard; of a static one the very draw is known.
        images: (N, C, H, W).
        labels: (N,), the true classes.
        ids: the images' ids.
        name: which of ``descents``.
        params: how far and how long.
        seed: of the attacker's randomness.
    """
    samples = 1 if copy.way == "static" else params.samples
    look = looking(classifier, pool, copy, samples, seed)
    how, classes = descents(params)[name], len(copy.calibration.class_group)
    draws = ImageRandom(seed, f"game/descend/{name}", ids)
    reached = descend(look, torch.from_numpy(images), torch.from_numpy(labels), classes, how, draws).numpy()
    logits, neurons = activations(classifier, as_floats(torch.from_numpy(reached)), pool)
    return Crafted(reached, neurons, logits.argmax(1).astype(np.int64), params.steps * samples)


def looking(classifier: Classifier, pool: Pool, copy: Defender, samples: int, seed: int) -> Look:
    """The classifier and a copy of the guard, differentiable: logits, and by how much ``samples`` draws are above the threshold.

    All images of a step meet the same draws, so that what is made of an image depends on no other.
    """
    limit, spread = (torch.from_numpy(values).float() for values in copy.limits())
    module, bank, committees = copy.detector.module, copy.detector.bank, copy.detector.committees

    def look(images: Tensor, step: int) -> Tensor:
        with tap(classifier, pool, Pooled(pool)) as found:
            logits = classifier(images)
            neurons = torch.cat([found[layer].float() for layer in pool], 1)
        predicted = logits.detach().argmax(1)
        groups = bank.class_group[predicted.numpy()]
        above = []
        for uniform in _uniforms(copy, samples, seed, step):
            which = (uniform * committees.sizes[groups]).astype(np.int64) + committees.starts[groups]
            above.append((module(neurons, torch.from_numpy(which)) - limit[predicted]) / spread[predicted])
        return torch.cat([logits.float(), torch.stack(above, 1)], 1)

    return look


def _uniforms(copy: Defender, samples: int, seed: int, step: int) -> Floats:
    """The draws of a step, in [0, 1): new ones for every step, or the one draw that a static guard has."""
    if copy.way == "static":
        return np.asarray(drawing("static", copy.seed, [""], 0).uniform("committee"), np.float64)
    return generator(seed, "game/expectation", str(step)).random(samples)


def ask_live(classifier: Classifier, pool: Pool, defender: Defender, ids: Sequence[str], *, scores: bool) -> Ask:
    """A live guard as its clients see it: with ``scores``, probability and p-value beside the decision."""

    def ask(images: Tensor, rows: Tensor, number: int) -> Reply:
        logits, neurons = activations(classifier, as_floats(images), pool)
        predicted = logits.argmax(1).astype(np.int64)
        pixels = images.numpy() if defender.way == "keyed" else [ids[row] for row in rows]
        p_values = defender.p_values(neurons, predicted, pixels, number)
        flagged, labels = torch.from_numpy(p_values <= defender.alpha), torch.from_numpy(predicted)
        if not scores:
            return Reply(labels, flagged)
        probability = torch.from_numpy(logits).softmax(1).gather(1, labels[:, None])[:, 0]
        return Reply(labels, flagged, probability, torch.from_numpy(p_values))

    return ask


def query(ask: Ask, images: Bytes, labels: Ints, ids: Sequence[str], params: DescendParams, queries: int, seed: int) -> Tried:
    """Searches by asking the live guard; nothing is looked at locally."""
    draws, clean = ImageRandom(seed, "game/query", ids), torch.from_numpy(images)
    found = search(ask, clean, torch.from_numpy(labels), norm_name=params.norm, epsilon=params.epsilon, queries=queries, draws=draws)
    sent, accepted = found.misled.double().numpy(), found.accepted.double().numpy()
    return Tried(Play(sent, accepted, np.zeros(len(sent)), found.queries.double().numpy()), *norms(found.images.numpy(), images))


def resubmit_changed(
    ask: Callable[[Tensor, Tensor, int], Reply],
    images: Bytes,
    clean: Bytes,
    labels: Ints,
    success: npt.NDArray[np.bool_],
    ids: Sequence[str],
    *,
    tries: int,
    pixels: int,
    seed: int,
) -> Tried:
    """Sends an attacked image, and then changed copies of it until one is accepted, at most ``tries`` in all.

    Whether a copy still has a wrong label the attacker sees on a classifier of their own (one local evaluation); a copy that has
    none is not sent.

    Args:
        ask: the guard.
        images: (N, C, H, W), as attacked.
        clean: (N, C, H, W), unattacked.
        labels: (N,), the true classes.
        success: (N,), whether the attack made the classifier wrong; the others are not sent.
        ids: the images' ids.
        tries: Q.
        pixels: values moved by one grey level.
        seed: of the changes.
    """
    draws, rows = ImageRandom(seed, "game/changed", ids), torch.from_numpy(np.flatnonzero(success))
    attacked, truth, last = torch.from_numpy(images), torch.from_numpy(labels), images.copy()
    accepted, local, queries = np.zeros(len(images)), np.zeros(len(images)), np.zeros(len(images))
    for number in range(tries):
        if not len(rows):
            break
        shown = nudged(attacked[rows], pixels, draws.subset(rows.numpy()), number) if number else attacked[rows]
        reply = ask(shown, rows, number)
        wrong = reply.predicted != truth[rows]
        done = wrong & ~reply.flagged
        local[rows.numpy()] += bool(number)
        queries[rows[wrong].numpy()] += 1
        accepted[rows[done].numpy()], last[rows[done].numpy()] = 1, shown[done].numpy()
        rows = rows[~done]
    return Tried(Play(success.astype(np.float64), accepted, local, queries), *norms(last, clean))


def norms(images: Bytes, clean: Bytes) -> tuple[Floats, Floats]:
    """The perturbations' Euclidean and maximum norms, in pixel units, (N,) each."""
    moved = (images.astype(np.float64) - clean) / LEVELS
    flat = moved.reshape(len(moved), -1)
    return np.sqrt((flat**2).sum(1)), np.abs(flat).max(1, initial=0)
