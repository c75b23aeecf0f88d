"""Nested values as dotted keys and text, as people and MLflow read them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of each leaf of nested mappings, in their order.

    Text stays as it is; lists, numbers, booleans and null are written as JSON, empty mappings as ``{}``, and what JSON
    does not know (a path, say) as its text in JSON.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
