"""Adversarial data sets as others open them: pyarrow, safetensors, Hugging Face's datasets; and what their card says."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from pipeline.artifacts.adversarial import ROWS, AdversarialSet, adversarial_output, row_schema, write_adversarial
from pipeline.artifacts.card import COLUMNS, Origin, origin_of, render_card
from pipeline.artifacts.classifiers import classifier_config, seal_classifier, write_classifier
from pipeline.artifacts.files import digest
from pipeline.artifacts.images import ImageBatch, ImageSet, write_images
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.store import ShardStore
from pipeline.attacks.generate import AttackedImages
from pipeline.attacks.registry import parse_options
from pipeline.data.decode import encode_png
from pipeline.data.prepare import Prepared, PreparedImage
from pipeline.params.attacks import AttackSpec
from pipeline.params.root import load_params

PARAMS = load_params(Path(__file__).resolve().parents[3] / "presets" / "digits.yaml")
NAMES = ("cat", "dog", "newt, great")
SIZES = {"fit-00000-of-00002": 5, "fit-00001-of-00002": 3, "test-00000-of-00001": 4}
"""No image fell into ``tune``."""
ORIGIN = Origin(
    name="steps",
    about="Steps, many of them.\n\nNobody, 2000, equation 1.",
    options={"family": "pgd", "epsilon": 0.25},
    generation={"seed": 3, "eight_bit": True},
    network="cifar_resnet20",
    weights="ab" * 32,
    class_names=NAMES,
    shape=(3, 4, 6),
)
KINDS = {"RGB": ((3, 4, 6), np.uint8), "grey": ((1, 5, 7), np.uint8), "floats": ((3, 4, 6), np.float32)}


def attacked(shard: str, shape: tuple[int, int, int], kind: Any) -> tuple[ImageBatch, AttackedImages]:
    """A made-up shard: random images, every third one skipped, of the others every second one a success."""
    count, random = SIZES[shard], np.random.default_rng(list(shard.encode()))
    ids = [f"{shard}-{row}" for row in range(count)]
    pixels = random.integers(0, 256, (count, *shape), np.uint8)
    labels, rows = random.integers(0, 3, count), np.arange(count)
    skipped = rows % 3 == 2
    success = ~skipped & (rows % 2 == 0)
    clean = np.where(skipped, (labels + 1) % 3, labels)
    result = AttackedImages(
        images=pixels if kind == np.uint8 else (pixels / 255).astype(np.float32),
        clean_predicted=clean,
        predicted=np.where(success, (labels + 2) % 3, clean),
        success=success,
        target=np.full(count, -1),
        target_reached=np.zeros(count, np.bool_),
        skipped=skipped,
        linf=np.where(success, random.random(count), 0),
        l2=np.where(success, random.random(count) * 5, 0),
        steps=np.where(skipped, 0, rows + 1),
        warnings=(f"{count} of 16 are odd.", *([] if count == 5 else ["Random."])),
    )
    return ImageBatch(ids, labels, pixels), result


def make(folder: Path, kind: str = "RGB", *, order: int = 1, **changes: Any) -> Path:
    """A whole artifact, its shards written in this order."""
    shape, dtype = KINDS[kind]
    store, plan = ShardStore(folder / "store"), {shard: f"signature of {shard}" for shard in SIZES}
    for shard in list(SIZES)[::order]:
        batch, result = attacked(shard, shape, dtype)
        store.write(plan[shard], adversarial_output(batch, replace(result, **changes), NAMES))
    origin = replace(ORIGIN, shape=shape, generation={"seed": 3, "eight_bit": dtype == np.uint8})
    write_adversarial(folder / "steps", "steps", plan, store, lambda contents: render_card(origin, contents))
    return folder / "steps"


def front_matter(folder: Path) -> Any:
    return YAML(typ="safe").load((folder / "README.md").read_text().split("---\n")[1])


def blocks(folder: Path) -> list[str]:
    """The card's examples."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("kind", ["RGB", "grey"])
def test_pictures_hold_exactly_the_stored_bytes(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path, kind)
    for shard, count in SIZES.items():
        images = load_file(folder / f"{shard}.arrays.safetensors")["images"]
        pictures = pq.read_table(folder / f"{shard}.rows.parquet")["image"].to_pylist()
        assert images.dtype == np.uint8 and len(pictures) == len(images) == count
        for row, picture in enumerate(pictures):
            with Image.open(io.BytesIO(picture["bytes"])) as opened:
                assert opened.format == "PNG" and opened.mode == ("RGB" if kind == "RGB" else "L")
                pixels = np.asarray(opened)
            assert np.array_equal(pixels, images[row].transpose(1, 2, 0) if kind == "RGB" else images[row, 0])
            assert picture["path"] == f"{shard}-{row}.png"


def test_rows_come_without_pictures(tmp_path: Path) -> None:
    opened = AdversarialSet.open(make(tmp_path))
    for shard in SIZES:
        _, result = attacked(shard, *KINDS["RGB"])
        rows = opened.rows(shard)
        assert rows.column_names == list(ROWS)
        assert all(np.array_equal(rows[name], getattr(result, name)) for name in list(ROWS)[2:])
        assert np.array_equal(opened.images(shard), result.images)


def test_floats_have_no_pictures_and_the_card_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path, "floats")
    assert pq.read_schema(folder / "test-00000-of-00001.rows.parquet").names == list(ROWS)
    card = (folder / "README.md").read_text()
    assert "hold no `image` column" in card and "| `image` |" not in card
    assert "| `image` |" in (make(tmp_path / "bytes") / "README.md").read_text()


def test_the_same_shards_give_the_same_bytes_wherever_and_in_whatever_order_they_are_made(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, order=order) for name, order in (("here", 1), ("and there", -1)))
    hashes = [{path.name: digest(path) for path in sorted(folder.iterdir())} for folder in (first, second)]
    assert hashes[0] == hashes[1]
    assert {"README.md", "manifest.json"} < set(hashes[0]) and len(hashes[0]) == 2 + 2 * len(SIZES)
    assert set(open_artifact(first, "attack").files) == set(hashes[0]) - {"manifest.json"}


def test_the_card_names_the_files_of_every_split(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (config,) = front_matter(folder)["configs"]
    found = {entry["split"]: sorted(path.name for path in folder.glob(entry["path"])) for entry in config["data_files"]}
    assert found == {
        "fit": ["fit-00000-of-00002.rows.parquet", "fit-00001-of-00002.rows.parquet"],
        "test": ["test-00000-of-00001.rows.parquet"],
    }


def test_the_card_counts_what_the_rows_say(tmp_path: Path) -> None:
    """Counts, rates and means, derived again from the Parquet files."""
    folder = make(tmp_path)
    lines = [line.strip("| ").split(" | ") for line in (folder / "README.md").read_text().splitlines() if line.startswith("|")]
    table = {line[0]: line[1:] for line in lines if line[0] in ("fit", "tune", "test")}
    assert set(table) == {"fit", "test"}
    for split, cells in table.items():
        rows = [row for path in folder.glob(f"{split}-*.parquet") for row in pq.read_table(path).to_pylist()]
        tried = [row for row in rows if row["clean_predicted"] == row["label"]]
        won = [row for row in tried if row["predicted"] != row["label"]]
        assert 0 < len(won) < len(tried) < len(rows)
        means = [np.mean([row["linf"] for row in won]), np.mean([row["l2"] for row in won]), np.mean([row["steps"] for row in tried])]
        assert cells[:5] == [str(len(rows)), str(len(tried)), str(len(won)), f"{100 * len(won) / len(tried):.1f} %", "–"]
        assert [float(cell) for cell in cells[5:]] == pytest.approx(means, rel=1e-3)


def test_the_card_says_what_was_attacked_and_how(tmp_path: Path) -> None:
    card = (make(tmp_path) / "README.md").read_text()
    assert ORIGIN.about in card and ORIGIN.weights in card and ORIGIN.network in card
    assert "| `epsilon` | 0.25 |" in card and "| `generation.seed` | 3 |" in card
    assert "0 cat, 1 dog, 2 newt, great." in card
    assert "uint8, 0 to 255" in card and "(N, 3, 4, 6)" in card
    assert "float32, 0 to 1" in (make(tmp_path / "floats", "floats") / "README.md").read_text()


def test_where_nothing_succeeded_there_are_no_rates_of_nothing(tmp_path: Path) -> None:
    count = {"fit": 8, "test": 4}
    folder = tmp_path / "none"
    store, plan = ShardStore(folder / "store"), {shard: shard for shard in SIZES}
    for shard in SIZES:
        batch, result = attacked(shard, *KINDS["RGB"])
        none = np.zeros_like(result.success)
        store.write(shard, adversarial_output(batch, replace(result, success=none, skipped=~none, warnings=()), NAMES))
    said = write_adversarial(folder / "out", "steps", plan, store, lambda contents: render_card(ORIGIN, contents))
    assert said["images"] == sum(count.values()) and said["attacked"] == 0 and said["success_rate"] is None and said["mean_l2"] is None
    card = (folder / "out" / "README.md").read_text()
    assert all(f"| {split} | {images} | 0 | 0 | – | – | – | – | – |" in card for split, images in count.items())
    assert "Warning" not in card and AdversarialSet.open(folder / "out").warnings == []


def test_warnings_are_said_once_each(tmp_path: Path) -> None:
    folder = make(tmp_path)
    expected = ["In 3 of 3 shards: 5 of 16 are odd.", "In 2 of 3 shards: Random."]
    assert AdversarialSet.open(folder).warnings == expected
    assert re.findall(r"\*\*Warning\.\*\* (.*)", (folder / "README.md").read_text()) == expected


def test_every_column_has_a_meaning_and_a_type_that_the_hub_knows() -> None:
    schema = row_schema(NAMES, eight_bit=True)
    assert list(COLUMNS) == schema.names
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == sorted(schema.names)
    assert features["image"] == {"_type": "Image"} and features["label"] == {"_type": "ClassLabel", "names": list(NAMES)}
    assert features["linf"] == {"_type": "Value", "dtype": "float64"} and features["target"] == {"_type": "Value", "dtype": "int64"}


def test_the_card_s_examples_with_pyarrow_and_safetensors_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path)
    monkeypatch.chdir(folder.parent)
    found: dict[str, Any] = {}
    for block in blocks(folder)[1:]:
        exec(block, found)
    assert found["rows"].column_names == ["id", "label", "predicted", "success"] and len(found["rows"]) == 5
    assert found["images"].shape == (5, 3, 4, 6)


READ = """
import hashlib, json, os, sys
import numpy as np

def plain(row):
    if "image" in row:
        row["image"] = [row["image"].mode, hashlib.sha256(np.asarray(row["image"]).tobytes()).hexdigest()]
    return row

def said(data, attacks):
    features = data["test"].features
    return {
        "rows": {split: [plain(dict(row)) for row in data[split]] for split in data},
        "names": features["label"].names,
        "types": {name: type(feature).__name__ for name, feature in features.items()},
        "attacks": len(attacks),
    }

found = {}
for folder, example in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    names = {}
    exec(example, names)
    found[folder] = said(names["data"], names["attacks"])
print(json.dumps(found))
"""


def test_hugging_face_datasets_reads_it(tmp_path: Path) -> None:
    """By the card's own example, in a process of its own, without a network; each of the three data sets, which have the same
    name and share a cache, is read as itself."""
    if find_spec("datasets") is None:
        pytest.skip("Hugging Face's datasets is not installed")
    folders = {kind: make(tmp_path / kind, kind) for kind in KINDS}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    examples = json.dumps({str(folder.parent): blocks(folder)[0] for folder in folders.values()})
    done = subprocess.run([sys.executable, "-c", READ, examples], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    for kind, folder in folders.items():
        found = read[str(folder.parent)]
        assert set(found["rows"]) == {"fit", "test"} and found["names"] == list(NAMES)
        assert found["types"]["label"] == "ClassLabel" and found["types"].get("image") == (None if kind == "floats" else "Image")
        for split, rows in found["rows"].items():
            assert rows == [row for shard in SIZES if shard.startswith(split) for row in _expected(shard, kind)]
        assert found["attacks"] == sum(row["success"] for row in found["rows"]["fit"]) > 0


def _expected(shard: str, kind: str) -> list[dict[str, Any]]:
    batch, result = attacked(shard, *KINDS[kind])
    rows = []
    for row, key in enumerate(batch.ids):
        values = {name: getattr(result, name)[row].item() for name in list(ROWS)[2:]}
        entry = {"id": key, "label": int(batch.labels[row]), **values}
        if kind != "floats":
            entry["image"] = ["RGB" if kind == "RGB" else "L", sha256(result.images[row].transpose(1, 2, 0).tobytes()).hexdigest()]
        rows.append(entry)
    return rows


def test_the_origin_is_read_from_the_artifacts(tmp_path: Path) -> None:
    """Everything that the stage does not say itself: classes, shape, network, weights, and the family's paper."""
    pixels = np.zeros((1, 8, 8), np.uint8)
    image = PreparedImage("0" * 32, 1, "test", "digits", "key", encode_png(pixels), "png")
    write_images(tmp_path / "data", Prepared([image], [], [], NAMES), PARAMS.data.image, 10)
    write_classifier(tmp_path / "classifier", {}, classifier_config(PARAMS.classifier, NAMES, 1))
    seal_classifier(tmp_path / "classifier")
    options = parse_options("fast", AttackSpec.model_validate({"family": "fgsm", "norm": "linf", "epsilon": 0.125, "targeted": False}))
    images, classifier = ImageSet.open(tmp_path / "data"), open_artifact(tmp_path / "classifier", "classifier")
    origin = origin_of("fast", options, PARAMS.generation, images, classifier)
    assert (origin.name, origin.class_names, origin.shape) == ("fast", NAMES, (1, 8, 8))
    assert origin.options["epsilon"] == 0.125 and origin.generation["eight_bit"] is True and origin.network == "cifar_resnet20"
    assert origin.weights == digest(tmp_path / "classifier" / "model.safetensors")
    assert "Goodfellow" in origin.about and not origin.about.startswith("\n")
