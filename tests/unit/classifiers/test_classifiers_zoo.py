"""Networks by name."""

import subprocess
import sys

import pytest
import torch

from pipeline.classifiers.zoo import build_network, build_untrained, pretrained_classes
from pipeline.errors import ClassifierError
from pipeline.params.classifier import TrainedClassifier


def weights(params: TrainedClassifier) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in build_untrained(params, 10, 1).state_dict().values()])


def test_our_names_need_no_timm() -> None:
    code = (
        "import sys; from pipeline.classifiers.zoo import build_network; build_network('cifar_resnet20', 10, 3, False); "
        "import pipeline.classifiers.adopt, pipeline.classifiers.training, pipeline.classifiers.activations; "
        "sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_initial_weights_depend_on_the_seed_alone(recipe: TrainedClassifier) -> None:
    torch.manual_seed(1)
    first = weights(recipe)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(weights(recipe), first)
    assert torch.equal(torch.random.get_rng_state(), state), "torch's global stream was not put back"
    assert not torch.equal(weights(recipe.model_copy(update={"seed": 4})), first)


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("cifar_resnet20", True, r"'cifar_resnet20' has no pretrained weights, where pretrained: false was expected"),
        ("cifar_resnet21", False, r"no 'cifar_resnet21'.*close ones:.*cifar_resnet20"),
        ("resnet181", False, r"no 'resnet181'.*close ones:.*resnet18"),
        ("qqqqqqqqqqqq", False, r"no 'qqqqqqqqqqqq', where a timm model or one of cifar_resnet20, .* was expected\.$"),
        ("resnet18.no_such_tag", False, r"'resnet18.no_such_tag' could not be built with random weights.*no_such_tag"),
    ],
)
def test_a_name_that_will_not_do_is_said(name: str, pretrained: bool, said: str) -> None:
    with pytest.raises(ClassifierError, match=said) as raised:
        build_network(name, 10, 3, pretrained)
    assert "classifier.architecture" in str(raised.value)


def test_a_timm_model_by_name() -> None:
    network = build_network("resnet10t", 7, 1, pretrained=False).eval()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_an_architecture_of_one_image_size_is_built_for_the_size_wanted() -> None:
    network = build_network("vit_tiny_patch16_224", 5, 3, pretrained=False, input_size=(32, 48)).eval()
    assert network(torch.zeros(2, 3, 32, 48)).shape == (2, 5)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet32", "cifar_resnet56"])
def test_our_names_are_timms_too(name: str) -> None:
    import timm

    from pipeline.classifiers.cifar_resnet import register_with_timm

    register_with_timm()
    register_with_timm()
    ours = build_network(name, 6, 1, pretrained=False)
    theirs = timm.create_model(name, num_classes=6, in_chans=1)
    assert {key: value.shape for key, value in theirs.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }
    with pytest.raises(ClassifierError, match="no pretrained weights"):
        timm.create_model(name, pretrained=True)
    with pytest.raises(ClassifierError, match="drop_rate"):
        timm.create_model(name, drop_rate=0.1)


def test_classes_of_pretrained_weights() -> None:
    assert pretrained_classes("resnet18") == 1000
    assert pretrained_classes("vit_tiny_patch16_224.augreg_in21k") == 21843
    for name, said in (("cifar_resnet20", "no pretrained weights"), ("resnet181", "close ones"), ("resnet20_nope", "there is no")):
        with pytest.raises(ClassifierError, match=said):
            pretrained_classes(name)
