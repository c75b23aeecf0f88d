"""Bad params are sentences that name the key, its value and what was expected, before any work."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from pipeline.checks import check
from pipeline.classifiers.zoo import build_network
from pipeline.errors import WhorlError
from pipeline.params.root import load, load_params

PROJECT = Path(__file__).resolve().parents[3]
ADOPTED = {
    "kind": "adopt",
    "architecture": "cifar_resnet20",
    "factory": None,
    "pretrained": False,
    "checkpoint": "weights.safetensors",
    "unseen": "unknown",
    "mean": [0.3],
    "std": [0.4],
    "input_size": [8, 8],
}

Change = Callable[[dict[str, Any]], object]
Checked = Callable[[Change], list[str]]


def _set(dotted: str, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        *parents, last = dotted.split(".")
        for parent in parents:
            content = content[parent]
        content[last] = value

    return change


def _delete(dotted: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        *parents, last = dotted.split(".")
        for parent in parents:
            content = content[parent]
        del content[last]

    return change


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """Checks the default params after a change, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(change: Change) -> list[str]:
        content = YAML(typ="safe").load((PROJECT / "presets/digits.yaml").read_text())
        change(content)
        path = tmp_path / "params.yaml"
        with path.open("w") as file:
            YAML().dump(content, file)
        return [said.removeprefix(f"{path}: ") for said in check(load_params(path), path)]

    return run


def test_the_default_params_are_good(checked: Checked) -> None:
    assert checked(lambda _: None) == []


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown section": (_set("extra", 1), ("extra", "unknown", "1")),
    "unknown key": (_set("fingerprints.kk", 3), ("fingerprints.kk", "unknown", "3")),
    "unknown key of an attack": (_set("attacks.fgsm.step", 0.1), ("attacks.fgsm.step", "unknown")),
    "missing section": (_delete("calibration"), ("calibration", "missing")),
    "missing key": (_delete("classifier.epochs"), (": classifier.epochs:", "missing")),
    "missing key of an attack": (_delete("attacks.pgd.steps"), ("attacks.pgd.steps", "missing")),
    "wrong type": (_set("classifier.batch_size", "64"), ("classifier.batch_size", "'64'", "integer")),
    "a bool is no number": (_set("fingerprints.k", True), ("fingerprints.k", "True")),
    "wrong kind of source": (_set("data.source.kind", "zip"), ("data.source", "'zip'", "digits")),
    "negative epsilon": (_set("attacks.fgsm.epsilon", -0.1), ("attacks.fgsm.epsilon", "-0.1", "greater than or equal to 0")),
    "epsilon that is no fraction": (_set("attacks.fgsm.epsilon", "8/0"), ("attacks.fgsm.epsilon", "8/0")),
    "unknown family": (_set("attacks.fgsm.family", "magic"), ("attacks.fgsm.family", "'magic'", "pgd")),
    "splits that do not add up": (_set("splits.origins.digits.fit", 0.3), ("splits.origins.digits", "1.05", "1 was expected")),
    "a split without images": (
        lambda c: c["splits"]["origins"]["digits"].update(calibrate=0.0, fit=0.4),
        ("splits.origins", "calibrate", "is 0"),
    ),
    "splits of another origin": (
        lambda c: c["splits"]["origins"].update(other=c["splits"]["origins"]["digits"]),
        ("splits.origins", "other"),
    ),
    "k larger than the kept neurons": (_set("fingerprints.k", 300), ("fingerprints.k", "300", "layer3", "256")),
    "k larger than the layer": (_set("fingerprints.k", 11), ("fingerprints.k", "11", "logits", "10")),
    "more neurons than the layer has": (_set("activations.layers.layer3", 300), ("activations.layers.layer3", "300", "256")),
    "no such layer": (
        lambda c: (c["activations"]["layers"].update(layer9=8), c["fingerprints"]["layer_weights"].update(layer9=1.0)),
        ("activations.layers", "layer9"),
    ),
    "layer without a weight": (
        lambda c: c["fingerprints"]["layer_weights"].pop("layer1"),
        ("fingerprints.layer_weights", "layer1", "0 leaves it out"),
    ),
    "committee's weight for a layer that is not kept": (
        _set("detectors.joint.layer_weights", {"layer1": 1.0, "stem": 1.0}),
        ("detectors.joint.layer_weights", "stem"),
    ),
    "committee without any layer": (
        _set("detectors.joint.layer_weights", {"layer1": 0.0}),
        ("detectors.joint", "layer_weights gives no layer"),
    ),
    "weight for a layer that is not kept": (_set("fingerprints.layer_weights.stem", 1.0), ("fingerprints.layer_weights", "stem")),
    "fitted on an attack that is none": (_set("fingerprints.fit_attacks", ["cw"]), ("fingerprints.fit_attacks", "cw")),
    "published detector that is none": (_set("publish.detector", "oracle"), ("publish.detector", "oracle")),
    "a study of a detector that is none": (_set("transfer.detector", "oracle"), ("transfer.detector", "oracle")),
    "a hardened detector without committees": (
        _set("hardening.detector", "vote"),
        ("hardening.detector: 'vote' is no detector with committees", "['joint']"),
    ),
    "a variant that names no section": (
        lambda c: c["ablation"]["variants"].update(odd={"detectors.joint.draw": 9}),
        ("ablation.variants", "odd: 'detectors.joint.draw' is no key that a variant changes", "fingerprints, selection, detector"),
    ),
    "a variant of a key that is none": (
        lambda c: c["ablation"]["variants"].update(odd={"detector.drawn": 9}),
        ("ablation.variants", "odd: 'detector.drawn' is no key that a variant changes"),
    ),
    "a variant fitted on other attacks": (
        lambda c: c["ablation"]["variants"].update(odd={"fingerprints.fit_attacks": ["pgd"]}),
        ("ablation.variants", "odd: 'fingerprints.fit_attacks' is no key that a variant changes", "stay"),
    ),
    "a variant with a value that is none": (
        lambda c: c["ablation"]["variants"].update(odd={"detector.shrinkage": 2.0}),
        ("ablation.variants", "odd: detector.shrinkage: the value is 2.0", "less than or equal to 1"),
    ),
    "a variant with a value of another type": (
        lambda c: c["ablation"]["variants"].update(odd={"detector.mistakes": 1}),
        ("ablation.variants", "odd: detector.mistakes: the value is 1"),
    ),
    "a variant that changes nothing": (lambda c: c["ablation"]["variants"].update(odd={}), ("ablation.variants", "['odd'] change nothing")),
    "a variant called as the design itself is": (
        lambda c: c["ablation"]["variants"].update(unchanged={"detector.draw": 30}),
        ("ablation.variants", "'unchanged' is the design as it is"),
    ),
    "no more draws than looks": (_set("ablation.draws", 8), ("ablation", "draws is 8, where more than looks, 8")),
    "hardening in a single part": (_set("hardening.folds", 1), ("hardening.folds", "1", "2")),
    "less than no round of hardening": (_set("hardening.rounds", -1), ("hardening.rounds", "-1")),
    "hardening without a look": (_set("hardening.looks", 0), ("hardening.looks", "0")),
    "a promise of a detector that is none": (_set("promise.detector", "oracle"), ("promise.detector", "oracle")),
    "a redraw with the salt of the splits": (_set("promise.split_seeds", [3, 0]), ("promise.split_seeds", "0 is splits.split_seed")),
    "a corruption beyond its range": (_set("promise.corruptions.jpeg", 101), ("promise.corruptions.jpeg", "101")),
    "an attack called clean": (lambda c: c["attacks"].update(clean=c["attacks"]["fgsm"]), ("attacks.clean",)),
    "an attack called mistaken": (lambda c: c["attacks"].update(mistaken=c["attacks"]["fgsm"]), ("attacks.mistaken", "unattacked images")),
    "all of the smallest bank drawn": (_set("detectors.vote.draw", 100), ("detectors.vote.draw", ": 100 of", "min_fingerprints", "random")),
    "more drawn than a bank may hold": (_set("detectors.vote.draw", 5000), ("detectors.vote.draw", "5000", "as few as 100")),
    "a bank smaller than the least": (_set("selection.bank_size", 99), ("selection: min_fingerprints is 100", "bank_size, 99")),
    "a promised rate that is not measured": (
        _set("evaluation.alphas", [0.01, 0.1]),
        ("calibration.alpha: 0.05", "evaluation.alphas", "[0.01, 0.1]"),
    ),
    **{
        f"{key} is empty": (_set(key, []), (f"{key}: the list is empty", "at least one"))
        for key in ("fingerprints.fit_attacks", "evaluation.seeds", "evaluation.alphas")
    },
    **{
        f"{key} has {repeated} twice": (_set(key, values), (f"{key}: {repeated} stands in the list more than once",))
        for key, values, repeated in (
            ("fingerprints.fit_attacks", ["pgd", "fgsm", "pgd"], "'pgd'"),
            ("evaluation.seeds", [0, 1, 0], "0"),
            ("evaluation.alphas", [0.05, 0.01, 0.05, 0.01], "0.05, 0.01"),
        )
    },
    "a mode that is none": (_set("data.image.convert", ["L", "rgb"]), ("data.image.convert.1", "'rgb'", "'I;16'")),
    "a mode whose values have no known range": (_set("data.image.convert", ["F"]), ("data.image.convert.0", "'F'", "'RGBA'")),
    "wrong number of channels": (_set("classifier.mean", [0.1, 0.2, 0.3]), ("classifier.mean", "3 values", "1")),
    "no such architecture": (
        _set("classifier.architecture", "cifar_resnet21"),
        ("classifier.architecture", "cifar_resnet21", "cifar_resnet20"),
    ),
    "a game without committees": (_set("game.detector", "vote"), ("game.detector", "'vote'", "['joint']")),
    "a game that draws the whole bank": (_set("game.draws", [20, 100]), ("game.draws: 100 of", "as few as 100")),
    "a smaller bank tried twice": (_set("game.banks", [80, 80]), ("game.banks: 80 stands in the list more than once",)),
    "a smaller bank of nothing": (_set("game.banks", [0]), ("game.banks", "0", "greater than 0")),
    "parts that are one": (_set("game.disjoint.two_banks.parts", 1), ("game.disjoint.two_banks.parts", "greater than or equal to 2")),
    "parts that are one list": (
        _set("game.disjoint.two_banks.parts", [["layer1"]]),
        ("game.disjoint.two_banks: parts is a single list of layers, where at least two",),
    ),
    "a layer in two parts": (
        _set("game.disjoint.two_banks.parts", [["layer1", "layer2"], ["layer2"]]),
        ("game.disjoint.two_banks: parts has 'layer2' in more than one list",),
    ),
    "a headline that is not played": (_set("game.headline", 5), ("game: headline is 5", "looks", "64")),
    "a step of nothing": (_set("game.descend.step_size", 0.0), ("game.descend.step_size", "0.0", "greater than 0")),
    "alpha of 0": (_set("calibration.alpha", 0.0), ("calibration.alpha", "0.0", "greater than 0")),
    "infinite": (_set("classifier.learning_rate", float("inf")), ("classifier.learning_rate", "inf")),
    "missing checkpoint": (_set("classifier", ADOPTED), ("weights.safetensors",)),
    "neither architecture nor factory": (_set("classifier", {**ADOPTED, "architecture": None}), ("classifier", "exactly one")),
    "unseen origin that is none": (_set("classifier", {**ADOPTED, "unseen": ["web"]}), ("classifier.unseen", "web", "digits")),
    "seen images outside of train": (_set("classifier", {**ADOPTED, "unseen": []}), ("splits.origins.digits", "train is 0.35")),
}


@pytest.mark.parametrize(("change", "said"), CASES.values(), ids=CASES)
def test_bad_params_are_sentences(checked: Checked, change: Change, said: tuple[str, ...]) -> None:
    with pytest.raises(WhorlError) as caught:
        checked(change)
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert all("expected" in line for line in message.splitlines()), message


def test_no_yaml_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: [1\nb: 2")
    for path in (tmp_path / "params.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(WhorlError, match="where a params file was expected"):
            load_params(path)


def test_tensors_that_do_not_fit_are_named(checked: Checked, tmp_path: Path) -> None:
    state = build_network("cifar_resnet20", 10, 1, pretrained=False).state_dict()
    state["stranger"] = torch.zeros(2)
    weight = next(name for name in state if name.startswith("fc") and name.endswith("weight"))
    state[weight] = torch.zeros(7, 64)
    gone = next(name for name in state if name.startswith("layer2"))
    del state[gone]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(WhorlError) as caught:
        checked(_set("classifier", ADOPTED))
    assert all(part in str(caught.value) for part in ("stranger", weight, gone, "weights.safetensors")), caught.value


@pytest.mark.parametrize("classes", [0, 1])
def test_a_folder_with_one_class_or_none(checked: Checked, tmp_path: Path, classes: int) -> None:
    (tmp_path / "images").mkdir()
    for label in range(classes):
        (tmp_path / "images" / f"class{label}").mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / f"class{label}" / "a.png")

    def change(content: dict[str, Any]) -> None:
        content["data"]["source"] = {"kind": "folder", "roots": {"images": "images"}}
        content["splits"]["origins"] = {"images": content["splits"]["origins"]["digits"]}

    with pytest.raises(WhorlError, match=r"images.*expected"):
        checked(change)


@pytest.mark.parametrize("preset", sorted((PROJECT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_presets_are_good(preset: Path) -> None:
    params = load_params(preset)
    assert all(detector.draw < params.selection.min_fingerprints <= params.selection.bank_size for detector in params.detectors.values())
    assert params.calibration.alpha in params.evaluation.alphas


def test_the_default_is_the_digits_preset() -> None:
    """As committed: in a working copy it is its user's to change. Without git the files as they are."""
    names = ("params.yaml", "presets/digits.yaml")
    shown = [subprocess.run(["git", "show", f"HEAD:{name}"], cwd=PROJECT, capture_output=True, check=False) for name in names]
    committed = not any(each.returncode for each in shown)
    params, preset = (each.stdout for each in shown) if committed else ((PROJECT / name).read_bytes() for name in names)
    assert params == preset != b""


@pytest.mark.parametrize("draw", [1, 99])
def test_any_true_part_of_the_bank_may_be_drawn(checked: Checked, draw: int) -> None:
    checked(lambda c: (c["detectors"]["vote"].update(draw=draw), c["selection"].update(bank_size=100)))


LEFT_OUT = "does not go with the params as they are and would be left out: "
STUDIES: dict[str, tuple[Change, list[tuple[str, str]]]] = {
    "smaller banks": (_set("game.banks", [60, 20]), []),
    "no disjoint parts": (_set("game.disjoint", {}), []),
    "parts that only the bank tells too small": (_set("game.disjoint.two_banks.draw", 499), []),
    "parts that no bank makes large enough": (
        _set("game.disjoint.two_banks.draw", 500),
        [
            (
                "game.disjoint.two_banks",
                "would be left out: draw is 500 of a part that has at most 500 fingerprints, where fewer were expected",
            )
        ],
    ),
    "parts of an unknown layer": (
        _set("game.disjoint.two_banks.parts", [["layer1"], ["layer9"]]),
        [("game.disjoint.two_banks", "would be left out: its parts name ['layer9'], where some of the layers that are kept, ")],
    ),
    "more parts than committees": (
        _set("game.disjoint.two_banks.parts", 101),
        [("game.disjoint.two_banks", "would be left out: there are 101 parts, where at most as many as committees, ")],
    ),
    "another draw": (_set("detectors.joint.draw", 25), []),
    "another detector": (
        lambda c: c["detectors"]["joint"].update(draw=90, committees=9, directions=1, pooling=1.0),
        [("ablation.variants.five_directions", f"{LEFT_OUT}detector: ")],
    ),
    "a k that a layer has not": (
        _set("ablation.variants.single_neurons", {"fingerprints.k": 5000}),
        [("ablation.variants.single_neurons", f"{LEFT_OUT}fingerprints.k is 5000 in layer ")],
    ),
    "a variant that draws the whole bank": (
        _set("ablation.variants.half_the_draw", {"detector.draw": 100}),
        [("ablation.variants.half_the_draw", f"{LEFT_OUT}draw is 100 of a bank that may hold as few as 100 ")],
    ),
    "an ablation of a detector without committees": (
        _set("ablation.detector", "vote"),
        [("ablation.detector", "'vote' is no detector with committees, so every variant would be left out")],
    ),
    "a small bank, as a proposal may have": (
        lambda c: c["selection"].update(min_fingerprints=65, bank_size=65),
        [("game.disjoint.two_banks", "would be left out: draw is 60 of a part that has at most 33 fingerprints, ")],
    ),
    "a search of a detector without committees": (_set("tune.detector", "vote"), []),
}


@pytest.mark.parametrize(("change", "said"), STUDIES.values(), ids=STUDIES)
def test_what_a_study_tries_need_not_go_with_every_change_of_the_design(
    checked: Checked, change: Change, said: list[tuple[str, str]]
) -> None:
    """A variant or a size of the game that does not is left out, and said beforehand; a search's proposal can still be applied."""
    found = [each.split(": ", 1) for each in checked(change)]
    assert [key for key, _ in found] == [key for key, _ in said]
    assert all(told.startswith(wanted) and told.endswith(".") for (_, told), (_, wanted) in zip(found, said, strict=True))


def test_fractions_are_read_as_written(tmp_path: Path) -> None:
    from pipeline.attacks.registry import parse_options

    params = load_params(PROJECT / "presets/cifar10.yaml")
    assert parse_options("pgd", params.attacks["pgd"]).model_dump()["epsilon"] == 8 / 255


def test_a_stage_gets_only_what_it_names() -> None:
    params = load("fingerprints", "attacks.fgsm", path=PROJECT / "presets/digits.yaml")
    assert set(params.attacks) == {"fgsm"} and params.fingerprints.k == 4
    with pytest.raises(AttributeError):
        _ = params.splits
    with pytest.raises(WhorlError, match="attacks has no 'cw'"):
        load("attacks.cw", path=PROJECT / "presets/digits.yaml")


def test_a_check_is_not_repeated_for_the_same_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline import checks

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text())
    calls = []

    def check(*_: object) -> list[str]:
        calls.append(1)
        return ["something would be left out."]

    monkeypatch.setattr(checks, "check", check)
    for _ in range(3):
        checks.ensure_checked()
    assert len(calls) == 1
    os.utime(tmp_path / "params.yaml")
    checks.ensure_checked()
    assert len(calls) == 1
    (tmp_path / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text().replace("k: 4", "k: 3"))
    checks.ensure_checked()
    assert len(calls) == 2 and capsys.readouterr().out == "something would be left out.\n" * 2
