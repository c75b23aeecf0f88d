"""Files that are byte-stable and whole, and manifests that name what was altered."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.artifacts.files import read_arrays, read_json, read_table, write_arrays, write_bytes, write_json, write_table
from pipeline.artifacts.manifest import open_artifact, seal
from pipeline.artifacts.signature import code_digest, signature
from pipeline.errors import ArtifactError


@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), hnp.array_shapes(max_dims=3, max_side=5)))
def test_arrays_come_back_and_are_byte_stable(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    write_arrays(folder / "a", {"x": array, "y": array.T})
    write_arrays(folder / "b", {"y": array.T, "x": array})
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    found = read_arrays(folder / "a")
    np.testing.assert_array_equal(found["x"], array)
    np.testing.assert_array_equal(found["y"], array.T)


def test_json_has_sorted_keys_and_refuses_what_is_no_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [None, 0.1]})
    write_json(tmp_path / "b", {"a": [None, 0.1], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": [None, 0.1], "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "c", float("nan"))
    assert not (tmp_path / "c").exists()


def test_tables_come_back(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "n": [1, 2]})
    write_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet").equals(table)


@pytest.mark.parametrize("read", [read_arrays, read_json, read_table])
@pytest.mark.parametrize("content", [None, b"", b"neither of them"])
def test_unreadable_files_are_sentences(tmp_path: Path, read: object, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x: .* was expected"):
        read(tmp_path / "x")  # type: ignore[operator]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    write_json(tmp_path / "a.json", {"a": 1})
    write_arrays(tmp_path / "sub" / "b.safetensors", {"x": np.zeros(4)})
    seal(tmp_path, kind="data", stage="prepare", about={"n": 1})
    return tmp_path


def test_a_sealed_artifact_reads_back(sealed: Path) -> None:
    artifact = open_artifact(sealed, "data")
    artifact.verify()
    assert artifact.json("a.json") == {"a": 1} and artifact.about == {"n": 1} and set(artifact.files) == {"a.json", "sub/b.safetensors"}


def test_an_altered_file_is_named_with_its_hash_and_the_way_back(sealed: Path) -> None:
    artifact = open_artifact(sealed, "data")
    expected = artifact.sha256("a.json")
    (sealed / "a.json").write_text('{"a": 2}\n')
    with pytest.raises(ArtifactError) as caught:
        artifact.json("a.json")
    said = str(caught.value)
    assert "a.json" in said and expected in said and "dvc checkout --force" in said and "dvc repro --force --single-item prepare" in said


@pytest.mark.parametrize(("name", "said"), [("sub/b.safetensors", "is missing, where SHA-256"), ("c.json", "does not list this file")])
def test_missing_and_unlisted_files_are_said(sealed: Path, name: str, said: str) -> None:
    (sealed / "sub/b.safetensors").unlink()
    with pytest.raises(ArtifactError, match=said):
        open_artifact(sealed, "data").path(name)


def test_unfinished_and_foreign_artifacts_are_refused(sealed: Path) -> None:
    with pytest.raises(ArtifactError, match="describes a 'data' artifact, where 'bank' was expected"):
        open_artifact(sealed, "bank")
    (sealed / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="this is no manifest"):
        open_artifact(sealed, "data")
    (sealed / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="`dvc repro` makes it"):
        open_artifact(sealed, "data")


def test_a_signature_depends_on_everything_it_is_told(tmp_path: Path) -> None:
    base = {"code": "c", "params": {"a": 1}, "inputs": {"f": "h"}}
    signatures = [signature("attack", **base)]  # type: ignore[arg-type]
    for change in ({"code": "d"}, {"params": {"a": 2}}, {"inputs": {"f": "i"}}, {"inputs": {"g": "h"}}):
        signatures.append(signature("attack", **{**base, **change}))  # type: ignore[arg-type]
    signatures.append(signature("evaluate", **base))  # type: ignore[arg-type]
    assert len(set(signatures)) == len(signatures) and signature("attack", **base) == signatures[0]  # type: ignore[arg-type]


def test_the_code_digest_follows_the_listed_modules(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "fgsm.py"):
        (tmp_path / name).write_text("1")
    (tmp_path / "dvc.yaml").write_text(
        "stages: {attack: {foreach: [x], do: {cmd: c, deps: [a.py, 'artifacts/data', '${item.family}.py']}}}"
    )

    def digest() -> str:
        return code_digest("attack", tmp_path / "dvc.yaml", family="fgsm")

    before = digest()
    (tmp_path / "b.py").write_text("2")
    assert digest() == before
    (tmp_path / "fgsm.py").write_text("2")
    assert digest() != before
    with pytest.raises(ArtifactError, match="has no stage 'publish'"):
        code_digest("publish", tmp_path / "dvc.yaml")
