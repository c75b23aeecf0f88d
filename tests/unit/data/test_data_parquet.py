"""Parquet in the Hub's layout: against pyarrow's own reading of the whole table, and every malformed file."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.decode import decode
from pipeline.data.sources.parquet import ParquetImages
from pipeline.errors import DataError
from pipeline.params.data import ImageFormat, ParquetSource

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
NAMES = ("cat", "dog", "eel")


def hub_metadata(names: Any, column: str = "label") -> dict[str, str]:
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path: Path, labels: list[Any], names: Any = NAMES, kind: pa.DataType | None = None, start: int = 0) -> str:
    """A file whose row i holds the bytes ``image START+i``."""
    images = [{"bytes": f"image {start + row}".encode(), "path": f"{row}.png"} for row in range(len(labels))]
    types = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, types), "label": pa.array(labels, kind or pa.int64())})
    if names is not None:
        table = table.replace_schema_metadata(hub_metadata(names))
    pq.write_table(table, path, row_group_size=3)
    return str(path)


def opened(files: dict[str, list[str]], limit: int | None = None, **changes: str) -> ParquetImages:
    fields = {"kind": "parquet", "files": files, "image_column": "image", "label_column": "label", "limit": limit}
    return ParquetImages(ParquetSource.model_validate(fields | changes))


def test_rows_are_streamed_in_order_origin_by_origin(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", [0, 1, 2, 1, 0, 2, 2])
    test = write(tmp_path / "test.parquet", [2, 0], start=100)
    source = opened({"train": [train], "test": [test]})
    assert source.class_names == NAMES and len(source) == 9
    images = list(source)
    assert [(i.origin, i.key, i.encoded, i.label) for i in images] == [
        ("test", f"{test}#0", b"image 100", 2),
        ("test", f"{test}#1", b"image 101", 0),
        *(("train", f"{train}#{row}", f"image {row}".encode(), label) for row, label in enumerate([0, 1, 2, 1, 0, 2, 2])),
    ]
    assert list(source) == images  # a source may be read again


@pytest.mark.parametrize("limit", [1, 3, 5, 6, 7, 100])
def test_the_limit_holds_for_each_origin_across_its_files(tmp_path: Path, limit: int) -> None:
    for number, rows in enumerate([4, 2]):
        write(tmp_path / f"a{number}.parquet", [row % 2 for row in range(rows)], start=10 * number)
    write(tmp_path / "b.parquet", [0, 1, 1])
    source = opened({"a": [str(tmp_path / "a*.parquet")], "b": [str(tmp_path / "b.parquet")]}, limit)
    all_of_a = [f"image {number}".encode() for number in (0, 1, 2, 3, 10, 11)]
    assert [image.encoded for image in source if image.origin == "a"] == all_of_a[:limit]
    assert sum(image.origin == "b" for image in source) == min(limit, 3)
    assert len(source) == sum(1 for _ in source)


def test_patterns_give_sorted_files_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c[1]"):
        write(tmp_path / f"{name}.parquet", [0, 1])
    (tmp_path / "folder.parquet").mkdir()
    source = opened({"all": [str(tmp_path / "c[1].parquet"), str(tmp_path / "*.parquet"), str(tmp_path / "a.parquet")]})
    assert [Path(image.key).name for image in source][::2] == ["c[1].parquet#0", "a.parquet#0", "b.parquet#0"]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": bytes([row % 256]) * 50_000} for row in range(400)], "label": [row % 2 for row in range(400)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, compression="none", use_dictionary=False)
    del table
    source = opened({"all": [str(tmp_path / "a.parquet")]})
    before, most = pa.total_allocated_bytes(), 0
    for row, image in enumerate(source):
        assert image.encoded == bytes([row % 256]) * 50_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 5_000_000  # of 20 MB; a row group is 1 MB


def test_without_names_a_class_is_called_by_its_number(tmp_path: Path) -> None:
    source = opened({"all": [write(tmp_path / "a.parquet", [0, 3, 1], names=None), write(tmp_path / "b.parquet", [1], names=None)]})
    assert source.class_names == ("0", "1", "2", "3") and [image.label for image in source] == [0, 3, 1, 1]


@pytest.mark.parametrize(
    "metadata", [{"huggingface": "no JSON"}, {"huggingface": "[]"}, hub_metadata(NAMES, "other"), hub_metadata(3), hub_metadata([1, 2])]
)
def test_metadata_that_name_no_classes_are_as_none(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write(tmp_path / "a.parquet", [0, 1])
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    assert opened({"all": [path]}).class_names == ("0", "1")


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint8(), pa.uint64()])
def test_any_integer_is_a_label(tmp_path: Path, kind: pa.DataType) -> None:
    labels = [image.label for image in opened({"all": [write(tmp_path / "a.parquet", [0, 2, 1], kind=kind)]})]
    assert labels == [0, 2, 1] and all(type(label) is int for label in labels)


@pytest.mark.parametrize("rows", [[None, {"bytes": None, "path": "x.png"}, {"bytes": b"", "path": None}, {"bytes": b"x", "path": None}]])
@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_a_row_without_an_image_has_no_bytes(tmp_path: Path, rows: list[Any], binary: pa.DataType) -> None:
    types = pa.struct([("path", pa.string()), ("bytes", binary)])
    pq.write_table(pa.table({"image": pa.array(rows, types), "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    assert [image.encoded for image in opened({"all": [str(tmp_path / "a.parquet")]})] == [b"", b"", b"", b"x"]


def _corrupt(path: str) -> str:
    """Overwrites the pages and leaves the footer, so that the file opens and its labels or images do not read."""
    content = bytearray(Path(path).read_bytes())
    content[4:60] = b"\xff" * 56
    Path(path).write_bytes(content)
    return path


def _table(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def _text_file(path: Path) -> str:
    path.write_text("id,label\n")
    return str(path)


Build = Callable[[Path], list[str]]
IMAGES = [{"bytes": b"x"}, {"bytes": b"y"}]
REFUSED: list[tuple[Build, str]] = [
    (lambda base: [str(base / "none.parquet")], r"data.source.files.all: '.*none.parquet' matches no file"),
    (lambda base: [write(base / "a.parquet", [0, 1]), str(base / "x*.parquet")], r"'.*x\*.parquet' matches no file"),
    (lambda base: [str(base)], "matches no file"),
    (lambda base: [], "data.source.files.all: the list is empty"),
    (lambda base: [_text_file(base / "a.parquet")], r"a.parquet: cannot be read \(.*\), where an intact Parquet file"),
    (lambda base: [write(base / "a.parquet", [])], r"data.source.files.all: \['.*a.parquet'\] hold no row"),
    (
        lambda base: [_table(base / "a.parquet", label=[0, 1])],
        r"has no column 'image' \(data.source.image_column\), where one of \['label'\]",
    ),
    (lambda base: [_table(base / "a.parquet", image=IMAGES)], r"has no column 'label' \(data.source.label_column\)"),
    (lambda base: [_table(base / "a.parquet", image=[b"x", b"y"], label=[0, 1])], "column 'image' holds binary, where a struct"),
    (lambda base: [_table(base / "a.parquet", image=[{"path": "x"}], label=[0])], "column 'image' holds struct<path: string>"),
    (lambda base: [_table(base / "a.parquet", image=[{"bytes": "x"}], label=[0])], "column 'image' holds struct<bytes: string>"),
    (lambda base: [_table(base / "a.parquet", image=IMAGES, label=["cat", "dog"])], "column 'label' holds string, where integers"),
    (lambda base: [_table(base / "a.parquet", image=IMAGES, label=[0.0, 1.0])], "column 'label' holds double, where integers"),
    (lambda base: [write(base / "a.parquet", [0, 1, 2, 1, 3])], "row 4 of column 'label' is 3, where a class number from 0 to 2"),
    (lambda base: [write(base / "a.parquet", [0, -1, 2])], "row 1 of column 'label' is -1, where"),
    (lambda base: [write(base / "a.parquet", [0, 1, 1, None], names=None)], "row 3 of column 'label' is None, where"),
    (lambda base: [write(base / "a.parquet", [0, 10**9], names=None)], "row 1 of column 'label' is 1000000000, where"),
    (lambda base: [write(base / "a.parquet", [0, 2**64 - 1], kind=pa.uint64())], "row 1 of column 'label' is 18446744073709551615, where"),
    (lambda base: [write(base / "a.parquet", [0, 0], names=["cat"])], "a.parquet: holds only the class 'cat', where at least 2"),
    (lambda base: [write(base / "a.parquet", [0, 0], names=None)], "a.parquet: holds only the class '0', where at least 2"),
    (
        lambda base: [write(base / "a.parquet", [0, 1]), write(base / "b.parquet", [0, 1], names=["dog", "cat"])],
        r"b.parquet: its class names are \('dog', 'cat'\), where those of .*a.parquet, \('cat', 'dog', 'eel'\)",
    ),
    (
        lambda base: [write(base / "a.parquet", [0, 1]), write(base / "b.parquet", [0, 1], names=None)],
        "b.parquet: its class names are None",
    ),
]


@pytest.mark.parametrize(("build", "said"), REFUSED)
def test_a_file_that_cannot_be_a_source_is_refused_with_what_was_found(tmp_path: Path, build: Build, said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened({"all": build(tmp_path)})


def test_no_origin_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="data.source.files: names no file"):
        opened({})


def test_damage_that_shows_while_reading_names_the_file(tmp_path: Path) -> None:
    path = _corrupt(write(tmp_path / "a.parquet", [0, 1, 2]))
    with pytest.raises(DataError, match=r"a.parquet: cannot be read \(.+\), where an intact Parquet file"):
        list(opened({"all": [path]}))


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is absent")
@pytest.mark.parametrize(("name", "column", "channels", "size"), [("cifar10", "img", 3, 32), ("mnist", "image", 1, 28)])
def test_public_image_sets_stream_and_decode(name: str, column: str, channels: int, size: int) -> None:
    files = {split: [str(SHARED / name / f"{split}.parquet")] for split in ("train", "test")}
    source = opened(files, limit=300, image_column=column)
    fields = {"channels": channels, "height": size, "width": size, "resize": False, "convert": ()}
    format = ImageFormat.model_validate(fields | {"max_pixels": 10**6, "max_bytes": 10**6})
    images = list(source)
    assert len(source) == len(images) == 600 and len(source.class_names) == 10
    expected = chain.from_iterable(pq.read_table(files[split][0]).slice(0, 300).to_pylist() for split in ("test", "train"))
    for image, row in zip(images, expected, strict=True):
        assert (image.encoded, image.label) == (row[column]["bytes"], row["label"])
        # Both sets name each file by its class, so the path is a second opinion on the label and its name.
        assert row[column]["path"].split("/")[1] == source.class_names[image.label]
        assert decode(image.encoded, format).shape == (channels, size, size)
