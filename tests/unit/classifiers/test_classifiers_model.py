"""Preprocessing inside the model, against NumPy and Pillow."""

import numpy as np
import pytest
import torch
from classifiers_support import logits_of
from PIL import Image
from torch import Tensor, nn

from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier, device_of, freeze, to_float
from pipeline.errors import ClassifierError

MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.1, 2.0)


class Flat(nn.Module):
    """Returns what it was given, flattened: the classifier's logits are then its preprocessing."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_normalisation_is_the_models() -> None:
    images = random_images(4, 3, 5, 6)
    expected = (images / 255.0 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    found = logits_of(Classifier(Flat(), MEAN, STD, (5, 6)), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(4, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("given", "wanted"), [((32, 32), (8, 8)), ((9, 20), (5, 7)), ((4, 4), (8, 12))])
def test_other_sizes_are_scaled_as_pillow_scales(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = random_images(1, 1, *given)
    plane = Image.fromarray(image[0, 0].astype(np.float32), mode="F")
    expected = np.asarray(plane.resize(wanted[::-1], Image.Resampling.BILINEAR)) / 255
    found = logits_of(Classifier(Flat(), (0.0,), (1.0,), wanted), image).reshape(wanted)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    images = random_images(2, 1, 8, 8)
    np.testing.assert_array_equal(
        logits_of(Classifier(Flat(), (0.0,), (1.0,), (8, 8)), images), (images.astype(np.float32) / 255).reshape(2, -1)
    )


def test_to_float_is_exact_and_read_only_arrays_will_do() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)
    images.flags.writeable = False
    floats = to_float(images)
    np.testing.assert_array_equal(floats.numpy(), images.astype(np.float32) / np.float32(255))
    assert (floats.min(), floats.max()) == (0, 1)


@pytest.mark.parametrize("images", [np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 2, 2), np.uint8)])
def test_to_float_refuses_what_is_not_at_rest(images: np.ndarray) -> None:
    with pytest.raises(ClassifierError, match=f"{images.dtype}.*uint8 of \\(N, C, H, W\\) was expected"):
        to_float(images)


def test_freeze_stops_training_and_changes_no_logit() -> None:
    classifier = Classifier(cifar_resnet20(3, 3), MEAN, STD, (8, 8)).eval()
    images = random_images(4, 3, 8, 8)
    before = logits_of(classifier, images)
    classifier.train()
    assert freeze(classifier) is classifier
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    weight = classifier.network.get_parameter("layer2.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(logits_of(classifier, images), before, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_images_of_a_frozen_classifier() -> None:
    classifier = freeze(Classifier(cifar_resnet20(3, 1), (0.3,), (0.4,), (8, 8)))
    images = torch.full((2, 1, 16, 16), 0.5, requires_grad=True)  # through the scaling as well
    (gradient,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
    assert gradient.shape == images.shape
    assert gradient.abs().sum() > 0


def test_state_holds_the_weights_alone() -> None:
    classifier = Classifier(cifar_resnet20(3, 3), MEAN, STD, (8, 8))
    assert set(classifier.state_dict()) == {f"network.{name}" for name in classifier.network.state_dict()}


def test_device_of_a_module_without_tensors_is_the_cpu() -> None:
    assert device_of(Flat()) == torch.device("cpu")
    assert device_of(nn.BatchNorm1d(2, affine=False).to("meta")) == torch.device("meta")
