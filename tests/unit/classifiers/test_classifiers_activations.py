"""The pool of neurons and what is read from them, against plain forward passes."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from classifiers_support import images, logits_of, resnet
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.classifiers.activations import NeuronReader, Pooled, activations, choose_neurons, layer_sizes, tap
from pipeline.classifiers.model import Classifier, freeze, to_float
from pipeline.errors import ClassifierError, ParamsError


class Odd(nn.Module):
    """Tuples, an in-place ReLU after a tapped module, a module that never runs, one that runs twice, one without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.twice = nn.Linear(6, 6)
        self.idle = nn.Linear(2, 2)
        self.total = Total()
        self.word = Word()

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act(self.first(images))
        _, hidden = self.pair(hidden)
        self.total(hidden)
        self.word(hidden)
        logits: Tensor = self.twice(self.twice(hidden))
        return logits


class Pair(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return hidden.mean((2, 3)), hidden.flatten(1)[:, :6]


class Total(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.sum(0, keepdim=True)


class Word(nn.Module):
    def forward(self, hidden: Tensor) -> str:
        return "no tensor"


def odd() -> Classifier:
    torch.manual_seed(0)
    return freeze(Classifier(Odd(), (0.5,), (0.5,), (8, 8)))


def test_sizes_are_channels_times_pixels() -> None:
    sizes = layer_sizes(resnet(), ["layer3", "stem", "layer2.0.conv1", "logits"], (1, 8, 8))
    assert list(sizes.items()) == [("layer3", 64 * 2 * 2), ("stem", 16 * 8 * 8), ("layer2.0.conv1", 32 * 4 * 4), ("logits", 10)]
    assert layer_sizes(resnet(), ["stem"], (1, 28, 28)) == {"stem": 16 * 8 * 8}, "images are scaled to the input size first"


@pytest.mark.parametrize("mode", [True, False])
def test_sizing_leaves_the_classifier_as_it_was(mode: bool) -> None:
    classifier = resnet().train(mode)
    classifier.network.get_submodule("stem").train(not mode)
    modes = [module.training for module in classifier.modules()]
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    layer_sizes(classifier, ["layer1"], (1, 8, 8))
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            "layer4",
            r"no module 'layer4', where .* or a module name .*was expected \(close ones: .*layer3.*top: stem, layer1",
        ),
        ("", r"no module ''"),
        (
            "qqqq",
            r"no module .qqqq., where .* or a module name .*was expected \(at its top: stem, layer1, layer2",
        ),
    ],
)
def test_a_name_that_is_no_module_is_said(layer: str, said: str) -> None:
    classifier = resnet()
    with pytest.raises(ClassifierError, match=said):
        layer_sizes(classifier, ["stem", layer], (1, 8, 8))
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("idle", "activations.layers.idle: never runs"),
        ("total", "activations.layers.total: puts out 1 rows for 2 images"),
        ("word", "activations.layers.word: puts out str"),
    ],
)
def test_a_module_without_a_row_an_image_is_said(layer: str, said: str) -> None:
    with pytest.raises(ClassifierError, match=said):
        layer_sizes(odd(), [layer], (1, 8, 8))


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 50), st.integers(1, 60)), min_size=1), st.integers(0, 2**63 - 1))
def test_the_pool_is_a_sorted_sample_without_repetition(wanted: dict[str, tuple[int, int]], seed: int) -> None:
    sizes = {layer: size for layer, (size, _) in wanted.items()}
    layers = {layer: count for layer, (_, count) in wanted.items()}
    if too_many := [layer for layer in wanted if layers[layer] > sizes[layer]]:
        with pytest.raises(ParamsError, match=f"activations.layers.{too_many[0]}: {layers[too_many[0]]} neurons.*{sizes[too_many[0]]}"):
            choose_neurons(sizes, layers, seed)
        return
    pool = choose_neurons(sizes, layers, seed)
    assert list(pool) == list(layers)
    for layer, columns in pool.items():
        assert columns.dtype == np.int64
        assert len(columns) == layers[layer]
        assert np.all(np.diff(columns) > 0)
        assert 0 <= columns[0] <= columns[-1] < sizes[layer]
        np.testing.assert_array_equal(columns, choose_neurons(sizes, {layer: layers[layer]}, seed)[layer])


def test_the_pool_varies_with_seed_and_layer_and_all_means_all() -> None:
    sizes = {"a": 1000, "b": 1000}
    pool = choose_neurons(sizes, {"a": 100, "b": 100}, seed=0)
    assert not np.array_equal(pool["a"], pool["b"])
    assert not np.array_equal(pool["a"], choose_neurons(sizes, {"a": 100}, seed=1)["a"])
    np.testing.assert_array_equal(choose_neurons(sizes, {"b": "all"}, seed=0)["b"], np.arange(1000))


def test_every_neuron_is_as_likely_as_every_other() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[choose_neurons({"a": 20}, {"a": 5}, seed)["a"]] += 1
    assert np.all(np.abs(counts - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75))


def test_activations_are_those_of_a_plain_forward_pass() -> None:
    classifier, batch = resnet(), images(5)
    network = classifier.network
    with torch.inference_mode():
        normal = (to_float(batch) - 0.3) / 0.4
        stages = {"stem": network.get_submodule("stem")(normal)}
        for before, layer in (("stem", "layer1"), ("layer1", "layer2"), ("layer2", "layer3")):
            stages[layer] = network.get_submodule(layer)(stages[before])
    pool = {"layer3": np.array([3, 200]), "logits": np.arange(10), "layer1": np.array([0, 65, 1023])}
    logits, neurons = activations(classifier, to_float(batch), pool)
    rows = {layer: np.ascontiguousarray(stages[layer].numpy()).reshape(5, -1) for layer in stages}
    assert (logits.dtype, neurons.dtype, neurons.shape) == (np.float32, np.float32, (5, 15))
    np.testing.assert_array_equal(logits, logits_of(classifier, batch))
    np.testing.assert_array_equal(neurons[:, 2:12], logits)
    np.testing.assert_allclose(neurons[:, :2], rows["layer3"][:, [3, 200]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(neurons[:, 12:], rows["layer1"][:, [0, 65, 1023]], rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_an_in_place_operation_afterwards_does_not_reach_what_was_tapped(layout: torch.memory_format) -> None:
    classifier, batch = odd().to(memory_format=layout), to_float(images(3)).contiguous(memory_format=layout)
    with torch.inference_mode():
        convolved = classifier.network.get_submodule("first")((batch - 0.5) / 0.5)
    assert (convolved < 0).any()
    _, neurons = activations(classifier, batch, {"first": np.arange(144)})
    np.testing.assert_allclose(neurons, convolved.flatten(1).numpy(), rtol=1e-5, atol=1e-6)
    with torch.inference_mode(), tap(classifier, ["first"]) as found:
        classifier(batch)
    np.testing.assert_allclose(found["first"].numpy(), convolved.flatten(1).numpy(), rtol=1e-5, atol=1e-6)


def test_of_a_tuple_the_first_and_of_two_runs_the_last() -> None:
    classifier, batch = odd(), to_float(images(3))
    with torch.inference_mode(), tap(classifier, ["act", "pair", "twice", "logits"]) as found:
        logits = classifier(batch)
    torch.testing.assert_close(found["pair"], found["act"].view(3, 4, 36).mean(2))
    assert torch.equal(found["twice"], logits)
    assert torch.equal(found["logits"], logits)


def test_gradients_flow_through_what_is_tapped() -> None:
    classifier = resnet()
    batch = to_float(images(2)).requires_grad_(True)
    with tap(classifier, ["layer2"]) as found:
        classifier(batch)
    (gradient,) = torch.autograd.grad(found["layer2"][:, 7].sum(), batch)
    plain = classifier.network.get_submodule
    direct = plain("layer2")(plain("layer1")(plain("stem")((batch - 0.3) / 0.4))).flatten(1)
    (expected,) = torch.autograd.grad(direct[:, 7].sum(), batch)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().sum() > 0


def test_an_error_in_the_block_removes_the_hooks() -> None:
    classifier = resnet()
    with pytest.raises(ZeroDivisionError), tap(classifier, ["layer1"]):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in classifier.modules())


def test_ranked_logits_are_the_logits_in_order() -> None:
    classifier, layers = resnet(), {"ranked_logits": 4, "logits": "all"}
    pool = choose_neurons(layer_sizes(classifier, list(layers), (1, 8, 8)), layers, 0)  # type: ignore[arg-type]
    assert pool["ranked_logits"].tolist() == [0, 1, 2, 3], "the largest, whatever the seed"
    logits, neurons = activations(classifier, to_float(images(6)), pool)
    np.testing.assert_array_equal(neurons[:, :4], -np.sort(-logits, axis=1)[:, :4])
    np.testing.assert_array_equal(neurons[:, 4:], logits)


def test_logit_margins_are_logarithms_of_the_largest_logit_less_each_of_the_others() -> None:
    classifier, layers = resnet(), {"logit_margins": 3, "logits": "all"}
    sizes = layer_sizes(classifier, list(layers), (1, 8, 8))
    pool = choose_neurons(sizes, layers, 0)  # type: ignore[arg-type]
    assert sizes["logit_margins"] == sizes["logits"] - 1 and pool["logit_margins"].tolist() == [0, 1, 2], "the narrowest, whatever the seed"
    logits, neurons = activations(classifier, to_float(images(6)), pool)
    falling = -np.sort(-logits, axis=1)
    np.testing.assert_allclose(neurons[:, :3], np.log(falling[:, :1] - falling[:, 1:4] + 0.01), rtol=1e-5)
    np.testing.assert_array_equal(neurons[:, 3:], logits)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_picked_is_what_the_whole_layer_has_there(layout: torch.memory_format) -> None:
    """In (channel, row, column) order, however the output lies in memory, with gradients to the images."""
    classifier, batch = resnet().to(memory_format=layout), to_float(images(3)).contiguous(memory_format=layout)
    pool = choose_neurons(layer_sizes(classifier, ["layer1", "layer3"], (1, 8, 8)), {"layer1": 20, "layer3": 30}, 0)
    leaf = batch.clone().requires_grad_()
    with tap(classifier, pool) as whole:
        classifier(batch)
    with tap(classifier, pool, Pooled(pool)) as picked:
        classifier(leaf)
    for layer, places in pool.items():
        torch.testing.assert_close(picked[layer].detach(), whole[layer][:, torch.from_numpy(places)], rtol=0, atol=0)
    assert torch.autograd.grad(picked["layer3"].sum(), leaf)[0].abs().sum() > 0


def test_a_reader_goes_on_after_a_change_of_layout_and_after_passes_without_gradients() -> None:
    classifier, batch = resnet(), to_float(images(3))
    layers: dict[str, int | Literal["all"]] = {"layer1": 30, "layer3": 20, "stem.1.residual2": "all", "logit_margins": 2}
    pool = choose_neurons(layer_sizes(classifier, layers, (1, 8, 8)), layers, 0)
    reader, read = NeuronReader(classifier, pool), Pooled(pool)
    for layout in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        classifier.to(memory_format=layout)
        logits, neurons = reader(batch)
        leaf = batch.clone().requires_grad_()
        with torch.inference_mode(), tap(classifier, pool, read):
            classifier(batch)
        with tap(classifier, pool, read) as found, tap(classifier, pool) as whole:
            wanted = classifier(leaf)
        np.testing.assert_allclose(logits, wanted.detach(), atol=1e-6)
        parts = torch.cat([whole[layer][:, torch.from_numpy(chosen)] for layer, chosen in pool.items()], 1).detach()
        np.testing.assert_allclose(neurons, parts, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(torch.cat([found[layer] for layer in pool], 1).detach(), parts, rtol=1e-4, atol=1e-5)
        assert torch.autograd.grad(found["layer3"].sum(), leaf)[0].abs().sum() > 0


@given(data=st.data())
def test_neurons_are_picked_from_maps_of_any_shape_and_layout(data: st.DataObject) -> None:
    """By one reader, again and again: what was looked up for a shape is for no other."""
    chosen = np.array([0, 3, 5, 11], np.int64)
    read = Pooled({"maps": chosen})
    for _ in range(4):
        shape = data.draw(st.tuples(*[st.integers(1, 4)] * 3).filter(lambda shape: math.prod(shape) >= 12))
        maps = torch.arange(2 * math.prod(shape), dtype=torch.float32).view(2, *shape)
        layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
        np.testing.assert_array_equal(read("maps", maps.contiguous(memory_format=layout)), maps.flatten(1)[:, torch.from_numpy(chosen)])


def test_a_transformer_s_attention_its_blocks_and_its_class_token_are_layers() -> None:
    """Each against a hook of PyTorch's own; the class token is what the network pools, the first token of its last norm."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5, in_chans=3).eval()
    classifier, batch = freeze(Classifier(network, (0.5,) * 3, (0.5,) * 3, (32, 32))), torch.rand(3, 3, 32, 32)
    layers: dict[str, Any] = {"blocks.0.attn": 40, "blocks.1": 40, "blocks.1.mean": "all", "fc_norm": "all", "logit_margins": "all"}
    pool = choose_neurons(layer_sizes(classifier, list(layers), (3, 32, 32)), layers, 0)
    assert {name: len(places) for name, places in pool.items()} == {**layers, "blocks.1.mean": 192, "fc_norm": 192, "logit_margins": 4}
    known: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _given, out, name=name: known.__setitem__(name, out))
        for name, module in network.named_modules()
        if name in ("blocks.0.attn", "blocks.1", "norm")
    ]
    _, neurons = activations(classifier, batch, pool)
    for hook in hooks:
        hook.remove()
    parts = [known[name].flatten(1)[:, torch.from_numpy(pool[name])] for name in ("blocks.0.attn", "blocks.1")]
    parts += [known["blocks.1"].mean(1), known["norm"][:, 0]]
    np.testing.assert_allclose(neurons[:, : 40 + 40 + 192 + 192], torch.cat(parts, 1).numpy(), rtol=1e-4, atol=1e-5)
