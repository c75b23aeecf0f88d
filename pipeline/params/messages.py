"""Turns pydantic's errors into sentences that name the key, its value and what was expected."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_MISSING = "this key is missing, where a value was expected (the presets show one, of an attack docs/attacks.md)."


def sentences(path: Path, content: Any, error: ValidationError, prefix: str = "") -> Iterator[str]:
    """One sentence a problem: ``params.yaml: splits.origins.digits: the shares add up to 0.9, where 1 was expected.``

    Args:
        path: the file, to be named.
        content: what was validated; tells keys from the names of a union's types, which pydantic mixes.
        error: what pydantic says.
        prefix: the key under which ``content`` stands in the file.
    """
    said = set()
    for detail in error.errors(include_url=False):
        key = ".".join(filter(None, [prefix, *_keys(content, detail)]))
        for line in _lines(f"{path}: {key}" if key else f"{path}", detail):
            if line not in said:  # the branches of a union may say the same
                said.add(line)
                yield line


def _keys(content: Any, detail: ErrorDetails) -> Iterator[str]:
    here, last = content, len(detail["loc"]) - 1
    for place, part in enumerate(detail["loc"]):
        in_mapping = isinstance(here, dict) and part in here
        if in_mapping or (isinstance(part, int) and isinstance(here, list | tuple)):
            here = here[part]
        elif not (detail["type"] == "missing" and place == last):
            continue
        yield str(part)


def _lines(where: str, detail: ErrorDetails) -> Iterator[str]:
    value = _short(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            yield f"{where}: this key is unknown (its value is {value}), where only the keys of the presets were expected."
        case "missing":
            yield f"{where}: {_MISSING}"
        case "value_error":
            for line in str(detail["ctx"]["error"]).splitlines():
                yield f"{where}: {line}."
        case "union_tag_invalid":
            context = detail["ctx"]
            key, found = str(context["discriminator"]).strip("'"), context["tag"]
            yield f"{where}.{key}: the value is {found!r}, where one of {context['expected_tags']} was expected."
        case "union_tag_not_found":
            key = str(detail["ctx"]["discriminator"]).strip("'")
            yield f"{where}.{key}: {_MISSING}"
        case _:
            message = (detail["msg"][0].lower() + detail["msg"][1:]).removeprefix("input should be ")
            expected = f"a value {message}" if message.startswith(("greater", "less")) else message
            yield f"{where}: the value is {value}, where {expected} was expected."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
