"""A search at rest: what it is a search of, and a file for each finished trial, so that a search that was killed goes on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts.files import read_json, write_json
from pipeline.errors import WhorlError
from pipeline.params.flat import flatten


@dataclass(frozen=True)
class Trial:
    """One design and how it did.

    Attributes:
        number: its own; 0 is the params file as it stands.
        point: of the search space; None for number 0.
        params: dotted key to value of everything that the search may change.
        objectives: name to value; empty where the trial failed.
        figures: further ones, for people.
        problem: why it failed, None where it did not.
    """

    number: int
    point: dict[str, Any] | None
    params: dict[str, Any]
    objectives: dict[str, float]
    figures: dict[str, float]
    problem: str | None


@dataclass(frozen=True)
class Study:
    """The folder of a search."""

    folder: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What it is a search of; raises WhorlError where there is none yet."""
        path = self.folder / "study.json"
        if not path.is_file():
            raise WhorlError(f"{self.folder}: there is no study, where a finished one was expected; `whorl tune fingerprints` makes it.")
        content: dict[str, Any] = read_json(path)
        return content

    @property
    def base(self) -> dict[str, Any]:
        """The values that the search began with, whatever the params file has by now."""
        base: dict[str, Any] = self.identity["base"]
        return base

    def begin(self, identity: Mapping[str, Any], base: Mapping[str, Any]) -> None:
        """Begins the search, or goes on with one of the same identity; raises WhorlError where the folder has another's.

        Args:
            identity: what it is a search of.
            base: dotted key to value of all that the search may change, as it stands; kept where the search begins.
        """
        if (self.folder / "study.json").is_file():
            self.require(identity)
        else:
            write_json(self.folder / "study.json", {**identity, "base": base})

    def require(self, identity: Mapping[str, Any]) -> None:
        """Raises WhorlError, with the keys that differ, unless this is a search of the given parts of an identity."""
        there, here = dict(flatten({key: self.identity.get(key) for key in identity})), dict(flatten(identity))
        differ = [key for key in dict.fromkeys((*there, *here)) if there.get(key) != here.get(key)]
        if differ:
            said = "; ".join(f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here" for key in differ[:3])
            more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise WhorlError(
                f"{self.folder}: this is a study of other params or code ({said}{more}), where one of the present ones was expected; "
                "`whorl tune fingerprints --study NAME` makes one beside it."
            )

    def trials(self) -> list[Trial]:
        """The finished trials, by number."""
        return [Trial(**read_json(path)) for path in sorted((self.folder / "trials").glob("*.json"))]

    def seconds(self) -> dict[int, float]:
        """How long each trial took here."""
        return {int(path.stem): read_json(path)["seconds"] for path in (self.folder / "timings").glob("*.json")}

    def write(self, trial: Trial, seconds: float) -> None:
        """Keeps a finished trial."""
        write_json(self.folder / "timings" / f"{trial.number:05d}.json", {"seconds": round(seconds, 2)})
        write_json(self.folder / "trials" / f"{trial.number:05d}.json", asdict(trial))

    def trial(self, number: int) -> Trial:
        """One trial that did not fail; raises WhorlError where there is none of the number."""
        known = {trial.number: trial for trial in self.trials()}
        if number not in known:
            expected = f"one from 0 to {max(known)}" if known else "a finished one"
            raise WhorlError(f"{self.folder}: has no trial {number}, where {expected} was expected.")
        if said := known[number].problem:
            raise WhorlError(f"{self.folder}: trial {number} failed ({said}), where one that worked was expected.")
        return known[number]


def trial_table(trials: Iterable[Trial], on_front: set[int]) -> pa.Table:
    """A row a trial: number, whether it is on the Pareto front, params (a mapping as JSON), objectives, figures, problem."""
    rows = [
        {
            "number": trial.number,
            "front": trial.number in on_front,
            **trial.params,
            **trial.objectives,
            **trial.figures,
            "problem": trial.problem,
        }
        for trial in sorted(trials, key=lambda trial: (bool(trial.problem), trial.number))
    ]
    mixed = {key for row in rows for key, value in row.items() if isinstance(value, dict)}
    return pa.Table.from_pylist([{key: json.dumps(value) if key in mixed else value for key, value in row.items()} for row in rows])
