"""The norms: invariants over random images, and exact re-derivations in NumPy."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pipeline.attacks.geometry import Norm, NormName, as_floats, norm, round_to_bytes
from pipeline.random import ImageRandom

NAMES: list[NormName] = ["linf", "l2"]
Floats = npt.NDArray[np.float64]


def lengths(name: str, moved: Floats) -> Floats:
    flat = np.abs(moved.reshape(len(moved), -1))
    return np.asarray(flat.max(1) if name == "linf" else np.sqrt((flat**2).sum(1)))


def pair(seed: int, far: float) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Images, extremes among them, and float images up to ``far`` away, outside [0, 1] too."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
    images[0], images[1, 0] = rng.choice([0, 255], images[0].shape), 0
    moved = rng.uniform(-far, far, images.shape) * rng.choice([0.01, 1], images.shape)
    return images, torch.from_numpy((images / 255 + moved).astype(np.float32))


cases = given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32),
    epsilon=st.one_of(st.integers(0, 80).map(lambda level: level / 255), st.floats(0, 2)),
    far=st.sampled_from([0.002, 0.05, 0.5, 3]),
)


@settings(max_examples=150)
@example(name="linf", seed=1, epsilon=8 / 255, far=0.5)
@example(name="l2", seed=1, epsilon=0.0, far=0.5)
@cases
def test_bytes_are_in_the_ball(name: NormName, seed: int, epsilon: float, far: float) -> None:
    images, adversarial = pair(seed, far)
    stored = norm(name).quantise(adversarial, as_floats(torch.from_numpy(images)), epsilon)
    assert stored.dtype == torch.uint8
    levels = stored.numpy().astype(np.float64) - images
    assert np.all(lengths(name, levels) <= epsilon * 255 + 1e-6)


@settings(max_examples=150)
@example(name="linf", seed=1, epsilon=8 / 255, far=0.5)
@cases
def test_floats_are_in_the_ball_exactly(name: NormName, seed: int, epsilon: float, far: float) -> None:
    images, adversarial = pair(seed, far)
    clean = as_floats(torch.from_numpy(images))
    kept = norm(name).confine(adversarial, clean, epsilon)
    assert kept.dtype == torch.float32 and kept.min() >= 0 and kept.max() <= 1
    assert np.all(lengths(name, kept.double().numpy() - clean.double().numpy()) <= epsilon)
    np.testing.assert_allclose(kept, norm(name).project(adversarial.clamp(0, 1), clean, epsilon), atol=1e-6)


@settings(max_examples=100)
@cases
def test_projection_is_inside_leaves_what_is_inside_and_is_idempotent(name: NormName, seed: int, epsilon: float, far: float) -> None:
    images, adversarial = pair(seed, far)
    clean = as_floats(torch.from_numpy(images))
    there = norm(name).project(adversarial, clean, epsilon)
    assert there.min() >= 0 and there.max() <= 1
    moved = adversarial.double().numpy() - clean.double().numpy()
    assert np.all(lengths(name, there.double().numpy() - clean.double().numpy()) <= epsilon + 1e-6)
    torch.testing.assert_close(norm(name).project(there, clean, epsilon), there, atol=1e-6, rtol=0)
    inside = (lengths(name, moved) <= epsilon - 1e-6) & ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1).numpy()
    torch.testing.assert_close(there[inside], adversarial[inside], atol=1e-6, rtol=0)


def test_linf_bytes_are_the_nearest_of_all_256() -> None:
    images, adversarial = pair(3, 0.1)
    for epsilon in (0.0, 1 / 255, 7.9999 / 255, 8 / 255, 0.05):
        stored = norm("linf").quantise(adversarial, as_floats(torch.from_numpy(images)), epsilon).numpy()
        every = np.arange(256)
        wanted = adversarial.double().numpy()[..., None] * 255
        allowed = np.abs(every - images[..., None].astype(int)) <= epsilon * 255 + 1e-6
        best = np.where(allowed, np.abs(every - wanted), np.inf).argmin(-1)
        np.testing.assert_array_equal(stored, best)


def test_a_bound_of_whole_levels_loses_none_to_rounding() -> None:
    """Neither as a fraction nor written out: 0.031372549 * 255 is 7.999999995, and means 8."""
    images = torch.full((1, 1, 1, 1), 100 / 255)
    for levels in range(1, 156):
        for epsilon in (levels / 255, round(levels / 255, 9)):
            assert int(norm("linf").quantise(torch.ones(1, 1, 1, 1), images, epsilon)) == 100 + levels


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), epsilon=st.floats(0.004, 0.04))
def test_l2_bytes_are_near_the_nearest(seed: int, epsilon: float) -> None:
    """Against every combination of rounding up and down: inside, plain rounding where that is inside, else close to the best."""
    rng = np.random.default_rng(seed)
    images = rng.integers(20, 230, (1, 1, 1, 6), dtype=np.uint8)
    direction = rng.normal(size=(1, 1, 1, 6))
    wanted = epsilon * 255 * direction / np.linalg.norm(direction) * rng.uniform(0.5, 1)
    adversarial = torch.from_numpy(images / 255 + wanted / 255)
    stored = norm("l2").quantise(adversarial, torch.from_numpy(images / 255), epsilon).numpy().astype(int) - images.astype(int)
    choices = np.array(list(itertools.product(*[{int(np.floor(w)), int(np.ceil(w))} for w in wanted.ravel()])))
    inside = choices[np.sqrt((choices**2).sum(1)) <= epsilon * 255 + 1e-6]
    error = ((inside - wanted.ravel()) ** 2).sum(1)
    assert stored.ravel().tolist() in inside.tolist()
    plain = np.round(wanted.ravel()).astype(int)
    if plain.tolist() in inside.tolist():
        np.testing.assert_array_equal(stored.ravel(), plain)
    # Greedy by value for weight overshoots the best choice by at most the one entry it could have left.
    assert ((stored.ravel() - wanted.ravel()) ** 2).sum() <= error.min() + 1 + 1e-9


def test_directions() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0], [3e-30, -4e-30], [3e30, -4e30]]).view(4, 1, 1, 2)
    signs = norm("linf").direction(gradient).view(4, 2)
    assert signs.tolist() == [[1, -1], [0, 0], [1, -1], [1, -1]]
    units = norm("l2").direction(gradient).view(4, 2)
    torch.testing.assert_close(units, torch.tensor([[0.6, -0.8], [0.0, 0.0], [0.6, -0.8], [0.6, -0.8]]))


@pytest.mark.parametrize("name", NAMES)
def test_distance(name: NormName) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 2, 3, 3)), rng.random((5, 2, 3, 3))
    np.testing.assert_allclose(norm(name).distance(torch.from_numpy(a), torch.from_numpy(b)), lengths(name, a - b), rtol=1e-12)
    u8 = torch.tensor([250, 3], dtype=torch.uint8).view(1, 1, 1, 2)
    assert float(norm("linf").distance(u8, u8.flip(3))) == 247  # bytes do not wrap round


@pytest.mark.parametrize(("name", "epsilon"), [("linf", 0.1), ("l2", 0.3)])
def test_starts_are_uniform_in_the_ball(name: NormName, epsilon: float) -> None:
    """Coordinates in the cube, and D-th powers of the radius in the ball, are uniform; the mean direction vanishes."""
    draws = ImageRandom(0, "attack/x", [str(row) for row in range(4000)])
    images = torch.full((4000, 1, 2, 2), 0.5)
    moved = (norm(name).start(images, epsilon, draws, "start") - images).double().numpy().reshape(4000, 4)
    assert np.all(lengths(name, moved) <= epsilon + 1e-6)
    uniform = (moved.ravel() / epsilon + 1) / 2 if name == "linf" else (lengths(name, moved) / epsilon) ** 4
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert np.abs(moved.mean(0)).max() < 4 * epsilon / np.sqrt(3 * 4000)


@pytest.mark.parametrize("name", NAMES)
def test_starts_follow_the_id_and_the_name(name: NormName) -> None:
    ball: Norm = norm(name)
    images = torch.full((3, 1, 2, 2), 0.5)
    draws = ImageRandom(0, "attack/x", ["a", "b", "c"])
    whole = ball.start(images, 0.1, draws, "start")
    assert torch.equal(ball.start(images[1:2], 0.1, draws.subset(np.array([1])), "start"), whole[1:2])
    assert not torch.equal(ball.start(images, 0.1, draws, "start/1"), whole)


def test_rounding_without_a_bound() -> None:
    floats = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.7]).view(1, 1, 1, 6)
    assert round_to_bytes(floats).flatten().tolist() == [0, 0, 0, 1, 255, 255]
