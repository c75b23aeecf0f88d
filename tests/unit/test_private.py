"""The private bank: what follows from its key and from nothing else, what is never written, and what is refused."""

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from private_support import NAMES, made_pixels, made_project, tree, write_made_classifier

from pipeline import private
from pipeline.artifacts import paths
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_json
from pipeline.artifacts.guards import copies, read_guard
from pipeline.errors import ArtifactError, GuardError, WhorlError
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.guard import Guard
from pipeline.keys import KeyFile, KeyFileError, derive_seed, rotate_draw_key
from pipeline.params.edits import edit
from pipeline.params.root import load_params
from pipeline.private import build_guard
from pipeline.random import ImageRandom, generator

KEY = Path("bank.key")
OUT = Path("guard-private")
PURPOSES = ("bank/fingerprints", "bank/committees", "bank/calibration")
FILES = {
    "README.md", "bank.json", "bank.safetensors", "calibration.safetensors", "committees.safetensors", "config.json", "detector.json",
    "guard.json", "manifest.json", "model.safetensors", "pool.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a private guard; tests look at copies of it."""
    folder = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        made_project(folder, patch)
        patch.setenv("WHORL_DRAW_KEY_FILE", str(folder / "draw.key"))
        build_guard(KEY, OUT)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHORL_DRAW_KEY", raising=False)
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", str(tmp_path / "draw.key"))
    return tmp_path


def _key() -> bytes:
    return KeyFile(KEY).read()


def _bank(folder: Path) -> Bank:
    bank: Bank = read_guard(folder).detector.detector.bank  # type: ignore[attr-defined]
    return bank


def test_it_has_the_files_of_a_guard_and_inspects_images(project: Path) -> None:
    assert set(tree(OUT)) == FILES
    guard = Guard.load(OUT)
    found = guard.inspect(made_pixels(9, 40).transpose(0, 2, 3, 1))
    assert {one.label_name for one in found} == set(NAMES) and all(0 < one.p_value <= 1 for one in found)
    assert guard.alpha == load_params().calibration.alpha


def test_only_its_owner_may_open_it(project: Path) -> None:
    umask = os.umask(0)
    try:
        build_guard(KEY, Path("open/guard"))
        assert os.umask(0) == 0, "the process's own is put back"
    finally:
        os.umask(umask)
    assert Path("open/guard").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in Path("open/guard").iterdir()} == {0o600}


def test_the_same_key_gives_the_same_bytes_whatever_the_draw_key(project: Path) -> None:
    before = tree(OUT)
    rotate_draw_key()
    build_guard(KEY, Path("elsewhere/again"))
    assert tree(Path("elsewhere/again")) == before
    rotate_draw_key()
    build_guard(KEY, OUT)
    assert tree(OUT) == before and not list(project.rglob("*.tmp"))


def test_another_key_gives_another_bank(project: Path) -> None:
    build_guard(Path("other.key"), Path("other"))
    mine, other = tree(OUT), tree(Path("other"))
    assert {name for name in FILES if mine[name] != other[name]} >= {
        "bank.safetensors",
        "committees.safetensors",
        "calibration.safetensors",
    }
    assert all(mine[name] == other[name] for name in ("model.safetensors", "config.json", "pool.safetensors", "guard.json", "README.md"))
    banks = [{tuple(row) for row in _bank(folder).fingerprints.indices.tolist()} for folder in (OUT, Path("other"))]
    assert len(banks[0] & banks[1]) < 0.1 * len(banks[0]), "few fingerprints are in both"


def test_the_bank_is_of_the_candidates_that_the_key_s_seed_samples(project: Path) -> None:
    """Every kept fingerprint is a candidate of that seed in its group; hardly any is one of the public seed."""
    params, layout, bank = load_params(), FeatureSet.open(paths.ACTIVATIONS).layout, _bank(OUT)
    shares = []
    for seed in (derive_seed(_key(), PURPOSES[0]), params.fingerprints.seed):
        for group, prints in bank.groups.items():
            blocks = [
                sample_index_sets(generator(seed, "fingerprints", group, str(number)), layout, 4, count, params.fingerprints.layer_weights)
                for number, count in enumerate((300, 200))
            ]
            sampled = {tuple(row) for indices, _ in blocks for row in indices.tolist()}
            shares.append(np.mean([tuple(row) in sampled for row in prints.indices.tolist()]))
    mine, public = np.array(shares).reshape(2, -1)
    assert (mine == 1).all() and (public < 0.1).all() and len(mine) > 1


def test_the_moments_are_those_of_fit(project: Path) -> None:
    """By plain NumPy, from the features: the mean score of the group's clean images that are classified correctly."""
    clean = FeatureSet.open(paths.ACTIVATIONS).read_split(CLEAN, "fit")
    for group, prints in _bank(OUT).groups.items():
        rows = (clean.predicted == clean.labels) & (np.True_ if group == "pooled" else clean.predicted == int(group))
        scores = clean.neurons[rows].astype(np.float64)[:, prints.indices].mean(2)
        assert prints.mu0 == pytest.approx(scores.mean(0), rel=1e-5, abs=1e-6)


def test_calibration_images_meet_the_draws_of_the_key(project: Path) -> None:
    """All clean images of ``calibrate`` count, and nothing else: the scores come back from draws that are made here again."""
    stored, clean = read_guard(OUT).detector, FeatureSet.open(paths.ACTIVATIONS).read_split(CLEAN, "calibrate")
    draws = ImageRandom(derive_seed(_key(), PURPOSES[2]), "calibrate/joint", clean.ids)
    scores = stored.detector.scores(clean.neurons, clean.predicted, draws)
    assert len(clean.ids) == 150
    assert np.sort(np.concatenate(list(stored.calibration.groups.values()))) == pytest.approx(np.sort(scores), abs=0)
    public = stored.detector.scores(
        clean.neurons, clean.predicted, ImageRandom(load_params().calibration.seed, "calibrate/joint", clean.ids)
    )
    assert (public != scores).any()


def test_neither_the_key_nor_a_seed_of_it_is_written_or_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def spy(key: bytes, purpose: str) -> int:
        made.append(derive_seed(key, purpose))
        return made[-1]

    monkeypatch.setattr(private, "derive_seed", spy)
    build_guard(KEY, OUT)
    assert made == [derive_seed(_key(), purpose) for purpose in PURPOSES], "these are all there are"
    said = "".join(capfd.readouterr()).encode()
    recipe = private.Recipe.of(_key(), load_params().fingerprints, load_params().detectors["joint"])
    everything = b"".join([*tree(OUT).values(), *(name.encode() for name in tree(OUT)), said, repr(recipe).encode()])
    secret = [_key(), *(seed.to_bytes(16, order) for seed in made for order in ("little", "big"))]  # type: ignore[arg-type]
    forms = [form for raw in secret for form in (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="))]
    forms += [str(seed).encode() for seed in made] + [f"{seed:x}".encode() for seed in made]
    assert not [form for form in forms if form.lower() in everything.lower()]
    assert b"guard-private" in said and b"bank.key" in said


def test_stored_params_have_their_public_seeds_and_the_card_none(project: Path) -> None:
    params = load_params()
    assert read_json(OUT / "detector.json")["params"] == params.detectors["joint"].model_dump(mode="json")
    card = (OUT / "README.md").read_text()
    assert '"candidates": 500' in card and '"committees": 20' in card and '"seed"' not in card and "40961" not in card
    assert "This folder is a secret" in card and "fit a bank of their own to the same\ndata" in card and "promise is void" not in card


def test_it_is_no_part_of_a_run(finished: Path, project: Path) -> None:
    """No file of the artifacts, DVC's or MLflow's is made, changed or removed."""
    before = tree(project / "artifacts")
    build_guard(Path("third.key"), Path("third"))
    assert tree(project / "artifacts") == before
    assert {path.name for path in project.iterdir()} == {path.name for path in finished.iterdir()} | {"third", "third.key"}


def test_a_detector_without_committees_replaces_one_that_has_them(project: Path) -> None:
    edit({"publish.detector": "vote"})
    build_guard(KEY, OUT)
    assert set(tree(OUT)) == FILES - {"committees.safetensors"}
    assert len(Guard.load(OUT).inspect(made_pixels(9, 3).transpose(0, 2, 3, 1))) == 3


def test_an_altered_file_is_made_again_by_the_command(project: Path) -> None:
    (OUT / "bank.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"bank\.json: .* was altered\. `whorl guard build`, with the same key"):
        Guard.load(OUT)


def test_a_guard_stays_where_a_new_one_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(OUT)

    def full(folder: Path, **_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private, "put_detector", full)
    with pytest.raises(GuardError, match=r"^--out: .*guard-private cannot be written \(No space left on device\)"):
        build_guard(KEY, OUT)
    assert tree(OUT) == before and not list(project.rglob("*.tmp"))


def _no_activations() -> None:
    shutil.rmtree(paths.ACTIVATIONS)


def _other_params() -> None:
    edit({"activations.seed": 77})


def _other_classifier() -> None:
    write_made_classifier(1)


def _no_key() -> None:
    KEY.write_text("b" * 63 + "\n")


def _open_key() -> None:
    KEY.chmod(0o640)


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (_no_activations, ArtifactError, r"artifacts/activations: there are no activations yet, which a private bank rests on; run `make"),
        (_other_params, ArtifactError, r"artifacts/activations: made with other params \(activations\)"),
        (
            _other_classifier,
            ArtifactError,
            r"calibration images are not what artifacts/classifier makes of artifacts/data; run `make repro`",
        ),
        (_no_key, KeyFileError, r"^bank\.key: holds something else than a key \(not shown\), where 64 hex digits were expected\.$"),
        (_open_key, KeyFileError, r"^bank\.key: its mode is 0640"),
    ],
)
def test_what_it_cannot_rest_on_is_a_sentence(project: Path, spoil: Any, kind: type[WhorlError], said: str) -> None:
    before = tree(OUT)
    spoil()
    with pytest.raises(kind, match=said):
        build_guard(KEY, OUT)
    assert tree(OUT) == before


@pytest.mark.parametrize(
    ("key", "out", "said"),
    [
        ("bank.key", "artifacts/mine", r"^--out: artifacts/mine is inside artifacts, which DVC and MLflow keep"),
        ("bank.key", "artifacts/guard", r"^--out: artifacts/guard is inside artifacts"),
        ("bank.key", "linked/guard", r"^--out: linked/guard is inside artifacts"),
        (
            "bank.key",
            "mine",
            r"^--out: mine exists and is no guard, where a guard to replace, an empty folder or a new name was expected\.$",
        ),
        ("bank.key", "params.yaml", r"^--out: params\.yaml exists and is no guard"),
        ("bank.key", ".", r"^--out: \. exists and is no guard"),
        ("guard-private/bank.key", "guard-private", r"^--bank-key: guard-private/bank\.key is inside .*guard-private"),
        ("artifacts/bank.key", "guard-private", r"^--bank-key: artifacts/bank\.key is inside artifacts"),
        ("draw.key", "guard-private", r"^--bank-key: draw\.key is the draw key's file"),
    ],
)
def test_places_that_are_not_for_secrets_are_refused(project: Path, key: str, out: str, said: str) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("kept")
    Path("linked").symlink_to("artifacts")
    before = tree(project)
    with pytest.raises(GuardError, match=said):
        build_guard(Path(key), Path(out))
    assert tree(project) == before, "nothing was made, not even a key"


def test_an_empty_folder_is_filled(project: Path) -> None:
    Path("empty").mkdir()
    build_guard(KEY, Path("empty"))
    assert tree(Path("empty")) == tree(OUT)


def test_a_missing_part_is_missed_before_anything_is_written(project: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/bank/manifest\.json: there is no such file"):
        copies({"classifier": paths.CLASSIFIER, "bank": paths.BANK})


def test_the_command_says_it_in_a_line_with_status_2(project: Path) -> None:
    shutil.rmtree(paths.ACTIVATIONS)
    command = [str(Path(sys.executable).parent / "whorl"), "guard", "build", "--bank-key", "new.key"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("whorl: artifacts/activations: there are no activations yet"), done.stderr
    assert "Traceback" not in done.stderr and not Path("new.key").exists()
