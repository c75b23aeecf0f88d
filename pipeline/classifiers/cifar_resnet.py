"""The residual networks for small images of He et al. 2016 (Deep Residual Learning, section 4.2): ResNet-20, 32 and 56."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ClassifierError

WIDTHS = (16, 32, 64)
DEPTHS = {"cifar_resnet20": 3, "cifar_resnet32": 5, "cifar_resnet56": 9}
"""Name to n, the residual blocks of each of the three stages; the network has 6n + 2 weighted layers."""


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper's section 3.3).

    Where the width grows the shortcut takes every second pixel and fills the new channels with zeros, half of them on
    each side.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.fill = stride, (outputs - inputs) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        residual = functional.relu(self.bn1(self.conv1(features)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self._shortcut(features), inplace=True)

    def _shortcut(self, features: Tensor) -> Tensor:
        if self.fill == 0:
            return features
        return functional.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.fill, self.fill))


class CifarResNet(nn.Module):
    """A network of 6n + 2 layers: ``stem``, three stages ``layer1`` to ``layer3`` of n blocks, mean over pixels, ``fc``.

    Args:
        depth: n, the blocks of a stage.
        num_classes: classes K.
        in_chans: channels C of the images.
    """

    def __init__(self, depth: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, WIDTHS[-1]
        self.stem = nn.Sequential(_convolution(in_chans, WIDTHS[0], 1), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True))
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[0], depth)
        self.layer2 = self._stage(WIDTHS[0], WIDTHS[1], depth)
        self.layer3 = self._stage(WIDTHS[1], WIDTHS[2], depth)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015

    @staticmethod
    def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride=1 if inputs == outputs else 2)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1) for _ in range(depth - 1)))

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, C, H, W) to the last stage's (N, 64, ceil(H / 4), ceil(W / 4))."""
        features: Tensor = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, C, H, W) to logits (N, K)."""
        logits: Tensor = self.fc(self.forward_features(images).mean((2, 3)))
        return logits


def cifar_resnet20(num_classes: int, in_chans: int) -> CifarResNet:
    """ResNet-20: 0.27 million parameters (table 6 of the paper)."""
    return CifarResNet(DEPTHS["cifar_resnet20"], num_classes, in_chans)


def cifar_resnet32(num_classes: int, in_chans: int) -> CifarResNet:
    """ResNet-32: 0.46 million parameters (table 6 of the paper)."""
    return CifarResNet(DEPTHS["cifar_resnet32"], num_classes, in_chans)


def cifar_resnet56(num_classes: int, in_chans: int) -> CifarResNet:
    """ResNet-56: 0.85 million parameters (table 6 of the paper)."""
    return CifarResNet(DEPTHS["cifar_resnet56"], num_classes, in_chans)


OURS: dict[str, Callable[[int, int], CifarResNet]] = {
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet32": cifar_resnet32,
    "cifar_resnet56": cifar_resnet56,
}


def register_with_timm() -> None:
    """Makes our names known to ``timm.create_model``; does nothing the second time.

    It imports timm, which takes seconds, so it is called only where timm is wanted anyway.
    """
    from timm.models import is_model, register_model

    for name in OURS:
        if not is_model(name):
            register_model(_entry_point(name))


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(num_classes: int = 10, in_chans: int = 3, **timm_options: Any) -> nn.Module:
        if timm_options.pop("pretrained", False):
            raise ClassifierError(f"{name}: there are no pretrained weights for it, where pretrained: false was expected.")
        # What timm hands to every entry point and a network without published weights has no use for.
        for option in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            timm_options.pop(option, None)
        if timm_options:
            raise ClassifierError(f"{name}: takes no option {sorted(timm_options)}, where num_classes and in_chans were expected.")
        return OURS[name](num_classes, in_chans)

    create.__name__ = name
    return create
