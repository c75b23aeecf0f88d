"""The small chain that tests of a finished run share."""

import pytest
from integration_support import SMALL, Chain


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain that has run through once; tests only look at it."""
    chain = Chain.copy(tmp_path_factory.mktemp("chain"), SMALL)
    chain.repro()
    return chain
