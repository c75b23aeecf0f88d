"""The 1,797 handwritten digits inside scikit-learn: real images that need no download."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

from pipeline.data.decode import encode_png
from pipeline.data.sources.base import RawImage

ORIGIN = "digits"
_FULL_INK = 16  # scikit-learn's grey levels are 0..16: how many of 4x4 binary pixels were set


class Digits:
    """Grey 8x8 digits, black 0 to white 255, as PNG; source: UCI "Optical Recognition of Handwritten Digits", test part."""

    def __init__(self) -> None:
        digits = load_digits()
        self.class_names = tuple(str(name) for name in digits.target_names)
        self._images = np.round(digits.images * (255 / _FULL_INK)).astype(np.uint8)
        self._labels = digits.target

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[RawImage]:
        for row, (image, label) in enumerate(zip(self._images, self._labels, strict=True)):
            yield RawImage(f"{ORIGIN}/{row:05d}", encode_png(image[None]), int(label), ORIGIN)
