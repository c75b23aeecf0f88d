"""For all tests: one thread (two workers of a test on two cores are faster so, and give the same bits), and no telemetry."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pipeline.distributed.environment import prepare_environment

prepare_environment()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run the tests (``make test``), a file's stay together, for what they share is made once; so do all
    that look at the one small chain.
    """
    for item in items:
        integration = "integration" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("chain" if integration else str(item.path)))
