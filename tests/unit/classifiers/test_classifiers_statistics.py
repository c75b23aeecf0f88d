"""Numbers of a module's maps: means, roughness and residuals, against NumPy and convolutions, with their gradients."""

import math

import numpy as np
import pytest
import torch
from classifiers_support import images, resnet
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal
from torch import nn

from pipeline.classifiers.activations import CACHED, layer_sizes, tap
from pipeline.classifiers.model import Classifier, to_float
from pipeline.errors import ClassifierError


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_are_numbers_of_every_channel(layout: torch.memory_format) -> None:
    classifier, batch = resnet().to(memory_format=layout), to_float(images(3)).contiguous(memory_format=layout)
    layers = ["layer1", "layer1.mean", "layer1.roughness", "layer2.0.mean"]
    sizes = layer_sizes(classifier, layers, (1, 8, 8))
    leaf = batch.clone().requires_grad_()
    with tap(classifier, layers) as found:
        classifier(leaf)
    channels = sizes["layer1.mean"]
    maps = found["layer1"].detach().numpy().reshape(3, channels, 8, 8)
    np.testing.assert_allclose(found["layer1.mean"].detach().numpy(), maps.mean((2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["layer1.roughness"].detach().numpy(), np.abs(np.diff(maps)).mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert sizes["layer2.0.mean"] == 2 * channels and found["layer2.0.mean"].shape == (3, 2 * channels)
    assert torch.autograd.grad(found["layer1.roughness"].sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize(("order", "half"), [(1, 0.05), (2, 0.15), (3, 0.5), (4, 1.75)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_residuals_are_saturated_differences_along_both_axes(order: int, half: float, layout: torch.memory_format) -> None:
    """Also before an in-place ReLU, and against one convolution with the differences' binomial weights."""
    classifier, batch = resnet().to(memory_format=layout), to_float(images(3)).contiguous(memory_format=layout)
    leaf = batch.clone().requires_grad_()
    with tap(classifier, ["stem.1", f"stem.1.residual{order}"]) as found:
        classifier(leaf)
    got = found[f"stem.1.residual{order}"]
    maps = found["stem.1"].detach().numpy().reshape(3, got.shape[1], 8, 8)
    assert (maps < 0).any()
    sizes = np.abs(np.diff(np.diff(maps, order), order, axis=2))
    np.testing.assert_allclose(got.detach().numpy(), (sizes / (sizes + half)).mean((2, 3)), rtol=1e-4)
    weights = np.array([(-1) ** place * math.comb(order, place) for place in range(order + 1)], np.float64)
    convolved = np.abs(signal.convolve(maps, np.outer(weights, weights)[None, None], mode="valid"))
    np.testing.assert_allclose(got.detach().numpy(), (convolved / (convolved + half)).mean((2, 3)), rtol=1e-4)
    assert torch.autograd.grad(got.sum(), leaf)[0].isfinite().all()


def test_residuals_of_a_large_batch_are_those_of_each_image() -> None:
    """Though they are computed some images at a time; nor does the order in which they are asked for matter."""
    classifier, layers = resnet(), ["stem.1.residual3", "stem.1", "stem.1.residual1"]
    together = CACHED // layer_sizes(classifier, ["stem.1"], (1, 8, 8))["stem.1"]
    batch = to_float(images(together + 5))
    with torch.inference_mode(), tap(classifier, layers) as found:
        classifier(batch)
        whole = dict(found)
        for row in (0, together - 1, together, together + 4):
            classifier(batch[row : row + 1])
            for layer in layers:
                torch.testing.assert_close(whole[layer][row], found[layer][0], rtol=1e-5, atol=1e-6)
    assert {len(values) for values in whole.values()} == {len(batch)}


@given(order=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_residuals_see_no_smooth_surface_and_stay_below_one(order: int, seed: int, scale: float) -> None:
    """A polynomial of lower order along either axis has none; noise on it has, the more the larger it is, up to one."""
    rng = np.random.default_rng(seed)
    place = np.linspace(-1, 1, 12)
    smooth = np.polynomial.polynomial.polyval(place, rng.normal(size=order))[:, None] * rng.normal(size=12)
    smooth = smooth.T if rng.random() < 0.5 else smooth
    noise = torch.from_numpy(rng.normal(size=(1, 1, 12, 12)))
    maps = torch.from_numpy(smooth)[None, None].to(torch.float64)
    classifier = Classifier(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(144, 2).double()), (0.0,), (1.0,), (12, 12)).double()
    amounts = []
    for amount in (0.0, scale, 2 * scale):
        with tap(classifier, [f"0.residual{order}"]) as found:
            classifier(maps + amount * noise)
        amounts.append(float(found[f"0.residual{order}"]))
    none, some, more = amounts
    assert none < 1e-9 and none < some < more < 1


@pytest.mark.parametrize("statistics", [["mean"], ["roughness"], ["residual1"], ["residual4", "residual2", "roughness"]])
def test_gradients_of_statistics_are_those_of_finite_differences(statistics: list[str]) -> None:
    """Whatever is computed in place, and in whatever order a module's layers are asked for."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(72, 2)).double()
    classifier, rng = Classifier(network, (0.3,), (0.4,), (6, 6)).double(), np.random.default_rng(1)

    def read(batch: torch.Tensor) -> torch.Tensor:
        with tap(classifier, [f"0.{statistic}" for statistic in statistics]) as found:
            classifier(batch)
        return torch.cat([found[f"0.{statistic}"] for statistic in statistics], 1)

    assert torch.autograd.gradcheck(read, torch.from_numpy(rng.random((2, 1, 6, 6))).requires_grad_())


def test_the_mean_of_tokens_is_over_the_tokens() -> None:
    class Tokens(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).transpose(1, 2)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = Tokens()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.tokens(x).mean(1)
            return out

    classifier, batch = Classifier(Small(), (0.0,) * 3, (1.0,) * 3, (4, 4)), torch.rand(2, 3, 4, 4)
    with tap(classifier, ["tokens.mean"]) as found:
        classifier(batch)
    torch.testing.assert_close(found["tokens.mean"], batch.mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("logits.mean", r"layers\.logits\.mean: its module puts out shape \(2, 10\), where maps \(N, C, H, W\) or tokens"),
        ("logits.roughness", r"shape \(2, 10\), where maps \(N, C, H, W\) with more than one column were expected"),
        ("layer4.mean", "no module 'layer4'"),
        ("layer1.mean.mean", "no module 'layer1.mean.mean'"),
        ("layer3.residual2", r"shape \(2, \d+, 2, 2\), where maps \(N, C, H, W\) of more than 2 rows and columns were expected"),
        ("logits.residual1", r"shape \(2, 10\), where maps \(N, C, H, W\) of more than 1 rows"),
        ("layer1.variance", r"no module 'layer1.variance', where .* \(also with .mean or .roughness or .residual1 .* behind it\)"),
    ],
)
def test_a_statistic_that_there_is_not_is_said(layer: str, said: str) -> None:
    with pytest.raises(ClassifierError, match=said):
        layer_sizes(resnet(), [layer], (1, 8, 8))
