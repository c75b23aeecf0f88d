"""For all tests: one thread (two workers of a test on two cores are faster so, and give the same bits), and no telemetry."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pipeline.distributed.environment import prepare_environment

prepare_environment()
