"""The peers' lock: pinned by hash, naming no host, with the product's own versions of what both use."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
LOCK = (PROJECT / "benchmarks/peers.lock").read_text()
PIN = re.compile(r"^\s*\"?([a-z0-9.-]+)==([^\s;\"]+)", re.MULTILINE)


def test_the_lock_names_no_host_and_pins_by_hash() -> None:
    assert "://" not in LOCK and "--index" not in LOCK and "--find-links" not in LOCK
    pins = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) > 50 and all("==" in line and line.endswith("\\") for line in pins)


def test_what_the_product_pins_has_its_version_here_too() -> None:
    wanted, asked = dict(PIN.findall((PROJECT / "pyproject.toml").read_text())), (PROJECT / "benchmarks/peers.in").read_text()
    shared = {name: wanted[name] for name, _ in PIN.findall(asked) if name in wanted}
    assert {"torch", "torchvision", "timm", "pyarrow", "pydantic"} <= set(shared)
    assert shared.items() <= dict(PIN.findall(asked)).items()
    assert shared.items() <= dict(PIN.findall(LOCK)).items()
