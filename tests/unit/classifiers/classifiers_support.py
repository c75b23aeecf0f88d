"""What several tests of the classifiers need."""

import numpy as np
import torch

from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier, freeze, to_float


def logits_of(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The logits (N, K), float32, of uint8 images (N, C, H, W) in one batch."""
    with torch.inference_mode():
        return classifier(to_float(images)).float().numpy()


def resnet() -> Classifier:
    torch.manual_seed(0)
    return freeze(Classifier(cifar_resnet20(10, 1), (0.3,), (0.4,), (8, 8)))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
