"""Frozen blocks against the blocks they replace, run by autograd: the same bits forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.classifiers.cifar_resnet import BasicBlock, cifar_resnet20
from pipeline.classifiers.folding import LowPrecision, fold
from pipeline.classifiers.frozen_blocks import FrozenBlocks
from pipeline.classifiers.model import Classifier, freeze


def stage(*blocks: tuple[int, int, int]) -> nn.Sequential:
    """Blocks of those (inputs, outputs, stride) without batch norms, as folding leaves them."""
    torch.manual_seed(0)
    made: Any = nn.Sequential(*(BasicBlock(*block) for block in blocks))
    for block in made:
        block.bn1, block.bn2 = nn.Identity(), nn.Identity()
        for convolution in (block.conv1, block.conv2):
            convolution.bias = nn.Parameter(torch.randn(convolution.out_channels) / 4)
    frozen_one: nn.Sequential = made.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return frozen_one


def frozen(blocks: Any) -> FrozenBlocks:
    convolutions = [convolution for block in blocks for convolution in (block.conv1, block.conv2)]
    return FrozenBlocks(convolutions, [(block.stride, block.fill) for block in blocks])


STAGES = {
    "one": [(4, 4, 1)],
    "several": [(4, 4, 1)] * 3,
    "narrower first": [(4, 8, 2), (8, 8, 1)],
    "two that shrink": [(4, 8, 2), (8, 16, 2)],
}


@pytest.mark.parametrize("size", [8, 7], ids=["even", "odd"])
@pytest.mark.parametrize("blocks", STAGES.values(), ids=STAGES)
def test_the_same_bits_as_autograd(blocks: list[tuple[int, int, int]], size: int) -> None:
    plain = stage(*blocks)
    features = torch.randn((5, 4, size, size), generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    outputs = [model(features) for model in (plain, frozen(plain))]
    assert torch.equal(outputs[0], outputs[1])
    slope = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2))
    kept = slope.clone()
    # Twice through one graph, as an attack does that needs the gradients of several classes.
    for _ in range(2):
        expected, found = (torch.autograd.grad(output, features, slope, retain_graph=True)[0] for output in outputs)
        assert torch.equal(expected, found) and expected.abs().sum() > 0
    assert torch.equal(slope, kept), "a gradient that belongs to autograd was written over"
    assert all(parameter.grad is None for parameter in plain.parameters())


def folded() -> tuple[Classifier, Classifier]:
    model = freeze(Classifier(cifar_resnet20(7, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), (12, 12)))
    return model, fold(model, 3)


def test_folding_freezes_every_stage_and_leaves_the_model_its_own() -> None:
    model, fast = folded()
    assert [sum(isinstance(module, kind) for module in fast.modules()) for kind in (FrozenBlocks, BasicBlock)] == [3, 0]
    assert sum(isinstance(module, BasicBlock) for module in model.modules()) == 9


def test_in_low_precision_the_gradient_is_that_of_low_precision_blocks() -> None:
    plain = stage((4, 8, 2), (8, 8, 1))
    images = torch.rand((6, 4, 8, 8), generator=torch.Generator().manual_seed(3), requires_grad=True)
    slopes = list[Tensor]()
    for model in (plain, frozen(plain)):
        first: Any = nn.Conv2d(4, 4, 1)
        first.load_state_dict({"weight": torch.eye(4)[:, :, None, None], "bias": torch.zeros(4)})
        both: Any = nn.Sequential(first, model).requires_grad_(False)
        low = LowPrecision(both)
        slopes.append(torch.autograd.grad(low(images).square().sum(), images)[0])
    assert torch.equal(slopes[0], slopes[1]) and slopes[0].dtype == torch.float32
