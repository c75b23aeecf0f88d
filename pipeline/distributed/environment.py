"""What the environment must say before Ray, DVC or MLflow is imported."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def prepare_environment() -> None:
    """Telemetry off and token authentication on (raylets listen on all interfaces), unless the user has decided otherwise.

    Ray reads its part when it is imported, so this comes first.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    by_token = os.environ.setdefault("RAY_AUTH_MODE", "token") == "token"
    if by_token and not {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # a cluster of our own: a token that nobody else needs to know


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for as long as the block runs; afterwards all are as they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
