"""Where a worker computes."""

import torch


def worker_device() -> torch.device:
    """The GPU that Ray has given this worker, or the CPU; a worker without a GPU of its own sees none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
