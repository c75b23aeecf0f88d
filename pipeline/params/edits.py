"""Changes of the params file that a user asked for: comments and layout stay, and the old file is kept."""

import io
import shutil
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.errors import ParamsError
from pipeline.params.root import PARAMS_FILE, load_params, read_yaml

PRESETS = Path("presets")


def presets() -> list[Path]:
    """The presets, by name."""
    return sorted(PRESETS.glob("*.yaml"))


def keep_old(target: Path = PARAMS_FILE) -> Path | None:
    """Copies the params file beside itself, under a name of its own, unless it is an unchanged preset; returns the copy."""
    if not target.is_file() or target.read_bytes() in (path.read_bytes() for path in presets()):
        return None
    kept = next(path for number in count() if not (path := target.with_name(f"{target.name}.bak{number or ''}")).exists())
    shutil.copyfile(target, kept)
    return kept


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """YAML with some values changed and all else as it was, comments included.

    Args:
        text: of the file.
        changes: dotted key, which must be there, to its new value.

    Raises:
        ParamsError: there is no such key.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 2**20
    # Left alone, ruamel writes null as nothing at all.
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))
    content = yaml.load(text)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        section = content
        for parent in parents:
            section = section.get(parent, {})
        if last not in section:
            raise ParamsError(f"{PARAMS_FILE}: has no {dotted}, where it was expected, to be set to {value!r}.")
        if isinstance(value, dict) and isinstance(section[last], dict) and set(value) == set(section[last]):
            section[last].update(value)  # in place, which keeps the comments of its lines
        else:
            section[last] = _inline(value) if isinstance(value, dict) else value
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def edit(changes: Mapping[str, Any], target: Path = PARAMS_FILE) -> Path | None:
    """Changes values of the params file; returns the copy of the old one (see ``keep_old``).

    Raises:
        ParamsError: there is no such key, or the changed file would not be valid; the file is then as it was.
    """
    new = target.with_name(f".{target.name}.new")
    try:
        new.write_text(edited(target.read_text(), changes))
        load_params(new)
        differ = set(_leaves(read_yaml(target)) ^ _leaves(read_yaml(new)))
        if strange := sorted({key for key, _ in differ if not any(f"{key}.".startswith(f"{wanted}.") for wanted in changes)}):
            raise ParamsError(f"{target}: {strange} would change too, where only {sorted(changes)} were expected to.")
        kept = keep_old(target)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
    return kept


def _inline(values: Mapping[str, Any]) -> CommentedMap:
    mapping = CommentedMap(values)
    mapping.fa.set_flow_style()
    return mapping


def _leaves(values: Any, prefix: str = "") -> set[tuple[str, str]]:
    items: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, dict) else ()
    nested = [_leaves(value, f"{prefix}{key}.") for key, value in items]
    return set().union(*nested) if isinstance(values, dict) and values else {(prefix.removesuffix("."), repr(values))}
