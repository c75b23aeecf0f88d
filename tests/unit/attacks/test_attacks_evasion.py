"""Attackers of a guarded classifier on a tiny linear world, where what they should reach is known, and on scripted guards."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.attacks.evasion import BELOW, Descent, Kind, Reply, descend, nudged, search
from pipeline.attacks.geometry import norm as norm_of
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import away_from
from pipeline.random import ImageRandom

CLASSES, SHAPE, EPSILON = 3, (1, 4, 4), 0.25
RNG = np.random.default_rng(0)
W = torch.from_numpy(RNG.normal(size=(CLASSES, 16))).float() * 3
V = torch.from_numpy(RNG.normal(size=(2, 16))).float() * 2
IMAGES = torch.from_numpy(RNG.integers(40, 215, (12, *SHAPE))).to(torch.uint8)
IDS = [f"{row:032x}" for row in range(12)]


def logits(images: Tensor) -> Tensor:
    return images.flatten(1) @ W.T


LABELS = logits(IMAGES / 255).argmax(1)


def look(images: Tensor, step: int) -> Tensor:
    """Two draws whose scores are linear in the pixels."""
    flat = images.flatten(1)
    return torch.cat([flat @ W.T, flat @ V.T - 0.5], 1)


def height(images: Tensor) -> Tensor:
    return torch.relu(look(images.float() / 255, 0)[:, CLASSES:] + BELOW).mean(1)


def run(kind: Kind, weight: float, norm: str = "linf", steps: int = 30) -> Tensor:
    how = Descent(kind, weight, norm, EPSILON if norm == "linf" else 1.0, 0.02 if norm == "linf" else 0.1, steps)  # type: ignore[arg-type]
    return descend(look, IMAGES, LABELS, CLASSES, how, ImageRandom(0, "test", IDS))


def plainly(norm_name: str) -> Tensor:
    """Gradient steps away from the true class by somebody who knows nothing of the guard."""
    ball, centres = norm_of(norm_name), IMAGES.float() / 255  # type: ignore[arg-type]
    epsilon, step = (EPSILON, 0.02) if norm_name == "linf" else (1.0, 0.1)
    made = ascend(gradient(logits, away_from(LABELS)), centres, centres, norm=ball, epsilon=epsilon, step_size=step, steps=30)
    return ball.quantise(made.images, centres, epsilon)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("kind", "weight"), [("weighted", 1.0), ("traded", 0.3), ("orthogonal", 0.0), ("selective", 0.0)])
def test_descending_lowers_the_guard_s_score_within_the_bound(kind: Kind, weight: float, norm: str) -> None:
    blind, fitted = plainly(norm), run(kind, weight, norm)
    moved = (fitted.float() - IMAGES.float()) / 255
    size = moved.abs().flatten(1).amax(1) if norm == "linf" else moved.flatten(1).norm(dim=1)
    assert (size <= (EPSILON if norm == "linf" else 1.0) + 1e-6).all() and fitted.dtype == torch.uint8
    both = (logits(fitted / 255).argmax(1) != LABELS) & (logits(blind / 255).argmax(1) != LABELS)
    assert both.sum() >= 5
    assert height(fitted)[both].mean() < 0.9 * height(blind)[both].mean()


def test_the_point_kept_is_the_lowest_with_a_wrong_label() -> None:
    """More steps never leave an image worse off, since what was reached is remembered."""
    few, many = run("weighted", 1.0, steps=10), run("weighted", 1.0, steps=40)
    wrong = (logits(few / 255).argmax(1) != LABELS) & (logits(many / 255).argmax(1) != LABELS)
    assert wrong.any() and (height(many)[wrong] <= height(few)[wrong] + 0.05).all()


def test_the_same_seed_gives_the_same_images_whatever_else_is_attacked() -> None:
    how = Descent("weighted", 1.0, "linf", EPSILON, 0.02, 10)
    part = descend(look, IMAGES[3:5], LABELS[3:5], CLASSES, how, ImageRandom(0, "test", IDS[3:5]))
    assert torch.equal(part, descend(look, IMAGES, LABELS, CLASSES, how, ImageRandom(0, "test", IDS))[3:5])


def scripted(accept_at: dict[int, int], asked: list[int]) -> "object":
    """A guard that accepts row r at its query number accept_at[r] and never otherwise; the label is wrong from query 1 on."""

    def ask(images: Tensor, rows: Tensor, number: int) -> Reply:
        asked.extend(rows.tolist())
        predicted = LABELS[rows] if number == 0 else (LABELS[rows] + 1) % CLASSES
        flagged = torch.tensor([accept_at.get(int(row)) != number for row in rows])
        return Reply(predicted, flagged)

    return ask


def test_a_search_pays_for_every_query_and_stops_at_the_first_acceptance() -> None:
    asked: list[int] = []
    script = {0: 1, 1: 4, 2: 9}
    found = search(scripted(script, asked), IMAGES, LABELS, norm_name="linf", epsilon=EPSILON, queries=7, draws=ImageRandom(0, "test", IDS))  # type: ignore[arg-type]
    assert found.queries.tolist() == [2, 5, *[7] * 10] == [asked.count(row) for row in range(12)]
    assert found.accepted.tolist() == [True, True, *[False] * 10]
    assert found.misled.all()
    assert ((found.images.float() - IMAGES.float()).abs() <= EPSILON * 255 + 1e-4).all()


def test_a_search_with_scores_finds_what_decisions_alone_find_and_more() -> None:
    """A guard that accepts what is dark enough; its p-value tells how near that is."""

    def ask(images: Tensor, rows: Tensor, scores: bool) -> Reply:
        darkness = 1 - images.float().mean((1, 2, 3)) / 255
        p_value = torch.sigmoid(40 * (darkness - 0.62))
        predicted = (LABELS[rows] + 1) % CLASSES
        return Reply(predicted, p_value <= 0.5, torch.ones(len(rows)), p_value) if scores else Reply(predicted, p_value <= 0.5)

    bright = torch.full_like(IMAGES, 128)
    found = [
        search(
            lambda images, rows, _, scores=scores: ask(images, rows, scores),  # type: ignore[misc]
            bright,
            LABELS,
            norm_name="linf",
            epsilon=EPSILON,
            queries=60,
            draws=ImageRandom(0, "test", IDS),
        )
        for scores in (False, True)
    ]
    assert found[1].accepted.sum() > found[0].accepted.sum() and found[1].accepted.float().mean() > 0.9


def test_a_nudge_moves_a_few_values_by_one_level_and_stays_in_range() -> None:
    edges = torch.cat([torch.zeros(6, *SHAPE), torch.full((6, *SHAPE), 255)]).to(torch.uint8)
    for images in (IMAGES, edges):
        made = nudged(images, 3, ImageRandom(0, "test", IDS), 1)
        moved = (made.int() - images.int()).flatten(1).abs()
        assert moved.max() == 1 and ((moved.sum(1) >= 1) & (moved.sum(1) <= 3)).all()
    again, other = (nudged(IMAGES, 3, ImageRandom(0, "test", IDS), number) for number in (1, 2))
    assert torch.equal(again, nudged(IMAGES, 3, ImageRandom(0, "test", IDS), 1)) and not torch.equal(again, other)
