"""The same classifier, faster: batch norms folded into the convolutions before them, and low precision.

For what is asked of the classifier very often, such as an attack's steps. Folding rounds differently and low precision
more so, so verdicts stay with the classifier itself.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.classifiers.cifar_resnet import BasicBlock
from pipeline.classifiers.frozen_blocks import FrozenBlocks
from pipeline.classifiers.model import Classifier, device_of, freeze
from pipeline.params.base import Precision

_TOLERANCE = 1e-3
"""How far a folded model's logits may lie from the model's own, as a share of their largest size."""


def fold(classifier: Classifier, channels: int) -> Classifier:
    """A frozen copy in which every batch norm that only rescales a convolution's output is part of that convolution.

    Convolutions are paired with batch norms by running the model once and seeing whose output went where, so it does not
    matter how the forward pass is written. A pair is folded only where each of the two runs once a pass. Since a
    convolution's output may also be used elsewhere, the copy's logits are compared with the model's; where they differ the
    copy is not folded.

    Args:
        classifier: in evaluation mode; left as it is.
        channels: C of the images.
    """
    plain = freeze(copy.deepcopy(classifier))
    example = torch.rand((2, channels, *classifier.input_size), generator=torch.Generator().manual_seed(0)).to(device_of(classifier))
    folded = copy.deepcopy(plain)
    # Autograd would refuse weights made under inference_mode.
    with torch.no_grad(), torch.inference_mode(False):
        for convolution, norm in _pairs(folded, example):
            _fold_pair(folded, convolution, norm)
        _freeze_blocks(folded)
        wanted, got = plain(example), freeze(folded)(example)
    same = bool((wanted - got).abs().max() <= _TOLERANCE * wanted.abs().max())
    return folded if same else plain


class LowPrecision(nn.Module):
    """A classifier whose matrix products and convolutions run in bfloat16, by autocast; logits are float32.

    Args:
        classifier: frozen.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W), float in [0, 1], to logits (N, K)."""
        with torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = self.classifier(images)
        return logits.float()


def for_steps(classifier: Classifier, channels: int, precision: Precision) -> tuple[nn.Module, ...]:
    """What an attack takes its steps on: the folded model; before it, where ``precision`` is low, that model in low precision.

    Low precision sees a boundary in another place, so attacks that end just beyond it end on the wrong side for some
    images: those are left to the model after it.
    """
    folded = fold(classifier, channels)
    return (folded,) if precision == "float32" else (LowPrecision(folded), folded)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where the second was given the very tensor that the first returned."""
    outputs, inputs = dict[str, list[Tensor]](), dict[str, list[Tensor]]()

    def returned(name: str) -> Callable[..., None]:
        return lambda _module, _given, output: outputs.setdefault(name, []).append(output)

    def received(name: str) -> Callable[..., None]:
        return lambda _module, given: inputs.setdefault(name, []).append(given[0])

    handles = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(returned(name)))
        elif _foldable(module):
            handles.append(module.register_forward_pre_hook(received(name)))
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    once = {id(tensors[0]): name for name, tensors in outputs.items() if len(tensors) == 1}
    return [(once[id(tensors[0])], name) for name, tensors in inputs.items() if len(tensors) == 1 and id(tensors[0]) in once]


def _foldable(module: nn.Module) -> bool:
    known = type(module) is nn.BatchNorm2d or _activates(module)
    return known and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _fold_pair(model: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = model.get_submodule(convolution), model.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    conv.weight, conv.bias = nn.Parameter(weight.detach().clone(), False), nn.Parameter(bias.detach().clone(), False)
    parent, _, child = norm.rpartition(".")
    setattr(model.get_submodule(parent), child, _what_is_left(bn))


def _freeze_blocks(model: nn.Module) -> None:
    """Puts ``FrozenBlocks`` in the place of every stage of ours that has no batch norm left."""
    for name, stage in list(model.named_modules()):
        if type(stage) is nn.Sequential and len(stage) and all(map(_norm_free, stage)):
            blocks: list[Any] = list(stage)
            convolutions = [convolution for block in blocks for convolution in (block.conv1, block.conv2)]
            model.set_submodule(name, FrozenBlocks(convolutions, [(block.stride, block.fill) for block in blocks]))


def _norm_free(block: nn.Module) -> bool:
    return type(block) is BasicBlock and all(isinstance(norm, nn.Identity) for norm in map(block.get_submodule, ("bn1", "bn2")))


def _activates(norm: nn.Module) -> bool:
    """Whether it is timm's batch norm that carries the activation after it; told by name, since importing timm takes seconds."""
    return type(norm).__name__ == "BatchNormAct2d" and type(norm).__module__.startswith("timm.")


def _what_is_left(norm: Any) -> nn.Module:
    return nn.Sequential(norm.drop, norm.act) if _activates(norm) else nn.Identity()
