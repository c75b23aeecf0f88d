"""A network that cannot take the images is a sentence, trained or adopted."""

from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from pipeline.checks import check
from pipeline.classifiers.activations import layer_sizes
from pipeline.classifiers.model import Classifier, freeze
from pipeline.errors import ClassifierError
from pipeline.params.root import load_params

PROJECT = Path(__file__).resolve().parents[3]


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(16)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.pool(self.conv(images)).flatten(1)
        return logits


@pytest.mark.parametrize("training", [True, False])
def test_layers_of_a_network_that_fails_on_the_images_are_a_sentence(training: bool) -> None:
    classifier = freeze(Classifier(Pooled(), (0.5,), (0.5,), (8, 8))).train(training)
    with pytest.raises(ClassifierError, match=r"fails on images of shape \(2, 1, 8, 8\) \(RuntimeError: .*size.*\), where .*conv, logits"):
        layer_sizes(classifier, ["conv", "logits"], (1, 8, 8))
    assert classifier.network.training is training and not classifier.network.get_submodule("conv")._forward_hooks
    assert layer_sizes(Classifier(Pooled(), (0.5,), (0.5,), (16, 16)), ["conv"], (1, 8, 8)) == {"conv": 4 * 16 * 16}


def test_a_network_to_train_that_cannot_take_the_input_size_is_a_sentence(tmp_path: Path) -> None:
    """densenet121 halves its images five times, which 8x8 cannot bear."""
    content = YAML(typ="safe").load((PROJECT / "presets/digits.yaml").read_text())
    content["classifier"]["architecture"] = "densenet121"
    content["activations"]["layers"] = {"logits": "all"}
    content["fingerprints"]["layer_weights"] = {"logits": 1.0}
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML().dump(content, file)
    with pytest.raises(ClassifierError, match=r"^classifier: the network fails on two images .*\(2, 1, 8, 8\) were expected"):
        check(load_params(path), path)


def test_a_network_to_train_with_other_outputs_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 11), nn.Dropout(1.0))
    torch.nn.init.ones_(network[1].weight)
    monkeypatch.setattr("pipeline.classifiers.zoo.build_untrained", lambda *_: Classifier(network, (0.3,), (0.4,), (8, 8)))
    with pytest.raises(ClassifierError, match=r"a tensor of shape \(2, 11\), where logits of shape \(2, 10\)"):
        check(load_params(PROJECT / "presets/digits.yaml"))
