"""Runs one stage: ``python -m stages attack fgsm``. Checks the params first, and turns errors into sentences."""

import inspect
import logging
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from pipeline.checks import ensure_checked
from pipeline.distributed.environment import prepare_environment
from pipeline.errors import ParamsError, WhorlError

STAGES = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def main(*arguments: str) -> int:
    """Runs ``stages.NAME.main(*items)`` for the arguments NAME and items; returns the process's exit status, 2 where a user's
    input was at fault.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        name, *items = _named(arguments)
        prepare_environment()  # before anything heavy is imported
        ensure_checked()
        _callable(name, items)()
    except WhorlError as error:
        print(f"whorl: {error}", file=sys.stderr)
        return 2
    return 0


def _named(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if not arguments or arguments[0] not in STAGES:
        found = f"there is no stage {arguments[0]!r}" if arguments else "no stage is named"
        raise ParamsError(f"python -m stages: {found}, where one of {', '.join(STAGES)} was expected.")
    return arguments


def _callable(name: str, items: list[str]) -> Callable[[], None]:
    stage = import_module(f"stages.{name}").main
    wanted = len(inspect.signature(stage).parameters)
    if len(items) != wanted:
        given = " ".join(items) or "nothing"
        expected = f"the name of one item ({name}@ITEM in dvc.yaml)" if wanted else "nothing"
        raise ParamsError(f"python -m stages {name}: {given} was given after it, where {expected} was expected.")
    return partial(stage, *items)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
