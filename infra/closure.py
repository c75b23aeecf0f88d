"""The compute closure of every stage: which modules its result depends on. ``dvc.yaml`` lists exactly these.

``python infra/closure.py`` prints what differs and exits with 1; ``--write`` mends ``dvc.yaml``; ``--root FOLDER`` looks at
another folder's ``dvc.yaml``.
"""

import sys
from pathlib import Path
from typing import Any

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
EXCEPTED = (
    "pipeline.artifacts.paths",
    "pipeline.checks",
    "pipeline.cli",
    "pipeline.distributed",
    "pipeline.repro",
    "pipeline.outside",
    "pipeline.params.messages",
    "pipeline.params.root",
    "pipeline.progress",
    "pipeline.tracking",
    "stages.__main__",
)
"""Modules that change no result: where it lies, how work is spread, shown, checked beforehand and recorded. ``artifacts.paths`` only names
files: one that gets another name gets it in ``dvc.yaml`` too, as an output or a dependency. ``params.root`` reads and checks the whole
params file; the sections that a stage uses are its params, and their classes are in its closure."""
DYNAMIC = {"pipeline.attacks.registry": "pipeline.attacks.families"}
"""Modules that import every module of a package by name. Each attack depends on its own family's file alone, which
``dvc.yaml`` names as ``${item.family}``, so here only what the families import counts, another family among it."""


DATA = {
    "pipeline.artifacts.card": ["pipeline/artifacts/templates/adversarial.md.j2"],
    "pipeline.evaluation.card": ["pipeline/evaluation/templates/card.md.j2"],
    "pipeline.evaluation.report": ["pipeline/evaluation/templates/report.html.j2", "pipeline/evaluation/templates/studies.html.j2"],
}
"""Modules to the files that they read beside themselves."""


def closures() -> dict[str, set[str]]:
    """Stage to the files, relative to the project, of its compute closure."""
    graph = _graph()
    stages = [name for name in graph.find_children("stages") if not excepted(name)]
    return {stage.removeprefix("stages."): _files(_reach(graph, stage)) for stage in stages}


def reach_files(module: str) -> set[str]:
    """The files, relative to the project, that one module's results depend on."""
    return _files(_reach(_graph(), module))


def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline", "stages", cache_dir=None, exclude_type_checking_imports=True)


def _files(modules: set[str]) -> set[str]:
    return {_file(module) for module in modules} | {file for module in modules for file in DATA.get(module, [])}


def excepted(module: str) -> bool:
    """Whether a module is outside every closure."""
    return any(module == name or module.startswith(f"{name}.") for name in EXCEPTED)


def _reach(graph: grimp.ImportGraph, start: str) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module in seen or excepted(module):
            continue
        seen.add(module)
        waiting += graph.find_modules_directly_imported_by(module)
        if module in DYNAMIC:
            waiting += graph.find_children(DYNAMIC[module])
    families = {child for package in DYNAMIC.values() for child in graph.find_children(package)}
    shared = {module for family in families for module in graph.find_modules_directly_imported_by(family)}
    return {module for module in seen if not _is_package(module)} - (families - shared)


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def listed(definition: dict[str, Any]) -> list[str]:
    """The code dependencies of a stage's definition, without templated ones."""
    deps = definition.get("do", definition).get("deps", [])
    return [dep for dep in deps if is_code(dep) and "${" not in dep]


def is_code(dep: str) -> bool:
    """Whether a dependency is the project's own, not an artifact."""
    return dep.startswith(("pipeline/", "stages/"))


def main(write: bool, root: Path) -> int:
    """Compares, or mends; returns the exit status."""
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    path, wrong = root / "dvc.yaml", 0
    content = yaml.load(path.read_text())
    for stage, files in closures().items():
        definition = content["stages"][stage]
        if set(listed(definition)) != files:
            wrong += 1
            print(f"{stage}: missing {sorted(files - set(listed(definition)))}, surplus {sorted(set(listed(definition)) - files)}")
        body = definition.get("do", definition)
        others = [dep for dep in body.get("deps") or [] if not is_code(dep) or "${" in dep]
        body["deps"] = [*others, *sorted(files)]
    if write:
        with path.open("w") as file:
            yaml.dump(content, file)
    return 0 if write else min(wrong, 1)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main("--write" in arguments, Path(arguments[arguments.index("--root") + 1]) if "--root" in arguments else ROOT))
