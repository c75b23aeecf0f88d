"""What several tests of the classifiers need."""

import numpy as np
import torch

from pipeline.classifiers.model import Classifier, to_float


def logits_of(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The logits (N, K), float32, of uint8 images (N, C, H, W) in one batch."""
    with torch.inference_mode():
        return classifier(to_float(images)).float().numpy()
