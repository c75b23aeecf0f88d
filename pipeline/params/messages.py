"""Turns pydantic's errors into sentences that name the key, its value and what was expected."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def sentences(path: Path, model: type[BaseModel], error: ValidationError, prefix: str = "") -> Iterator[str]:
    """One sentence a problem: ``params.yaml: splits.origins.digits: the shares add up to 0.9, where 1 was expected.``"""
    for detail in error.errors(include_url=False):
        yield from _lines(path, detail, prefix)


def _lines(path: Path, detail: ErrorDetails, prefix: str) -> Iterator[str]:
    key = ".".join([*([prefix] if prefix else []), *(str(part) for part in detail["loc"])])
    where = f"{path}: {key}" if key else f"{path}"
    match detail["type"]:
        case "extra_forbidden":
            value = _short(detail["input"])
            yield f"{where}: this key is unknown (its value is {value}), where only the keys of the presets were expected."
        case "missing":
            yield f"{where}: this key is missing, where a value was expected (the presets show one)."
        case "value_error":
            for line in str(detail["ctx"]["error"]).splitlines():
                yield f"{where}: {line}."
        case _:
            expected = detail["msg"][0].lower() + detail["msg"][1:]
            yield f"{where}: the value is {_short(detail['input'])}, where {_expected(expected)}."


def _expected(message: str) -> str:
    message = message.removeprefix("input should be ")
    return f"{message} was expected"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
