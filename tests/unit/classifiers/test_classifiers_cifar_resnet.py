"""The CIFAR ResNets against the paper's table 6 and against a NumPy re-derivation of the shortcut."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.classifiers.cifar_resnet import OURS, BasicBlock, CifarResNet


def expected_parameters(depth: int, classes: int, channels: int) -> int:
    """Weights of 6n + 1 convolutions without bias, two per batch norm channel, and the head; option A has none."""
    total = 9 * channels * 16 + 2 * 16
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        total += 9 * inputs * outputs + (2 * depth - 1) * 9 * outputs * outputs + 2 * depth * 2 * outputs
    return total + 64 * classes + classes


@pytest.mark.parametrize(
    ("name", "depth", "millions"), [("cifar_resnet20", 3, 0.27), ("cifar_resnet32", 5, 0.46), ("cifar_resnet56", 9, 0.85)]
)
def test_size_is_the_papers(name: str, depth: int, millions: float) -> None:
    network = OURS[name](10, 3)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == expected_parameters(depth, 10, 3)
    assert round(count / 1e6, 2) == millions
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert convolutions + 1 == 6 * depth + 2


@pytest.mark.parametrize(("channels", "height", "width", "classes"), [(3, 32, 32, 10), (1, 8, 8, 7), (3, 9, 13, 2)])
def test_shapes_of_the_named_stages(channels: int, height: int, width: int, classes: int) -> None:
    network = CifarResNet(3, classes, channels).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("stem", "layer1", "layer2", "layer3", "fc"):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape)}))
    network(torch.zeros(2, channels, height, width))
    half, quarter = (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))
    assert shapes == {
        "stem": (2, 16, height, width),
        "layer1": (2, 16, height, width),
        "layer2": (2, 32, *half),
        "layer3": (2, 64, *quarter),
        "fc": (2, classes),
    }


def test_shortcut_without_a_residual_subsamples_and_fills_with_zeros() -> None:
    block = BasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)  # the residual branch now adds nothing
    features = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((3, 8, 4, 3), np.float32)
    expected[:, 2:6] = np.maximum(features.numpy()[:, :, ::2, ::2], 0)
    np.testing.assert_array_equal(block(features).detach().numpy(), expected)


def test_a_block_of_equal_width_passes_its_input_through() -> None:
    block = BasicBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.bn2.weight)
    features = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(features), features.relu(), rtol=0, atol=0)


def test_initial_weights_have_he_variance() -> None:
    torch.manual_seed(0)
    weight = OURS["cifar_resnet56"](10, 3).get_submodule("layer3.4").get_parameter("conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
