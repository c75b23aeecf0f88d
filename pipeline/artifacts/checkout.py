"""The commit that is checked out, which what is published or recorded names."""

import subprocess
from pathlib import Path

LOCK, PARAMS = Path("dvc.lock"), Path("params.yaml")


def commit() -> str:
    """The git commit that is checked out, ``unknown`` outside a repository."""
    return _git("rev-parse", "HEAD") or "unknown"


def dirty(*besides: Path) -> bool:
    """Whether tracked files differ from the commit; ``dvc.lock``, which the run itself rewrites, and the params file, which is told by what
    it says, are left out.

    Args:
        besides: further files or folders to leave out; those outside of the current folder are no matter.
    """
    here = Path.cwd()
    inside = [path.resolve().relative_to(here) for path in besides if path.resolve().is_relative_to(here)]
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in (LOCK, PARAMS, *inside))))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
