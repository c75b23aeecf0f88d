"""Folding against the model itself: the same function, with fewer modules, in every way that a forward pass is written."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.folding import LowPrecision, fold, for_steps
from pipeline.classifiers.model import Classifier, freeze


def trained_like(network: nn.Module) -> nn.Module:
    """Batch norms with the statistics and scales of a trained network, not the identity that they start as."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            with torch.no_grad():
                for value, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3)):
                    value.uniform_(low, high, generator=generator)
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network


def classifier(network: nn.Module, size: int = 12) -> Classifier:
    return freeze(Classifier(trained_like(network), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), (size, size)))


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Skips(nn.Module):
    """The first convolution's output also goes round its batch norm, so folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        logits: Tensor = self.last((self.norm(features) + features).mean((2, 3)))
        return logits


class Twice(nn.Module):
    """One convolution under two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last((self.one(self.first(images)) * self.two(self.first(images))).mean((2, 3)))
        return logits


def before_convolution() -> nn.Module:
    """A batch norm that comes first has nothing to be folded into."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5))


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, bias=True), nn.BatchNorm2d(6, affine=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(600, 5)
    )


CASES = [("resnet", cifar_resnet20(7, 3), 0), ("grouped", grouped(), 0), ("before", before_convolution(), 1), ("skips", Skips(), 1)]


@pytest.mark.parametrize(("network", "left"), [case[1:] for case in [*CASES, ("twice", Twice(), 2)]], ids=[*(c[0] for c in CASES), "twice"])
def test_a_folded_model_is_the_same_function(network: nn.Module, left: int) -> None:
    model = classifier(copy.deepcopy(network))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model, 3)
    images = torch.rand((64, 3, 12, 12), generator=torch.Generator().manual_seed(2), requires_grad=True)
    slopes = [torch.autograd.grad(each(images).square().sum(), images)[0] for each in (model, folded)]
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4)
    # Equal but where the rounding takes an activation over the kink of a ReLU.
    close = torch.isclose(slopes[1], slopes[0], rtol=1e-2, atol=1e-3 * float(slopes[0].abs().max()))
    assert close.float().mean() > 0.99
    assert batch_norms(folded) == left
    assert not any(parameter.requires_grad for parameter in folded.parameters()) and not any(m.training for m in folded.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_timm_batch_norms_keep_the_activation_they_carry() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18d", num_classes=5, in_chans=3)
    model = classifier(network, 32)
    efficient = classifier(timm.create_model("efficientnet_b0", num_classes=5, in_chans=3), 32)
    images = torch.rand((8, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    for each in (model, efficient):
        assert batch_norms(each) > 10 and batch_norms(fold(each, 3)) == 0
        torch.testing.assert_close(fold(each, 3)(images), each(images), rtol=1e-3, atol=1e-3)


def test_low_precision_returns_float32_and_leads_the_same_way() -> None:
    model = classifier(cifar_resnet20(7, 3), 16)
    low, exact = for_steps(model, 3, "bfloat16")
    assert isinstance(low, LowPrecision) and isinstance(exact, Classifier)
    assert [type(each) for each in for_steps(model, 3, "float32")] == [Classifier]
    assert batch_norms(model) and not any(map(batch_norms, (low, exact, *for_steps(model, 3, "float32"))))
    images = torch.rand((32, 3, 16, 16), generator=torch.Generator().manual_seed(4), requires_grad=True)
    with torch.no_grad():
        labels = model(images).argmax(1)
    slopes = []
    for each in (model, low):
        logits = each(images)
        assert logits.dtype == torch.float32
        slopes.append(torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), images)[0].flatten(1))
    assert slopes[1].dtype == torch.float32
    cosine = nn.functional.cosine_similarity(slopes[0], slopes[1]).numpy()
    assert np.all(cosine > 0.9) and not np.array_equal(slopes[0].numpy(), slopes[1].numpy())
