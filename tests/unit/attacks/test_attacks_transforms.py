"""Attacks through input transformations: forward exactly what the defender does, backward what is promised."""

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from attacks_support import digits
from PIL import Image
from scipy import stats
from torch import Tensor

from pipeline.attacks.adaptive import expected, sampled
from pipeline.attacks.base import LogitFn
from pipeline.attacks.geometry import as_floats, norm, round_to_bytes
from pipeline.attacks.loop import Finished, GradientFn, ascend, gradient
from pipeline.attacks.objectives import away_from, misclassified
from pipeline.attacks.transforms import through_bytes, through_jpeg, through_resize_pad
from pipeline.errors import WhorlError
from pipeline.random import ImageRandom

FLOATS = np.float32


def seen(images: Tensor) -> Tensor:
    """What a model behind the rounding is given."""
    return through_bytes(lambda x: x)(images)


def floats_beside_every_middle() -> Tensor:
    """The float32 numbers nearest to the 255 points between two grey levels, where rounding is decided by the last bit."""
    middles = ((2 * np.arange(255) + 1) / 510).astype(FLOATS)
    below, above = np.nextafter(middles, FLOATS(0)), np.nextafter(middles, FLOATS(1))
    return torch.from_numpy(np.concatenate([middles, below, above, np.nextafter(below, FLOATS(0)), np.nextafter(above, FLOATS(1))]))


def test_bytes_are_a_fixed_point_on_all_levels() -> None:
    levels = as_floats(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    assert torch.equal(seen(levels), levels)


def test_bytes_are_those_that_will_be_stored() -> None:
    """Bit for bit, also beside the middles between levels, where a product in float32 goes wrong."""
    random = torch.from_numpy(np.random.default_rng(0).random(300_000, dtype=FLOATS))
    images = torch.cat([random, floats_beside_every_middle(), torch.tensor([-0.1, 0.0, 1e-30, 1.0, 1.2])]).view(1, 1, 1, -1)
    stored = as_floats(round_to_bytes(images))
    assert torch.equal(seen(images), stored)
    assert not torch.equal((images * 255).round() / 255, stored), "the floats should be hard enough to tell the two apart"
    assert seen(images.double()).dtype == torch.float64 and torch.equal(seen(images.double()).float(), stored)


@pytest.mark.parametrize("through", [through_bytes, lambda logits_fn: through_jpeg(logits_fn, 60)], ids=["bytes", "jpeg"])
def test_backward_is_the_gradient_at_what_the_model_was_given(through: Callable[[LogitFn], LogitFn]) -> None:
    images = torch.from_numpy(np.random.default_rng(1).random((4, 3, 16, 16), dtype=FLOATS)).requires_grad_()
    given: list[Tensor] = []

    def square(x: Tensor) -> Tensor:
        given.append(x.detach())
        return x.square().flatten(1).sum(1, keepdim=True)

    through(square)(images).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and torch.equal(images.grad, 2 * given[0])
    assert not torch.equal(given[0], images)
    torch.testing.assert_close(given[0], as_floats(round_to_bytes(given[0])), rtol=0, atol=0)


def by_pillow(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """One image (C, H, W) through a JPEG file in memory."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, format="JPEG", quality=quality)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        assert opened.format == "JPEG"
        pixels = np.asarray(opened)
    return pixels[None] if len(image) == 1 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("quality", [10, 75, 100])
def test_jpeg_is_pillows(channels: int, quality: int) -> None:
    stored = np.random.default_rng(2).integers(0, 256, (5, channels, 13, 18), dtype=np.uint8)
    expected_bytes = np.stack([by_pillow(image, quality) for image in stored])
    off_grid = as_floats(torch.from_numpy(stored)) + 0.001  # less than half a level: rounded away first
    got = through_jpeg(lambda x: x, quality)(off_grid)
    assert torch.equal(got, as_floats(torch.from_numpy(expected_bytes)))
    assert np.any(expected_bytes != stored)


def test_transformations_nest() -> None:
    images = torch.from_numpy(np.random.default_rng(3).random((2, 1, 8, 8), dtype=FLOATS))
    assert torch.equal(through_bytes(through_jpeg(lambda x: x, 50))(images), through_jpeg(lambda x: x, 50)(images))


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_a_jpeg_quality_that_there_is_not(quality: int) -> None:
    with pytest.raises(WhorlError, match=rf"JPEG quality is {quality}, where one from 1 to 100 was expected\."):
        through_jpeg(lambda x: x, quality)


def test_a_jpeg_of_two_channels() -> None:
    with pytest.raises(WhorlError, match="have 2 channels, where 1 or 3 were expected"):
        through_jpeg(lambda x: x, 75)(torch.zeros(1, 2, 8, 8))


def draws(count: int, seed: int = 0) -> ImageRandom:
    return ImageRandom(seed, "attack/x", [str(row) for row in range(count)])


def test_resize_pad_without_growth_is_the_identity() -> None:
    images = torch.from_numpy(np.random.default_rng(4).random((3, 2, 7, 9), dtype=FLOATS))
    assert torch.equal(through_resize_pad(lambda x: x, draws(3), 0)(images, torch.arange(3), 5), images)


def placement(padded: Tensor, growth: int) -> tuple[int, int, int]:
    """The growth and the padding before of one padded image (C, H, W) without zeros of its own."""
    inside = (padded != 0).all(0)
    down, across = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert inside[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
    grown = len(down) - (padded.shape[1] - growth)
    assert grown == len(across) - (padded.shape[2] - growth)
    return grown, int(down[0]), int(across[0])


def test_resize_pad_is_bilinear_resizing_and_zero_padding() -> None:
    """Against torch's own, with its gradient, at whichever size and place the padded image shows."""
    rng, growth, count = np.random.default_rng(5), 5, 40
    images = torch.from_numpy(rng.uniform(0.1, 1, (count, 2, 6, 9)))
    weights = torch.from_numpy(rng.normal(size=(count, 2, 6 + growth, 9 + growth)))
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    padded = through_resize_pad(lambda x: x, draws(count), growth)(ours, torch.arange(count), 3)
    by_torch = []
    for row in range(count):
        grown, top, left = placement(padded[row].detach(), growth)
        resized = F.interpolate(theirs[row : row + 1], size=(6 + grown, 9 + grown), mode="bilinear")
        by_torch.append(F.pad(resized, (left, growth - grown - left, top, growth - grown - top)))
    torch.testing.assert_close(padded, torch.cat(by_torch), rtol=0, atol=1e-6)
    (padded * weights).sum().backward()  # type: ignore[no-untyped-call]
    (torch.cat(by_torch) * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)


def placements(count: int, growth: int, number: int, seed: int = 0, rows: Tensor | None = None) -> list[tuple[int, int, int]]:
    rows = torch.arange(count) if rows is None else rows
    padded = through_resize_pad(lambda x: x, draws(count, seed), growth)(torch.ones(len(rows), 1, 4, 4), rows, number)
    return [placement(image, growth) for image in padded]


def test_sizes_and_places_are_uniform() -> None:
    """Sizes uniform in [0, growth), and then every place equally likely: for a growth of 3 there are 16, 9 and 4."""
    found = Counter(placement for number in (0, 1, 63, 64) for placement in placements(500, 3, number))
    assert len(found) == 16 + 9 + 4
    probabilities = [1 / 3 / (3 - grown + 1) ** 2 for grown, _, _ in found]
    assert sum(probabilities) == pytest.approx(1)
    assert stats.chisquare(list(found.values()), [2000 * p for p in probabilities]).pvalue > 1e-3


def test_placements_follow_image_and_number_alone() -> None:
    whole = placements(30, 6, 70)
    assert placements(30, 6, 70, rows=torch.tensor([22, 3])) == [whole[22], whole[3]]
    assert placements(30, 6, 71) != whole != placements(30, 6, 6) and placements(30, 6, 70, seed=1) != whole


def attacked(gradient_of: GradientFn, images: Tensor, finished: Finished | None = None) -> Tensor:
    """Signed steps in the cube of 32 grey levels around the images, rounded as they would be stored."""
    cube, epsilon = norm("linf"), 32 / 255
    outcome = ascend(gradient_of, images, images, norm=cube, epsilon=epsilon, step_size=12 / 255, steps=16, finished=finished)
    return as_floats(cube.quantise(outcome.images, images, epsilon))


def held_out() -> tuple[Tensor, Tensor]:
    """Digits that the model never saw, and their labels."""
    return as_floats(torch.from_numpy(digits().images)), torch.from_numpy(digits().labels)


def test_an_attack_through_jpeg_beats_jpeg() -> None:
    """Accuracy of the model behind JPEG: attacked as if there were none, and attacked through it (0.63 and 0.42)."""
    defended = through_jpeg(digits().model, 20)
    with torch.no_grad():
        right = defended(held_out()[0]).argmax(1) == held_out()[1]
    images, labels = (of[right] for of in held_out())
    plain = attacked(gradient(digits().model, away_from(labels)), images)
    through = attacked(gradient(defended, away_from(labels)), images, misclassified(labels, None))
    with torch.no_grad():
        accuracy = [float((defended(stored).argmax(1) == labels).float().mean()) for stored in (plain, through)]
    assert accuracy[1] < accuracy[0] - 0.12, accuracy


def test_an_attack_in_expectation_beats_resize_pad() -> None:
    """Accuracy over fresh draws: attacked without the defence, on one fixed draw, and on ten new ones a step (0.62, 0.49, 0.37)."""

    def shrunk(images: Tensor) -> Tensor:
        logits: Tensor = digits().model(F.interpolate(images, size=(8, 8), mode="bilinear"))
        return logits

    def accuracy(images: Tensor, labels: Tensor) -> Tensor:
        defended, rows = through_resize_pad(shrunk, draws(len(images), seed=1), 1), torch.arange(len(images))
        with torch.no_grad():
            return torch.stack([defended(images, rows, number).argmax(1) == labels for number in range(20)]).float().mean(0)

    usually_right = accuracy(*held_out()) >= 0.8
    images, labels = (of[usually_right] for of in held_out())
    one_draw = sampled(through_resize_pad(shrunk, draws(len(images), seed=2), 1), away_from(labels))
    ways: list[GradientFn] = [gradient(digits().model, away_from(labels)), lambda x, rows: one_draw(x, rows, 0), expected(one_draw, 10)]
    plain, single, averaged = (float(accuracy(attacked(way, images), labels).mean()) for way in ways)
    assert len(images) > 60 and averaged < single - 0.05 < plain - 0.1, (plain, single, averaged)
