"""The deliverable: classifier, bank and calibration behind one call.

>>> from pipeline.guard import Guard
>>> guard = Guard.load("artifacts/guard")
>>> for inspection in guard.inspect(images):
...     print(inspection.label_name, inspection.probability, inspection.p_value, inspection.verdict)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.artifacts.guards import read_guard
from pipeline.classifiers.activations import NeuronReader
from pipeline.classifiers.model import Classifier, freeze, to_float
from pipeline.data.decode import Unusable, decode_image
from pipeline.detectors.base import Detector
from pipeline.detectors.conformal import Calibration
from pipeline.errors import GuardError
from pipeline.fingerprints.draws import Draws, FreshDraws, KeyedDraws
from pipeline.keys import draw_key
from pipeline.params.data import ImageFormat
from pipeline.params.evaluation import DrawsKind

Images = npt.NDArray[np.uint8] | torch.Tensor | Sequence[Image.Image]
Pixels = npt.NDArray[np.uint8] | torch.Tensor
"""Images of the guard's own format, (N, C, H, W): bytes, or floats where floats were given."""
_WANTED = "where a uint8 array, a float tensor or a sequence of Pillow images was expected"


@dataclass(frozen=True)
class Inspection:
    """What the guard says of one image.

    Attributes:
        label: the predicted class.
        label_name: its name.
        probability: the classifier's own (softmax) probability of it, in [0, 1].
        p_value: in (0, 1]; small is suspicious. A clean image is flagged at most as often as the guard's alpha promises.
        flagged: whether the p-value is at most alpha.
    """

    label: int
    label_name: str
    probability: float
    p_value: float
    flagged: bool

    @property
    def verdict(self) -> str:
        """``attack`` or ``clean``."""
        return "attack" if self.flagged else "clean"

    def to_json(self) -> dict[str, Any]:
        """The inspection as plain values. Which fingerprints the image met is never among them."""
        return {**asdict(self), "verdict": self.verdict}


class Guard:
    """A classifier with its detector. Nobody can foresee which fingerprints an image meets.

    By default every call draws afresh from the operating system's randomness, so no two calls need agree on an image near the
    threshold. With a key the pixels decide, decoded and scaled as the classifier sees them: exactly the same image sent again
    meets the same draw, and one changed pixel buys a new one. Where a user gives floats, their float32 bytes are the pixels.

    Args:
        draw_key: 32 secret bytes for keyed draws, which no reply and no representation shows; None for fresh ones.
    """

    def __init__(
        self,
        classifier: Classifier,
        pool: dict[str, npt.NDArray[np.int64]],
        detector: Detector,
        calibration: Calibration,
        *,
        alpha: float,
        class_names: tuple[str, ...],
        format: ImageFormat,
        draw_key: bytes | None = None,
    ) -> None:
        self.detector, self.calibration, self.alpha = detector, calibration, alpha
        self.class_names, self.format = class_names, format
        self._draw_key = draw_key
        self._read = NeuronReader(classifier, pool)

    @property
    def classifier(self) -> Classifier:
        """The guarded one."""
        return self._read.classifier

    @property
    def pool(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Layer to the columns kept of it."""
        return self._read.pool

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", draws: DrawsKind | None = None) -> "Guard":
        """Loads a guard's folder; nothing in it is unpickled.

        Args:
            path: what ``publish`` wrote, such as ``artifacts/guard``.
            device: where to compute.
            draws: ``fresh`` at every call; or ``keyed``, so that exactly the same image meets the same draw again, while one
                changed pixel buys a new one. None takes what ``publish.draws`` was. For keyed draws the key is read once, here:
                from the environment or from its file, which is made on first use (see ``pipeline.keys``).

        Raises:
            GuardError: there are no such draws.
            ArtifactError: the folder is no guard, or a file in it was altered.
            ClassifierError: the user's own package behind an import path is missing or has another version.
            KeyFileError: draws are keyed, and the key cannot be read or made, is open to others than its owner, or is none.
        """
        if draws not in (None, *get_args(DrawsKind)):
            raise GuardError(f"draws: {draws!r}, where fresh or keyed was expected.")
        stored = read_guard(Path(path))
        key = draw_key() if (draws or stored.draws) == "keyed" else None
        classifier = freeze(stored.classifier).to(device)
        return cls(
            classifier,
            stored.pool,
            stored.detector.detector,
            stored.detector.calibration,
            alpha=stored.detector.alpha,
            class_names=stored.class_names,
            format=stored.format,
            draw_key=key,
        )

    def inspect(self, images: Images, *, batch_size: int = 128) -> list[Inspection]:
        """Classifies images and says of each whether it is under attack.

        Args:
            images: one of: uint8 array (N, H, W, C), or (N, H, W) where the format is grey; float tensor (N, C, H, W) in
                [0, 1]; a sequence of Pillow images. Arrays and tensors have the guard's own size; Pillow images are
                converted and scaled as the guard's format allows.
            batch_size: images a forward pass; changes no result beyond rounding.

        Raises:
            GuardError: images of another kind, shape or range, a Pillow image that the guard's format refuses, or a batch size
                below 1.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise GuardError(f"batch_size: {batch_size!r}, where a whole number of at least 1 was expected.")
        batch = self._batch(images)
        found: list[Inspection] = []
        for start in range(0, len(batch), batch_size):
            found += self._inspect(batch[start : start + batch_size])
        return found

    def _inspect(self, pixels: Pixels) -> list[Inspection]:
        images = pixels if isinstance(pixels, torch.Tensor) else to_float(pixels)
        logits, neurons = self._read(images)
        predicted = logits.argmax(1).astype(np.int64)
        probabilities = torch.from_numpy(logits).double().softmax(1).numpy()[np.arange(len(predicted)), predicted]
        scores = self.detector.scores(neurons, predicted, self._draws(pixels))
        p_values, _ = self.calibration.p_values(scores, predicted)
        return [
            Inspection(int(label), self.class_names[label], float(probability), float(p), bool(p <= self.alpha))
            for label, probability, p in zip(predicted, probabilities, p_values, strict=True)
        ]

    def _draws(self, pixels: Pixels) -> Draws:
        if self._draw_key is None:
            return FreshDraws(len(pixels))
        return KeyedDraws(self._draw_key, pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels)

    def _batch(self, images: Images) -> Pixels:
        if isinstance(images, torch.Tensor):
            return self._tensor(images)
        if isinstance(images, np.ndarray):
            return self._array(images)
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            pixels = [self._pixels(row, image) for row, image in enumerate(images)]
            return np.stack(pixels) if pixels else np.empty((0, *self._shape), np.uint8)
        raise GuardError(f"images: an object of type {type(images).__name__}, {_WANTED} (a single image as a list of one).")

    def _pixels(self, row: int, image: Image.Image) -> npt.NDArray[np.uint8]:
        if not isinstance(image, Image.Image):
            raise GuardError(f"images: a list whose item {row} is of type {type(image).__name__}, {_WANTED}.")
        try:
            return decode_image(image, self.format)
        except Unusable as error:
            raise GuardError(f"images: item {row} cannot be used ({error}), where an image that the guard takes was expected.") from error

    def _tensor(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point() or images.layout != torch.strided or images.shape[1:] != self._shape:
            raise GuardError(f"images: a tensor of {images.dtype} {tuple(images.shape)}, where floats (N, {self._said}) were expected.")
        images = images.float()  # before they are compared, which the smallest types cannot be
        if len(images):
            low, high = map(float, images.aminmax())
            if not (low >= 0 and high <= 1):
                raise GuardError(f"images: values from {low:g} to {high:g}, where [0, 1] was expected.")
        return images

    def _array(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if images.ndim == 3 and self.format.channels == 1:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.transpose(0, 3, 1, 2).shape[1:] != self._shape:
            height, width, channels = self.format.height, self.format.width, self.format.channels
            raise GuardError(
                f"images: an array of {images.dtype} {images.shape}, where uint8 (N, {height}, {width}, {channels}) was expected."
            )
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.format.channels, self.format.height, self.format.width

    @property
    def _said(self) -> str:
        return ", ".join(map(str, self._shape))
