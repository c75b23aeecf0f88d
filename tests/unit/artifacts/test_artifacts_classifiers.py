"""The classifier artifact: what is written comes back, and a factory whose code is another is refused before it runs."""

import hashlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.classifiers import classifier_config, package_version, read_classifier, seal_classifier, write_classifier
from pipeline.classifiers.adopt import import_factory
from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier
from pipeline.errors import ClassifierError
from pipeline.params.classifier import AdoptedClassifier

MODULE = """
from pathlib import Path
from torch import nn
Path(__file__).with_suffix(".ran").touch()
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
MEAN, STD, SIZE = (0.3,), (0.4,), (8, 8)
CLASSES = tuple(map(str, range(10)))

Write = Callable[[str | None, str | None, torch.nn.Module], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(architecture: str | None, factory: str | None, network: torch.nn.Module) -> Path:
        params = AdoptedClassifier(
            kind="adopt", architecture=architecture, factory=factory, pretrained=False, checkpoint="given", unseen="unknown", mean=MEAN,
            std=STD, input_size=SIZE,
        )  # fmt: skip
        folder = tmp_path / "classifier"
        write_classifier(folder, Classifier(network, MEAN, STD, SIZE).state_dict(), classifier_config(params, CLASSES, 1))
        seal_classifier(folder)
        return folder

    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user's own modules lie: alone, in a package, and in a folder that is a package without saying so."""
    folder = tmp_path / "home"
    for name in ("users_plain.py", "users_pack/inner.py", "users_space/deep/inner.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MODULE)
    (folder / "users_pack/__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in [name for name in sys.modules if name.startswith("users_") and name not in before]:
        del sys.modules[name]


def _forget(module: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        del sys.modules[name]


def _same(one: torch.nn.Module, network: torch.nn.Module) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((5, 1, 8, 8), np.float32))
    with torch.no_grad():
        expected = network.eval()((images - MEAN[0]) / STD[0])
        torch.testing.assert_close(one.eval()(images), expected)


def test_our_network_comes_back(write: Write) -> None:
    torch.manual_seed(0)
    network = cifar_resnet20(10, 1)
    _same(read_classifier(write("cifar_resnet20", None, network)), network)


def test_a_factory_s_network_comes_back(write: Write, home: Path) -> None:
    network = import_factory("users_plain:make")
    folder = write(None, "users_plain:make", network)
    _same(read_classifier(folder), network)
    _forget("users_plain")
    _same(read_classifier(folder), network)


def test_a_changed_module_is_refused_before_it_runs(write: Write, home: Path) -> None:
    folder = write(None, "users_plain:make", import_factory("users_plain:make"))
    _forget("users_plain")
    (home / "users_plain.ran").unlink()
    (home / "users_plain.py").write_text(MODULE + "# as before, but for this line\n")
    with pytest.raises(ClassifierError) as caught:
        read_classifier(folder)
    said, old, new = (
        str(caught.value),
        *(hashlib.sha256(text.encode()).hexdigest() for text in (MODULE, (home / "users_plain.py").read_text())),
    )
    assert "'users_plain:make'" in said and f"sha256:{new}, where sha256:{old} was expected" in said
    assert not (home / "users_plain.ran").exists()


def test_a_missing_module_is_refused(write: Write, home: Path) -> None:
    folder = write(None, "users_plain:make", import_factory("users_plain:make"))
    _forget("users_plain")
    (home / "users_plain.py").unlink()
    with pytest.raises(ClassifierError, match=r"'users_plain:make'.*no module 'users_plain'.*expected"):
        read_classifier(folder)


@pytest.mark.parametrize("module", ["users_plain", "users_pack.inner", "users_space.deep.inner"])
def test_a_module_of_no_distribution_is_known_by_its_hash_and_not_imported(module: str, home: Path) -> None:
    assert package_version(f"{module}:make") == f"sha256:{hashlib.sha256(MODULE.encode()).hexdigest()}"
    assert not list(home.rglob("*.ran")) and module not in sys.modules


def test_an_installed_distribution_is_known_by_its_version() -> None:
    assert package_version("numpy.linalg:norm") == version("numpy")
    assert package_version("PIL.Image:open") == version("pillow"), "whose name is another than the package's"


@pytest.mark.parametrize(
    "factory", ["users_plain.inner:make", "users_pack.absent:make", "users_space:make", "nobody.has:this", ":make", ""]
)
def test_what_has_no_source_is_a_sentence(factory: str, home: Path) -> None:
    with pytest.raises(ClassifierError, match="expected") as caught:
        package_version(factory)
    assert repr(factory) in str(caught.value)
