"""The card of a private guard: what a person who is handed the folder, which is a secret, should know."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_private_card(params: Mapping[str, Any], class_names: Sequence[str], layers: Sequence[str], promise: str | None) -> str:
    """The card in Markdown; it names no folder, so that the same key gives the same bytes anywhere.

    Args:
        params: section to what the bank was built with, without seeds.
        class_names: in label order.
        layers: whose neurons are looked at.
        promise: why the false-alarm promise is void; None where it holds.
    """
    environment = Environment(  # Markdown, not HTML: nothing to escape
        loader=PackageLoader("pipeline.evaluation"), autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("private_card.md.j2").render(
        params=json.dumps(params, indent=2, sort_keys=True),
        classes=len(class_names),
        layers=layers,
        alpha=params["calibration"]["alpha"],
        promise=promise,
    )
