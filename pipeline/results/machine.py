"""What a measurement was made on."""

import os
import platform
from pathlib import Path


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model."""
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> str | None:
    """The name of the first GPU, and how many there are where there are more; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    return f"{f'{count} × ' if count > 1 else ''}{torch.cuda.get_device_name(0)}"
