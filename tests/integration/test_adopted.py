"""A user's own classifier and a user's own folder of images, through the whole chain."""

import json
from pathlib import Path

import numpy as np
import pytest
from integration_support import SMALL, Chain
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow

FACTORY = '''"""A network of the user's own."""

from pipeline.classifiers.zoo import build_network


def make():
    return build_network("cifar_resnet20", 10, 1, pretrained=False)
'''


@pytest.fixture(scope="module")
def adopted(finished: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Digits as PNG files in a folder per class, some of them bad, and the other chain's weights behind a factory."""
    chain = Chain.copy(tmp_path_factory.mktemp("adopted"), SMALL)
    digits = load_digits()
    for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = chain.folder / "mine" / f"digit-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(folder / f"{row}.png")
    bad = chain.folder / "mine" / "digit-3"
    (bad / "empty.png").write_bytes(b"")
    (bad / "text.png").write_text("no image")
    whole = (bad / next(path.name for path in sorted(bad.glob("[0-9]*.png")))).read_bytes()
    (bad / "truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (9, 9)).save(bad / "size.png")
    Image.new("RGB", (8, 8)).save(bad / "colour.png")
    (chain.folder / "mine" / "digit-4" / "copy.png").write_bytes(whole)
    (chain.folder / "users_package.py").write_text(FACTORY)
    state = load_file(finished.artifacts / "classifier/model.safetensors")
    save_file({name.removeprefix("network."): tensor for name, tensor in state.items()}, chain.folder / "weights.safetensors")
    chain.change(
        {
            "data.source": {"kind": "folder", "roots": {"mine": "mine"}},
            "splits.origins": {"mine": {"train": 0.35, "fit": 0.20, "tune": 0.05, "calibrate": 0.20, "test": 0.20}},
            "classifier": {
                "kind": "adopt",
                "architecture": None,
                "factory": "users_package:make",
                "pretrained": False,
                "checkpoint": "weights.safetensors",
                "unseen": "unknown",
                "mean": [0.305],
                "std": [0.376],
                "input_size": [8, 8],
            },
        }
    )
    chain.repro()
    return chain


def test_bad_images_are_set_aside_with_their_reasons_and_stop_nothing(adopted: Chain) -> None:
    reasons = {Path(row["key"]).name: row["reason"] for row in json.loads((adopted.artifacts / "data/quarantine.json").read_text())}
    expected = {"empty": "empty", "text": "unreadable", "truncated": "truncated", "size": "wrong_size", "colour": "wrong_mode"}
    assert {f"{name}.png": reason for name, reason in expected.items()}.items() <= reasons.items()
    assert reasons["copy.png"] == "conflicting_labels"
    page = (adopted.artifacts / "reports/report.html").read_text()
    assert all(f"{name}.png" in page for name in expected)


def test_the_same_pixels_fall_into_the_same_splits_whatever_the_source(adopted: Chain, finished: Chain) -> None:
    from pipeline.artifacts.images import ImageSet

    mine, theirs = (ImageSet.open(chain.artifacts / "data").read_split("test").ids for chain in (adopted, finished))
    assert len(set(mine) & set(theirs)) >= len(theirs) - 2


def test_nobody_said_what_the_classifier_has_seen_so_the_promise_is_void(adopted: Chain) -> None:
    page, card = (adopted.artifacts / "reports/report.html").read_text(), (adopted.artifacts / "guard/README.md").read_text()
    assert "promise is void" in card and "void" in page
    assert not (adopted.artifacts / ".work/training").exists()


def test_what_changes_outside_the_project_is_noticed(adopted: Chain, tmp_path: Path) -> None:
    """Another checkpoint at the same path, and an image changed in place: DVC sees neither."""
    chain = adopted.clone(tmp_path / "copy")
    weights = chain.folder / "weights.safetensors"
    assert "nothing was run" in chain.repro().stdout  # of the whole chain; what follows is seen at the stages that read from outside
    state = load_file(weights)
    state["fc.bias"] = state["fc.bias"] + 0.25
    save_file(state, weights)
    changed = next((chain.folder / "mine/digit-0").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    done = chain.repro("train_classifier")
    assert "Running stage 'train_classifier'" in done.stdout and "Running stage 'prepare'" in done.stdout
    assert chain.hashes(Path("artifacts/classifier")) != adopted.hashes(Path("artifacts/classifier"))
    stale = chain.run("dvc", "status").stdout  # and everything that rests on them is to be made again
    assert all(f"{stage}:" in stale for stage in ("attack@fgsm", "attack@pgd", "activations", "promise", "whitebox", "publish"))
    again = chain.repro("train_classifier").stdout
    assert "Running stage" not in again and "has changed" not in again


def test_the_guard_needs_the_user_s_package_and_says_so(adopted: Chain, tmp_path: Path) -> None:
    image = next((adopted.folder / "mine/digit-0").iterdir())
    adopted.run("whorl", "detect", str(image), expect=None)
    (adopted.folder / "users_package.py").rename(tmp_path / "users_package.py")
    done = adopted.run("whorl", "detect", str(image), expect=2)
    assert "users_package" in done.stderr and "Traceback" not in done.stderr
