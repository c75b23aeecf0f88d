"""The registry, and the digits inside scikit-learn."""

import io
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from pipeline.data.decode import decode, encode_png
from pipeline.data.prepare import prepare_images
from pipeline.data.sources.base import require_classes
from pipeline.data.sources.registry import open_source
from pipeline.errors import DataError
from pipeline.params.data import DataParams, DigitsSource, ImageFormat, Source
from pipeline.params.splits import SplitParams

DIGITS = ImageFormat(channels=1, height=8, width=8, resize=False, convert=(), max_pixels=64, max_bytes=1000)


def test_digits_are_those_of_scikit_learn_in_full_range() -> None:
    source = open_source(DigitsSource(kind="digits"))
    images = list(source)
    assert len(source) == len(images) == 1797 and source.class_names == tuple("0123456789")
    assert [image.key for image in images[::1796]] == ["digits/00000", "digits/01796"]
    assert {image.origin for image in images} == {"digits"} and all(type(image.label) is int for image in images)
    original = load_digits()
    np.testing.assert_array_equal([image.label for image in images], original.target)
    decoded = np.stack([decode(image.encoded, DIGITS) for image in images])
    assert Image.open(io.BytesIO(images[0].encoded)).mode == "L" and decoded.min() == 0 and decoded.max() == 255
    levels = original.images.astype(int)
    np.testing.assert_array_equal(decoded[:, 0], (levels * 255 + 8) // 16)  # 0..16 to 0..255, rounded
    assert list(source) == images  # a source may be read again


def test_all_digits_survive_preparation_with_their_own_bytes() -> None:
    params = DataParams(source=DigitsSource(kind="digits"), image=DIGITS, max_quarantined=0.0, shard_size=256)
    shares = {"train": 0.35, "fit": 0.25, "tune": 0.05, "calibrate": 0.15, "test": 0.2}
    splits = SplitParams.model_validate({"split_seed": 0, "origins": {"digits": shares}})
    source = open_source(params.source)
    prepared = prepare_images(source, params, splits, lambda count: None)
    given = {image.key: image.encoded for image in source}
    assert prepared.quarantined == [] and {image.key: image.encoded for image in prepared.images} == given
    for split, share in shares.items():
        count = sum(image.split == split for image in prepared.images)
        assert abs(count - share * 1797) < 4 * np.sqrt(1797 * share * (1 - share))


def test_every_kind_of_source_in_the_params_is_opened_by_the_registry(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("cat", "dog"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "0.png").write_bytes(encode_png(np.zeros((1, 2, 2), np.uint8)))
    pq.write_table(pa.table({"image": [{"bytes": b"x"}] * 2, "label": [0, 1]}), tmp_path / "a.parquet")
    examples: dict[str, dict[str, Any]] = {
        "digits": {},
        "folder": {"roots": {"all": str(tmp_path / "folder")}},
        "parquet": {"files": {"all": [str(tmp_path / "a.parquet")]}, "image_column": "image", "label_column": "label", "limit": None},
    }
    union, _ = typing.get_args(Source)
    kinds = {typing.get_args(params.model_fields["kind"].annotation)[0] for params in typing.get_args(union)}
    assert kinds == set(examples)
    opened = {kind: open_source(TypeAdapter(Source).validate_python({"kind": kind} | fields)) for kind, fields in examples.items()}
    assert {kind: len(source) for kind, source in opened.items()} == {"digits": 1797, "folder": 2, "parquet": 2}


def test_the_registry_imports_only_what_it_opens() -> None:
    code = "import sys, pipeline.data.sources.registry; sys.exit(any(name in sys.modules for name in ('pyarrow', 'sklearn', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}, check=False).returncode == 0


@pytest.mark.parametrize(("names", "said"), [((), "holds no class, where at least 2"), (("cat",), "holds only the class 'cat'")])
def test_fewer_than_two_classes_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=f"^here: {said}"):
        require_classes("here", names)
