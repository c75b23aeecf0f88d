"""Foreign checkpoints and import paths: what fits is loaded exactly, what does not is a sentence."""

import pickle
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers_support import logits_of
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.classifiers.adopt import WRAPPERS, adopt, check_logits, import_factory, load_foreign_state, load_into
from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier
from pipeline.errors import ClassifierError
from pipeline.params.classifier import AdoptedClassifier


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return cifar_resnet20(10, 1)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def adopted(checkpoint: Path | None, **changes: Any) -> AdoptedClassifier:
    given: dict[str, Any] = {
        "kind": "adopt", "architecture": "cifar_resnet20", "factory": None, "pretrained": False, "unseen": "unknown",
        "checkpoint": checkpoint and str(checkpoint), "mean": (0.3,), "std": (0.4,), "input_size": (8, 8),
    }  # fmt: skip
    return AdoptedClassifier(**{**given, **changes})


SAVED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    **{f"under {key}": lambda state, key=key: {key: state, "epoch": 3, "optimizer": {"lr": 0.1}} for key in WRAPPERS},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled DataParallel": lambda state: {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "nested": lambda state: {"state_dict": {"model": state}},
    "averaged beside": lambda state: {"state_dict": {name: value + 1 for name, value in state.items()}, "state_dict_ema": state},
    "half precision": lambda state: {name: value.half().to(value.dtype) for name, value in state.items()},
}


@pytest.mark.parametrize("kind", SAVED)
def test_checkpoints_as_people_save_them(kind: str, tmp_path: Path) -> None:
    state = {name: value.half().to(value.dtype) for name, value in network(1).state_dict().items()}
    torch.save(SAVED[kind](state), tmp_path / "given.pth")
    fresh = network(2)
    load_into(fresh, load_foreign_state(tmp_path / "given.pth"), "given.pth")
    assert same(fresh.state_dict(), state)


@pytest.mark.parametrize("name", ["given.safetensors", "given.bin"])
def test_safetensors_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    state = network(1).state_dict()
    save_file(state, tmp_path / name)
    assert same(load_foreign_state(tmp_path / name), state)


def test_a_prefix_that_belongs_stays() -> None:
    wrapped = nn.ModuleDict({"model": nn.Linear(2, 2)})
    state = {name: value + 1 for name, value in wrapped.state_dict().items()}
    load_into(wrapped, state, "given")
    assert same(wrapped.state_dict(), state)


def test_counters_of_batch_norm_may_be_missing() -> None:
    state = {name: value for name, value in network(1).state_dict().items() if not name.endswith("num_batches_tracked")}
    fresh = network(2)
    load_into(fresh, state, "given")
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in state.items())


def test_what_does_not_fit_is_counted_and_named_and_changes_nothing() -> None:
    state = {f"module.{name}": value for name, value in network(1).state_dict().items() if "layer3.0" not in name}
    state |= {f"module.extra{number}": torch.zeros(1) for number in range(7)}
    state["module.fc.weight"] = torch.zeros(100, 64)
    fresh, before = network(2), network(2).state_dict()
    with pytest.raises(ClassifierError) as raised:
        load_into(fresh, state, "given.pth")
    message = str(raised.value)
    assert message.startswith("given.pth: the tensors do not fit the network: 10 missing (layer3.0.conv1.weight, layer3.0.bn1.weight, ")
    assert "and 5 more)" in message
    assert "7 unexpected (extra0, extra1, extra2, extra3, extra4 and 2 more)" in message
    assert "1 wrongly shaped (fc.weight (100, 64) where (10, 64) was expected)" in message
    assert same(fresh.state_dict(), before)


class Planted:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "hook": Planted(tmp_path / "hit")}, tmp_path / "new.pth")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Planted(tmp_path / "hit"), protocol=2))
    torch.save(network(), tmp_path / "whole.pth")
    for name in ("new.pth", "bare.pkl", "whole.pth"):
        with pytest.raises(ClassifierError, match=f"{name}: is no checkpoint that can be read without unpickling objects"):
            load_foreign_state(tmp_path / name)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no checkpoint"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "is no checkpoint"),
        (b"PK\x03\x04 and then nothing", "is no checkpoint"),
        ([1, 2], "holds list, where a mapping of names to tensors was expected"),
        ({}, "holds no tensor, where a state dict was expected"),
        ({"weight": torch.zeros(1), "epoch": 3}, r"holds entries that are no tensors \(epoch\)"),
        ({"state_dict": {"weight": [1.0]}}, r"holds entries that are no tensors \(weight\)"),
    ],
)
def test_what_is_no_checkpoint_is_said(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ClassifierError, match=said) as raised:
        load_foreign_state(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"absent.pth: cannot be read \(No such file or directory\)"):
        load_foreign_state(tmp_path / "absent.pth")


FACTORIES = """
import torch
from torch import nn

def good():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def with_arguments(width):
    return nn.Linear(width, width)

def returns_text():
    return "a network"

def fails():
    raise RuntimeError("out of luck")

def wrong_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 11))

def wrong_size():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))

class Wrapper(nn.Module):
    def forward(self, images):
        return {"logits": images}

class NotFinite(nn.Module):
    def forward(self, images):
        return images.new_full((len(images), 10), float("nan"))

constant = 3
"""


@pytest.fixture
def users_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_networks.py").write_text(textwrap.dedent(FACTORIES))
    (tmp_path / "users_broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "users_networks"


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("users_networks", "is no import path, where package.module:factory was expected"),
        ("users_networks:", "is no import path"),
        (":good", "is no import path"),
        ("users networks:good", "is no import path"),
        ("nobody_has_this:good", "cannot be imported .*No module named 'nobody_has_this'"),
        ("users_broken:good", "cannot be imported .*a_package_that_nobody_has"),
        ("users_networks:absent", "has no such name"),
        ("users_networks:constant", "names int, which cannot be called"),
        ("users_networks:with_arguments", "failed when called without arguments .*width"),
        ("users_networks:fails", "failed when called without arguments .*RuntimeError: out of luck"),
        ("users_networks:returns_text", "returned str, where a torch.nn.Module was expected"),
    ],
)
def test_every_way_an_import_path_fails_is_said(factory: str, said: str, users_package: str) -> None:
    with pytest.raises(ClassifierError, match=said) as raised:
        import_factory(factory)
    assert f"classifier.factory: {factory!r}" in str(raised.value)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("wrong_classes", r"a tensor of shape \(2, 11\), where logits of shape \(2, 10\)"),
        ("wrong_size", r"the network fails on two images \(RuntimeError.*, where logits of shape \(2, 10\)"),
    ],
)
def test_adopting_a_network_that_does_not_fit_the_data_is_said(factory: str, said: str, users_package: str, tmp_path: Path) -> None:
    path = f"{users_package}:{factory}"
    torch.save(import_factory(path).state_dict(), tmp_path / "given.pth")
    with pytest.raises(ClassifierError, match=said):
        adopt(adopted(tmp_path / "given.pth", architecture=None, factory=path), 10, 1)


@pytest.mark.parametrize(
    ("factory", "said"), [("Wrapper", "the network returned dict, where logits"), ("NotFinite", "logits that are not finite, where")]
)
def test_logits_that_are_none_are_said(factory: str, said: str, users_package: str) -> None:
    classifier = Classifier(import_factory(f"{users_package}:{factory}"), (0.3,), (0.4,), (8, 8))
    with pytest.raises(ClassifierError, match=said):
        check_logits(classifier, 10, 1)


def test_adopting_a_checkpoint_gives_its_logits_frozen(tmp_path: Path) -> None:
    original = network(1).eval()
    save_file(original.state_dict(), tmp_path / "given.safetensors")
    classifier = adopt(adopted(tmp_path / "given.safetensors"), 10, 1)
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    with torch.no_grad():
        expected = original((torch.from_numpy(images) / 255 - 0.3) / 0.4)
    np.testing.assert_allclose(logits_of(classifier, images), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_adopting_a_factory(users_package: str, tmp_path: Path) -> None:
    state = {"1.weight": torch.eye(64)[:10].clone(), "1.bias": torch.arange(10.0)}
    torch.save({"model_state_dict": state}, tmp_path / "given.pth")
    classifier = adopt(adopted(tmp_path / "given.pth", architecture=None, factory=f"{users_package}:good"), 10, 1)
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8)
    expected = (image.reshape(-1)[:10] / 255 - 0.3) / 0.4 + np.arange(10)
    np.testing.assert_allclose(logits_of(classifier, image)[0], expected, rtol=1e-5, atol=1e-5)


def test_channels_other_than_the_checkpoints_are_said(tmp_path: Path) -> None:
    save_file(network(1).state_dict(), tmp_path / "given.safetensors")
    params = adopted(tmp_path / "given.safetensors", mean=(0.3,) * 3, std=(0.4,) * 3)
    with pytest.raises(ClassifierError, match=r"1 wrongly shaped \(stem.0.weight \(16, 1, 3, 3\) where \(16, 3, 3, 3\) was expected\)"):
        adopt(params, 10, 3)


def test_pretrained_weights_of_other_classes_are_refused_before_a_download() -> None:
    params = adopted(None, architecture="resnet18", pretrained=True, mean=(0.3,) * 3, std=(0.4,) * 3)
    with pytest.raises(ClassifierError, match=r"classifier.pretrained: the weights of 'resnet18' tell 1000 classes apart, where 10"):
        adopt(params, 10, 3)
