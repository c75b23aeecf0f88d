"""Residual blocks without batch norms, frozen, whose backward pass leads to their input alone and writes where it already wrote.

What autograd makes of the same blocks allocates a tensor for every sum and every rectifier. On a CPU, memory that was not just
in use costs several times what the arithmetic does, and this does without most of it. The results are the same bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_threshold_backward = torch.ops.aten.threshold_backward
_convolution_backward = torch.ops.aten.convolution_backward.default

Shape = tuple[int, int]
"""The stride of a block, and the zero channels on each side of its shortcut."""


class FrozenBlocks(nn.Module):
    """Blocks in a row, each relu(conv2(relu(conv1(x))) + shortcut(x)), the shortcut being option A of He et al. 2016, section 3.3.

    The convolutions are run by their weights, so hooks on them are not called, and parameters receive no gradient.

    Args:
        convolutions: the two of every block in turn: 3x3 with a bias, the second of stride 1.
        shapes: one a block.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.convolutions, self.shapes = nn.ModuleList(convolutions), tuple(shapes)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up, by way of all blocks."""
        parameters = [tensor for convolution in self.convolutions for tensor in (convolution.weight, convolution.bias)]
        found: Tensor = _Blocks.apply(features, self.shapes, *parameters)
        return found


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, shapes: Sequence[Shape], *parameters: Tensor) -> Tensor:
        passed = [features]
        for (stride, fill), start in zip(shapes, range(0, len(parameters), 4), strict=True):
            weight1, bias1, weight2, bias2 = parameters[start : start + 4]
            inner = functional.conv2d(passed[-1], weight1, bias1, stride, 1).relu_()
            outer = functional.conv2d(inner, weight2, bias2, 1, 1)
            _inside(outer, fill).add_(passed[-1][:, :, ::stride, ::stride])
            passed += [inner, outer.relu_()]
        ctx.save_for_backward(*passed, *parameters[::2])
        ctx.shapes = shapes
        return passed[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        passed, weights = ctx.saved_tensors[: 2 * len(ctx.shapes) + 1], ctx.saved_tensors[2 * len(ctx.shapes) + 1 :]
        # What came in belongs to autograd; all that is made from here on may be written over.
        slope = _threshold_backward(slope, passed[-1], 0)
        for place in reversed(range(len(ctx.shapes))):
            (stride, fill), (given, inner) = ctx.shapes[place], passed[2 * place : 2 * place + 2]
            between = _to_input(slope, inner, weights[2 * place + 1], 1)
            _rectify(between, inner)
            found = _to_input(between, given, weights[2 * place], stride)
            found[:, :, ::stride, ::stride].add_(_inside(slope, fill))
            slope = found
            if place:
                _rectify(slope, given)
        return slope, None, *[None] * (2 * len(weights))


def _inside(features: Tensor, fill: int) -> Tensor:
    """The channels that the shortcut leads to."""
    return features[:, fill : features.shape[1] - fill]


def _rectify(slope: Tensor, output: Tensor) -> None:
    """Takes a gradient, in place, back through the rectifier that returned ``output``."""
    _threshold_backward.grad_input(slope, output, 0, grad_input=slope)


def _to_input(slope: Tensor, given: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient that a 3x3 convolution passes on to what it was given; under autocast its weights are wider than that."""
    wanted = [True, False, False]
    found: Tensor = _convolution_backward(
        slope, given, weight.to(given.dtype), None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, wanted
    )[0]
    return found
