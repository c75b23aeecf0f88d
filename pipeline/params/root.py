"""The whole params file: its sections, the rules between them, and how a stage reads what it needs."""

from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError
from pipeline.params.ablation import AblationParams
from pipeline.params.activations import ActivationParams
from pipeline.params.attacks import AttackSpec, GenerationParams
from pipeline.params.base import Name, Section
from pipeline.params.classifier import AdoptedClassifier, ClassifierParams, TrainedClassifier
from pipeline.params.data import DataParams, DigitsSource, FolderSource, ParquetSource
from pipeline.params.detectors import CalibrationParams, CommitteeDetectorParams, DetectorParams
from pipeline.params.evaluation import EvaluationParams, PublishParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.params.game import GameParams
from pipeline.params.messages import sentences
from pipeline.params.splits import SplitParams
from pipeline.params.studies import HardeningParams, PromiseParams, TransferParams
from pipeline.params.tune import TuneParams

PARAMS_FILE = Path("params.yaml")


class Params(Section):
    """``params.yaml``, whole and checked against itself."""

    data: DataParams
    splits: SplitParams
    classifier: ClassifierParams
    attacks: dict[Name, AttackSpec]
    generation: GenerationParams
    activations: ActivationParams
    fingerprints: FingerprintParams
    selection: SelectionParams
    detectors: dict[Name, DetectorParams]
    tune: TuneParams
    calibration: CalibrationParams
    ablation: AblationParams
    transfer: TransferParams
    promise: PromiseParams
    hardening: HardeningParams
    evaluation: EvaluationParams
    game: GameParams
    publish: PublishParams

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [
            *_origin_problems(self),
            *_split_problems(self),
            *_channel_problems(self),
            *_fingerprint_problems(self),
            *_committee_problems(self),
            *_name_problems(self),
            *_study_problems(self),
            *_draw_problems(self),
            *_alpha_problems(self),
            *_game_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def source_origins(params: DataParams) -> tuple[str, ...]:
    """The origins that a source has, known without reading it."""
    match params.source:
        case DigitsSource():
            return ("digits",)
        case ParquetSource(files=files):
            return tuple(sorted(files))
        case FolderSource(roots=roots):
            return tuple(sorted(roots))


def _origin_problems(params: Params) -> list[str]:
    there, named = set(source_origins(params.data)), set(params.splits.origins)
    problems = []
    if there != named:
        problems.append(f"splits.origins: names {sorted(named)}, where the origins of data.source, {sorted(there)}, were expected")
    classifier = params.classifier
    if isinstance(classifier, AdoptedClassifier) and classifier.unseen != "unknown":
        if unknown := sorted(set(classifier.unseen) - there):
            problems.append(f"classifier.unseen: {unknown} are no origins of data.source, where some of {sorted(there)} were expected")
        for origin, fractions in params.splits.origins.items():
            if origin not in classifier.unseen and fractions.train != 1:
                problems.append(
                    f"splits.origins.{origin}: train is {fractions.train:g}, where 1 was expected, "
                    f"since classifier.unseen does not name {origin!r}"
                )
    return problems


def _split_problems(params: Params) -> list[str]:
    needed = ["fit", "calibrate", "test", *(["train", "tune"] if isinstance(params.classifier, TrainedClassifier) else [])]
    return [
        f"splits.origins: the share of {split} is 0 in every origin, where some images for it were expected"
        for split in needed
        if not any(getattr(fractions, split) for fractions in params.splits.origins.values())
    ]


def _channel_problems(params: Params) -> list[str]:
    channels = params.data.image.channels
    return [
        f"classifier.{key}: {list(values)} has {len(values)} values, where {channels} (data.image.channels) were expected"
        for key, values in (("mean", params.classifier.mean), ("std", params.classifier.std))
        if len(values) != channels
    ]


def _fingerprint_problems(params: Params) -> list[str]:
    layers = params.activations.layers
    problems = [
        f"fingerprints.layer_weights: has no {layer!r}, which activations.layers keeps, where a weight was expected (0 leaves it out)"
        for layer in layers
        if layer not in params.fingerprints.layer_weights
    ]
    problems += [
        f"fingerprints.layer_weights: {layer!r} is not kept, where one of activations.layers, {sorted(layers)}, was expected"
        for layer in params.fingerprints.layer_weights
        if layer not in layers
    ]
    wide = params.fingerprints.too_wide({layer: size for layer, size in layers.items() if isinstance(size, int)})
    return problems + [
        f"fingerprints.k: {k} is larger than layer {layer!r}, where at most the {layers[layer]} neurons "
        f"of activations.layers.{layer} were expected"
        for layer, k in wide.items()
    ]


def _committee_problems(params: Params) -> list[str]:
    weights = {
        name: detector.layer_weights or {} for name, detector in params.detectors.items() if isinstance(detector, CommitteeDetectorParams)
    }
    return [
        f"detectors.{name}.layer_weights: {layer!r} is not kept, where one of activations.layers, {sorted(params.activations.layers)}, "
        "was expected"
        for name, layers in weights.items()
        for layer in layers
        if layer not in params.activations.layers
    ]


def _name_problems(params: Params) -> list[str]:
    problems = []
    if unknown := [name for name in params.fingerprints.fit_attacks if name not in params.attacks]:
        problems.append(f"fingerprints.fit_attacks: {unknown} are no attacks, where some of {sorted(params.attacks)} were expected")
    if params.publish.detector not in params.detectors:
        problems.append(f"publish.detector: {params.publish.detector!r} is none of {sorted(params.detectors)}, where one was expected")
    problems += [
        f"attacks.{name}: an attack cannot be called {name!r}, which stands for unattacked images, where another name was expected"
        for name in params.attacks
        if name in ("clean", "mistaken")
    ]
    return problems


def _study_problems(params: Params) -> list[str]:
    """An image that ``splits.split_seed`` kept from ``train`` has no uniform place under that same salt."""
    problems = [
        f"{study}.detector: {name!r} is none of {sorted(params.detectors)}, where one was expected"
        for study, name in (("transfer", params.transfer.detector), ("promise", params.promise.detector))
        if name not in params.detectors
    ]
    if (own := params.splits.split_seed) in params.promise.split_seeds:
        problems.append(f"promise.split_seeds: {own} is splits.split_seed, which drew these images, where other salts were expected")
    return problems


def _draw_problems(params: Params) -> list[str]:
    draws = {f"detectors.{name}.draw": [detector.draw] for name, detector in params.detectors.items()}
    found = {key: params.selection.drawn_whole(values) for key, values in (draws | {"game.draws": params.game.draws}).items()}
    return [f"{key}: {said}" for key, said in found.items() if said]


def _alpha_problems(params: Params) -> list[str]:
    alpha, measured = params.calibration.alpha, params.evaluation.alphas
    if alpha in measured:
        return []
    return [f"calibration.alpha: {alpha:g} is not measured, where one of evaluation.alphas, {list(measured)}, was expected"]


def _game_problems(params: Params) -> list[str]:
    known = sorted(key for key, detector in params.detectors.items() if isinstance(detector, CommitteeDetectorParams))
    return [
        f"{section}.detector: {name!r} is no detector with committees, where one of {known} was expected"
        for section, name in (("game", params.game.detector), ("hardening", params.hardening.detector))
        if name not in known
    ]


def read_yaml(path: Path) -> Any:
    """Reads YAML 1.2, as DVC does (``1e-4`` is a float). Raises ParamsError where the file is missing or no YAML."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: there is no such file, where a params file was expected.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ParamsError(f"{path}: this is no YAML ({said}), where a params file was expected.") from error


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks the whole params file; raises ParamsError with a sentence for each problem."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: holds {type(content).__name__}, where a mapping of sections was expected.")
    try:
        return TypeAdapter(Params).validate_python(content)
    except ValidationError as error:
        raise ParamsError("\n".join(sentences(path, content, error))) from error


def load(*sections: str, path: Path = PARAMS_FILE) -> Params:
    """The params file with only the named sections (``data``, or ``attacks.fgsm`` for one entry of a mapping).

    The file is checked whole, but what a stage did not name is absent from the result: reading it raises
    AttributeError, so a stage cannot come to depend on a section that ``dvc.yaml`` does not list.
    """
    whole = load_params(path)
    chosen: dict[str, Any] = {}
    for section in sections:
        name, _, key = section.partition(".")
        value = getattr(whole, name)
        if not key:
            chosen[name] = value
        elif key in value:
            chosen.setdefault(name, {})[key] = value[key]
        else:
            raise ParamsError(f"{path}: {name} has no {key!r}, where one of {sorted(value)} was expected.")
    return Params.model_construct(_fields_set=set(chosen), **chosen)
