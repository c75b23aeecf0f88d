"""docs/attacks.md is true: its table is the registry, its program runs, and what it names exists."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.attacks import adaptive, transforms
from pipeline.attacks.registry import family_names, parse_options
from pipeline.params.attacks import AttackSpec

PAGE = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text()


def test_the_table_lists_every_family() -> None:
    families = PAGE.split("## Which there are")[1].split("##")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", families, re.MULTILINE)) == sorted(family_names())


def test_there_is_an_entry_of_every_family_and_it_is_read() -> None:
    (entries,) = (YAML(typ="safe", pure=True).load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    for name, entry in entries.items():
        parse_options(name, AttackSpec(**entry))
    assert {entry["family"] for entry in entries.values()} == set(family_names())


def test_the_programs_run(capsys: pytest.CaptureFixture[str]) -> None:
    attack, adaptive_attack = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    variables: dict[str, object] = {}
    exec(attack, variables)
    said = re.fullmatch(r"(\d+)% fooled, L2 ([\d.]+)\n", capsys.readouterr().out)
    assert said is not None and int(said[1]) > 50 and 0 < float(said[2]) < 8 / 255 * (3 * 8 * 8) ** 0.5
    exec(adaptive_attack, variables)
    said = re.fullmatch(r"(\d+)% fooled through JPEG, the score of (\d+)% fell\n", capsys.readouterr().out)
    assert said is not None and int(said[1]) > 30 and int(said[2]) > 80
    exec(adaptive_attack.replace("(1.0, away_from(seen))", "(0.0, away_from(seen))"), variables)
    detector_alone = re.match(r"(\d+)%", capsys.readouterr().out)
    assert detector_alone is not None and int(detector_alone[1]) < int(said[1]) - 10


def test_the_pieces_exist() -> None:
    pieces = re.findall(r"`(\w+)`", PAGE.split("## Against a defence")[1].split("| to … | use |")[1].split("##")[0])
    assert len(pieces) > 8
    for piece in pieces:
        assert hasattr(adaptive, piece) or hasattr(transforms, piece), piece
