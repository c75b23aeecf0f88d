"""What counts as fooled, whoever's result it is."""

import numpy as np
import pytest
import torch
from judge import judge, margin, sizes_of_both
from torch import nn


class Linear(nn.Module):
    """Three classes of the one pixel p: logits 0, p - 0.5 and -1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixel = images.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(pixel), pixel - 0.5, -torch.ones_like(pixel)], 1)


def images(*pixels: float) -> torch.Tensor:
    return torch.tensor(pixels).view(-1, 1, 1, 1)


def test_margins_are_taken_to_the_best_other_class() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    assert margin(logits, torch.tensor([2, 0])).tolist() == [1.0, 0.0]
    assert margin(logits, torch.tensor([1, 2])).tolist() == [-1.0, 5.0]


@pytest.mark.parametrize(
    ("pixel", "bound", "fooled"),
    [
        (0.6, None, True),
        (0.4, None, False),
        (0.5, None, True),  # on the boundary to within a rounding
        (0.6, ("linf", 0.2), True),
        (0.6, ("linf", 0.19), False),
        (0.6, ("l2", 0.19), False),
        (1.2, None, False),  # no image
    ],
)
def test_fooled_is_wrong_an_image_and_inside_the_bound(pixel: float, bound: tuple[str, float] | None, fooled: bool) -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    verdicts = judge(Linear(), images(0.4), images(pixel), zero, zero + 1, bound)  # type: ignore[arg-type]
    assert verdicts.fooled.tolist() == [fooled] and verdicts.reached.tolist() == [fooled]
    assert judge(Linear(), images(0.4), images(pixel), zero, zero + 2, bound).reached.tolist() == [False]  # type: ignore[arg-type]


def test_norms_are_compared_where_both_fooled() -> None:
    zero = torch.zeros(3, dtype=torch.int64)
    ours = judge(Linear(), images(0.4, 0.4, 0.4), images(0.7, 0.6, 0.4), zero, zero, None)
    peer = judge(Linear(), images(0.4, 0.4, 0.4), images(0.8, 0.4, 0.9), zero, zero, None)
    for name in ("l2", "linf"):
        mine, theirs = sizes_of_both(ours, peer, name)  # type: ignore[arg-type]
        np.testing.assert_allclose((mine, theirs), ([0.3], [0.4]), rtol=1e-6)
