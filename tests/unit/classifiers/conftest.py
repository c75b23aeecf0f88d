"""A training recipe that the tests change to their needs."""

import pytest

from pipeline.params.classifier import TrainedClassifier


@pytest.fixture
def recipe() -> TrainedClassifier:
    return TrainedClassifier(
        kind="train", architecture="cifar_resnet20", pretrained=False, mean=(0.3,), std=(0.4,), input_size=(8, 8), epochs=1, patience=1,
        batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.0, label_smoothing=0.0, pad=0, flip=False, precision="float32",
        workers=1, seed=3,
    )  # fmt: skip
