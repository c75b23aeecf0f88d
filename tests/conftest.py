"""For all tests: one thread (two workers of a test on two cores are faster so, and give the same bits), and no telemetry.

Property tests try the same examples every time and have no deadline: what fails is the code, not a busy machine. To search for new
counterexamples: ``pytest --hypothesis-profile search``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

from pipeline.distributed.environment import prepare_environment

prepare_environment()
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")
