"""The model and the images that every engine is given: a run's own, or a small ResNet-20 on handwritten digits."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from pipeline.artifacts.classifiers import CONFIG, read_classifier
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.attacks.geometry import as_floats
from pipeline.classifiers.model import Classifier
from pipeline.classifiers.training import TrainingSet, fit_classifier
from pipeline.classifiers.zoo import build_untrained
from pipeline.params.classifier import TrainedClassifier

SPLIT = "test"
BATCH = 128
CIFAR_SIZE = 32


@dataclass(frozen=True)
class Subject:
    """A trained classifier and images that it classifies correctly.

    Attributes:
        model: as a user has it after loading: in evaluation mode, contiguous, parameters with gradients.
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        ids: one an image; they key our random draws.
        classes: K.
        about: which model and images these are, for the caption.
    """

    model: Classifier
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    classes: int
    about: str

    @property
    def channels(self) -> int:
        """C of the images."""
        return int(self.images.shape[1])

    def floats(self) -> Tensor:
        """The images as every engine gets them: float32 (N, C, H, W) in [0, 1], contiguous."""
        return as_floats(torch.from_numpy(self.images))

    def part(self, count: int) -> "Subject":
        """The first ``count`` images."""
        return Subject(self.model, self.images[:count], self.labels[:count], self.ids[:count], self.classes, self.about)


def add_subject_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--images``."""
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a classifier artifact; goes with --images")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help=f"a data artifact, whose {SPLIT} split is used; goes with --model")
    parser.add_argument("--about", metavar="TEXT", help="what the images of --images are, for the caption")


def subject(options: argparse.Namespace, count: int, *, fewer: bool = False) -> Subject:
    """The first ``count`` correctly classified images and their model; a short training of its own where no artifacts are given.

    Args:
        options: what ``add_subject_options`` added.
        count: images.
        fewer: all there are will do where they are not so many.

    Raises:
        SystemExit: one of ``--model`` and ``--images`` came without the other, or there are too few images.
    """
    if (options.model is None) != (options.images is None):
        raise SystemExit("--model and --images: one of them was given, where both or neither were expected.")
    found = _digits() if options.model is None else _artifacts(options.model, options.images, options.about)
    right = np.concatenate([_right(found, slice(first, first + BATCH)) for first in range(0, len(found.labels), BATCH)])
    rows = np.flatnonzero(right)[:count]
    if len(rows) < count and not fewer:
        raise SystemExit(f"{len(rows)} images are classified correctly, where at least {count} were expected.")
    about = f"{found.about}; {len(rows)} images of those it classifies correctly ({right.mean():.1%} of {len(right)})"
    return Subject(found.model, found.images[rows], found.labels[rows], tuple(found.ids[row] for row in rows), found.classes, about)


def _right(found: Subject, rows: slice) -> npt.NDArray[np.bool_]:
    with torch.no_grad():
        predicted = found.model(as_floats(torch.from_numpy(found.images[rows]))).argmax(1).numpy()
    return np.asarray(predicted == found.labels[rows])


def _artifacts(model: Path, images: Path, about: str | None) -> Subject:
    data, config = ImageSet.open(images), open_artifact(model, "classifier").json(CONFIG)
    batch, shape = data.read_split(SPLIT), data.format
    trained = f", trained on {data.count('train'):,} images" if config["origin"] == "train" else ""
    size = f"{shape.width}x{shape.height}, {shape.channels} channels"
    text = f"model: {config['architecture'] or config['factory']} of a run{trained}; images: {about or 'its own'}, {SPLIT} split, {size}"
    return Subject(read_classifier(model).eval(), batch.images, batch.labels, tuple(batch.ids), len(data.class_names), text)


def _digits() -> Subject:
    """ResNet-20 trained for a few epochs on half of scikit-learn's digits, scaled up to the size and channels of CIFAR-10."""
    data = load_digits()
    grey = torch.from_numpy(data.images / 16).float()[:, None]
    scaled = functional.interpolate(grey, (CIFAR_SIZE, CIFAR_SIZE), mode="bilinear").expand(-1, 3, -1, -1)
    images = (scaled * 255).round().to(torch.uint8).contiguous().numpy()
    labels = data.target.astype(np.int64)
    place = np.arange(len(labels)) % 8  # four of eight to train on, one to choose the epoch by, three held out
    model = _trained(*(TrainingSet(images[part], labels[part]) for part in (place < 4, place == 4)))
    held_out = place > 4
    ids = tuple(f"{row:032x}" for row in range(held_out.sum()))
    about = f"model: cifar_resnet20 trained for {EPOCHS} epochs on scikit-learn's digits scaled to 32x32 RGB; images: the digits held out"
    return Subject(model, images[held_out], labels[held_out], ids, len(data.target_names), about)


EPOCHS = 6


def _trained(train: TrainingSet, tune: TrainingSet) -> Classifier:
    recipe = TrainedClassifier(
        kind="train",
        architecture="cifar_resnet20",
        pretrained=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        input_size=(CIFAR_SIZE, CIFAR_SIZE),
        epochs=EPOCHS,
        patience=EPOCHS,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        label_smoothing=0.0,
        pad=2,
        flip=False,
        precision="float32",
        workers=1,
        seed=0,
    )
    classifier = build_untrained(recipe, 10, 3)
    best = fit_classifier(classifier, train, tune, recipe, torch.device("cpu"), 0, 1, lambda _: None, lambda model: model)
    loaded = build_untrained(recipe, 10, 3)  # training leaves the weights channels-last; a user's are as loaded
    loaded.load_state_dict(best.best_state)
    return loaded.eval()
