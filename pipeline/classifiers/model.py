"""The classifier as everything else sees it: images in [0, 1] in, logits out; scaling and normalisation are inside."""

from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ClassifierError


class Classifier(nn.Module):
    """A network and its preprocessing, which is part of the model and never of the attack.

    Args:
        network: maps normalised images (N, C, h, w) to logits (N, K).
        mean: of each channel, in units of [0, 1].
        std: of each channel, in units of [0, 1].
        input_size: (h, w) that the network takes.

    ``mean`` and ``std`` are buffers that the state dict leaves out: they belong to the params, not to the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], input_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.input_size = input_size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W), float in [0, 1], to logits (N, K).

        Images of another size than ``input_size`` are scaled bilinearly, with antialiasing where they shrink.
        """
        if images.shape[-2:] != self.input_size:
            images = functional.interpolate(images, self.input_size, mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def freeze(classifier: Classifier) -> Classifier:
    """The same classifier in evaluation mode, channels-last and without parameter gradients; changed in place."""
    classifier.eval().requires_grad_(False)
    classifier.to(memory_format=torch.channels_last)
    return classifier


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU where it has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_float(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images at rest, uint8 (N, C, H, W), as the model takes them: float32 in [0, 1], channels-last in memory.

    Raises:
        ClassifierError: the array is not uint8 of four dimensions.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ClassifierError(f"images: an array of {images.dtype} {images.shape}, where uint8 of (N, C, H, W) was expected.")
    floats = torch.from_numpy(images.astype(np.float32)).div_(255)
    return floats.contiguous(memory_format=torch.channels_last)
