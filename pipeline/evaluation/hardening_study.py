"""What the report says of the rounds of hardening: plain values in, plain values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.verdict import Rate, rate

Metrics = Mapping[str, float | None]
MEASURES = ("detected", "detected_after_looks", "accepted", "detected_evenly", "accepted_evenly")
"""Of an attack, in a round."""


@dataclass(frozen=True)
class HardeningStudy:
    """A detector fitted again on the attacked images that got past it, round after round.

    Attributes:
        detector: its name.
        looks: committees that the attacker looks at before sending.
        reselect: whether a round selected its bank again.
        attacks: all that were tested.
        metrics: ``round<N>.<attack or clean>.<measure>``; a round that could not be made has none.
    """

    detector: str
    looks: int
    reselect: bool
    attacks: Sequence[str]
    metrics: Metrics

    @property
    def rounds(self) -> list[int]:
        """The rounds that were measured; 0 is the detector as the chain fits it."""
        known = (key.split(".") for key in self.metrics if key.startswith("round") and key.endswith(".clean.flagged"))
        return sorted(int(first.removeprefix("round")) for first, *_ in known)

    def of(self, number: int, name: str, measure: str) -> Rate | None:
        """One figure of a round."""
        return rate(self.metrics, f"round{number}.{name}.{measure}")


def hardening_sentence(study: HardeningStudy) -> str:
    """Whether it helped, by the last round: which round to take is no choice for figures of ``test`` to make."""
    last = max(study.rounds, default=0)
    if not last:
        return f"Nothing was folded back into the fit of the detector {study.detector}: whether that would help is not known."
    fell, rose = (_moved(study, last, "accepted_evenly", sign) for sign in (-1, 1))
    rounds = "one round" if last == 1 else f"{last} rounds"
    moved = [f"{verb} against {len(moves)}" for verb, moves in (("helped", fell), ("did harm", rose)) if moves]
    said = (
        f"{' and '.join(moved)} of {len(study.attacks)} attacks"
        if moved
        else "made no difference of 0.01 points or more that these images can show"
    )
    opening = (
        f"Against an attacker who knows the bank and sends what passes {study.looks} looks, {rounds} of folding survivors back into the "
        f"fit of the detector {study.detector} {said}: with as many false alarms as before, the share of wrong labels that end accepted "
    )
    parts = [f"{verb} for {'; '.join(moves)}" for verb, moves in (("fell", fell), ("rose", rose)) if moves]
    shares = ", and ".join(parts) if parts else "changed for no attack by 0.01 points or more and beyond its interval"
    luck = (
        " Every round has a bank of its own, whose luck is part of these differences and not of their intervals." if study.reselect else ""
    )
    return f"{opening}{shares}. {_cost(study, last)}{luck}"


def _cost(study: HardeningStudy, last: int) -> str:
    """What it costs, or gains, on attacks sent as they are, and on clean images."""
    fell, rose = (_moved(study, last, "detected_evenly", sign) for sign in (-1, 1))
    parts = [f"{verb} for {'; '.join(moves)}" for verb, moves in (("fell", fell), ("rose", rose)) if moves]
    found = ", and ".join(parts) if parts else "changed for none by 0.01 points or more and beyond its interval"
    before, now, apart = study.of(0, "clean", "flagged"), study.of(last, "clean", "flagged"), study.of(last, "clean", "flagged_change")
    alarms = (
        f"With the thresholds of its own calibration, false alarms went from {before.text} to {now.text} ({_points(apart)})."
        if before and now
        else ""
    )
    return f"Compared likewise, detection of attacks sent as they are {found}. {alarms}".rstrip()


def _moved(study: HardeningStudy, last: int, measure: str, sign: int) -> list[str]:
    """The attacks for which a measure moved in one direction by more than its interval, each with how far."""
    found = []
    for attack in study.attacks:
        apart = study.of(last, attack, f"{measure}_change")
        before, now = study.of(0, attack, measure), study.of(last, attack, measure)
        if apart is None or before is None or now is None or apart.low is None or apart.high is None:
            continue
        told = abs(round(100 * apart.value, 2)) > 0  # what is nothing in the figures that are shown is not spoken of
        if told and ((sign < 0 and apart.high < 0) or (sign > 0 and apart.low > 0)):
            found.append(f"{attack}, from {before.text} to {now.text} ({_points(apart)})")
    return found


def _points(apart: Rate | None) -> str:
    """A difference of shares, in points, with its interval."""
    if apart is None or apart.low is None or apart.high is None:
        return "no interval"
    value, low, high = (f"{100 * end:+.2f}".replace("-", "−") for end in (apart.value, apart.low, apart.high))
    return f"{value} points, {low} to {high}"


def _sent(study: HardeningStudy, number: int, attack: str) -> float:
    """How many images are still sent after the looks, in expectation: a share of less than one is that of whichever happens to be left."""
    images, accepted, detected = (
        study.metrics.get(f"round{number}.{attack}.{measure}") for measure in ("images", "accepted", "detected_after_looks")
    )
    if images is None or accepted is None or detected is None or detected == 1:  # nothing that is sent is detected for sure
        return 0.0
    return images * accepted / (1 - detected)


def hardening_rounds(study: HardeningStudy) -> list[dict[str, Any]]:
    """A table a round: its false alarms, and a row an attack."""
    return [
        {
            "name": "round 0: the detector as the chain fits it" if number == 0 else f"round {number}",
            "flagged": study.of(number, "clean", "flagged"),
            "correct_only": study.of(number, "clean", "flagged_correct_only"),
            "rows": [
                {
                    "attack": attack,
                    "survivors": study.metrics.get(f"round{number}.{attack}.survivors"),
                    "auroc": study.of(number, attack, "auroc"),
                    **{measure: study.of(number, attack, measure) for measure in MEASURES},
                    **({} if _sent(study, number, attack) >= 1 else {"detected_after_looks": None}),
                }
                for attack in study.attacks
            ],
        }
        for number in study.rounds
    ]
