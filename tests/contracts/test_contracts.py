"""What holds the structure together: import layers, DVC's dependencies, the params that stages load, and what is public."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params.root import Params, load_params
from pipeline.tune import command

PROJECT = Path(__file__).resolve().parents[2]
DVC = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]
STAGES = sorted(path.stem for path in (PROJECT / "stages").glob("[!_]*.py"))


def test_imports_keep_to_their_layers() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "lint-imports")], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dvc_lists_each_stage_s_compute_closure() -> None:
    done = subprocess.run([sys.executable, "infra/closure.py"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_missing_dependency_is_noticed(tmp_path: Path) -> None:
    """The check itself can fail: without one line of dvc.yaml it says which."""
    for name in ("pipeline", "stages", "infra"):
        (tmp_path / name).symlink_to(PROJECT / name)
    line = "      - pipeline/fingerprints/sampling.py\n"
    text = (PROJECT / "dvc.yaml").read_text()
    assert line in text
    (tmp_path / "dvc.yaml").write_text(text.replace(line, ""))
    done = subprocess.run(
        [sys.executable, "infra/closure.py", "--root", str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "pipeline/fingerprints/sampling.py" in done.stdout, done.stdout + done.stderr


def test_a_study_is_of_all_the_code_that_decides_on_its_trials() -> None:
    """What the bench and the objectives rest on, by the imports, is in the stages of which a study has the code, or named beside them."""
    spec = spec_from_file_location("closure", PROJECT / "infra/closure.py")
    assert spec and spec.loader
    closure = module_from_spec(spec)
    spec.loader.exec_module(closure)
    reached = closure.reach_files("pipeline.tune.bench") | closure.reach_files("pipeline.evaluation.pareto")
    staged = {file for stage in command.STAGES for file in closure.listed(DVC[stage])}
    assert reached - staged | {"pipeline/distributed/search.py"} == set(command.CODE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_the_sections_that_dvc_tracks(stage: str) -> None:
    listed = {str(section).replace("${key}", "{item}") for section in DVC[stage].get("do", DVC[stage]).get("params", [])}
    assert listed == set(import_module(f"stages.{stage}").SECTIONS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_no_param_that_it_does_not_name(stage: str) -> None:
    """Every attribute of ``params`` in a stage's module is a section that it loads."""
    sections = {section.split(".")[0] for section in import_module(f"stages.{stage}").SECTIONS}
    tree = ast.parse((PROJECT / "stages" / f"{stage}.py").read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    assert read & set(Params.model_fields) <= sections


def test_every_stage_has_its_module() -> None:
    assert set(DVC) == set(STAGES)


def test_no_stage_persists_its_outputs() -> None:
    """With ``persist: true`` DVC refuses its run cache, and an interrupted stage cannot resume."""
    assert "persist" not in (PROJECT / "dvc.yaml").read_text()


@pytest.mark.parametrize("path", sorted((PROJECT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_a_complete_params_file(path: Path) -> None:
    from pipeline.attacks.registry import parse_options

    params = load_params(path)
    for name, spec in params.attacks.items():
        parse_options(name, spec)


@pytest.mark.parametrize("package", ["pipeline", "stages"])
def test_every_package_file_is_empty(package: str) -> None:
    assert [path for path in (PROJECT / package).rglob("__init__.py") if path.stat().st_size] == []


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "ray", "mlflow", "timm", "pyarrow", "matplotlib", "dvc"}
    code = f"import sys, pipeline.cli; bad = {heavy} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LOCKS = {"infra/locks/requirements.txt": 100, "infra/locks/bootstrap.txt": 1, "benchmarks/peers.lock": 50}
"""The least number of pins in each."""


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_pins_and_hashes_alone(lock: str) -> None:
    """A name, a version, at most a marker, and under it SHA-256 sums: no option, no address, nothing unpinned."""
    text = (PROJECT / lock).read_text()
    pin, sums = r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==[^ ;:/]+( ; [^:/]+)?", r"( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"({pin}{sums})+", text)
    assert len(re.findall(f"^{pin}", text, re.MULTILINE)) >= LOCKS[lock]
