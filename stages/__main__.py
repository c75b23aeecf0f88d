"""Runs one stage: ``python -m stages attack fgsm``. Checks the params first, and turns errors into sentences."""

import logging
import sys
from importlib import import_module

from pipeline.checks import ensure_checked
from pipeline.distributed.environment import prepare_environment
from pipeline.errors import WhorlError


def main(name: str, *items: str) -> int:
    """Runs ``stages.NAME.main(*items)``; returns the process's exit status, 2 where a user's input was at fault."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        prepare_environment()
        ensure_checked()
        import_module(f"stages.{name}").main(*items)
    except WhorlError as error:
        print(f"whorl: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
