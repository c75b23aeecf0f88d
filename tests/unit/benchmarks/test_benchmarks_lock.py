"""The peers' lock has the product's own versions of what both use."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
LOCK = (PROJECT / "benchmarks/peers.lock").read_text()
PIN = re.compile(r"^\s*\"?([a-z0-9.-]+)==([^\s;\"]+)", re.MULTILINE)


def test_what_the_product_pins_has_its_version_here_too() -> None:
    wanted, asked = dict(PIN.findall((PROJECT / "pyproject.toml").read_text())), (PROJECT / "benchmarks/peers.in").read_text()
    shared = {name: wanted[name] for name, _ in PIN.findall(asked) if name in wanted}
    assert {"torch", "torchvision", "timm", "pyarrow", "pydantic"} <= set(shared)
    assert shared.items() <= dict(PIN.findall(asked)).items()
    assert shared.items() <= dict(PIN.findall(LOCK)).items()
