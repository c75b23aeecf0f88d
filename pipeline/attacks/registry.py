"""Which attack families there are: the files of ``families/`` but those that start with an underscore. Adding an attack is adding one."""

import pkgutil
from importlib import import_module
from typing import cast

from pydantic import ValidationError

from pipeline.attacks import families as package
from pipeline.attacks.base import AttackOptions, Family
from pipeline.attacks.geometry import Linf
from pipeline.errors import ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.params.messages import sentences
from pipeline.params.root import PARAMS_FILE


def family_names() -> tuple[str, ...]:
    """The families' names, sorted, without importing any."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")))


def family(name: str) -> Family:
    """The family of that name; raises KeyError where there is none."""
    if name not in family_names():
        raise KeyError(name)
    return cast(Family, import_module(f"{package.__name__}.{name}"))


def families() -> dict[str, Family]:
    """Every family by name, sorted."""
    return {name: family(name) for name in family_names()}


def parse_options(name: str, spec: AttackSpec) -> AttackOptions:
    """The typed options of one entry of ``attacks``.

    Args:
        name: the entry's key in the params file.
        spec: the entry, whose options only its family can type.

    Raises:
        ParamsError: a sentence for each problem, with the key ``attacks.<name>.<field>``: an unknown family, a key
            that is unknown or missing, or a value of the wrong type or range.
    """
    known = family_names()
    if spec.family not in known:
        raise ParamsError(
            f"{PARAMS_FILE}: attacks.{name}.family: the value is {spec.family!r}, where one of {', '.join(known)} was expected."
        )
    content = {"family": spec.family, **(spec.model_extra or {})}
    try:
        options = family(spec.family).Options.model_validate(content)
    except ValidationError as error:
        raise ParamsError("\n".join(sentences(PARAMS_FILE, content, error, f"attacks.{name}"))) from error
    bound = family(spec.family).bound(options)
    if bound is not None and isinstance(bound.norm, Linf) and bound.epsilon > 1:
        raise ParamsError(
            f"{PARAMS_FILE}: attacks.{name}.epsilon: the value is {bound.epsilon:g}, where at most 1 was expected, which takes black to "
            f"white; a bound in grey levels is written as a fraction, such as {bound.epsilon:g}/255."
        )
    return options
