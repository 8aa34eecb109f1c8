"""What of this machine a process may use."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU in each period


def cpus() -> int:
    """The CPUs that this process may use: those it is bound to (SLURM, taskset), and no more than a
    container allows. At least 1.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(bound or 1, _allowed()))


def _allowed() -> float:
    try:
        quota, period = _QUOTA.read_text().split()
        return float("inf") if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError):  # no container, or not one of Linux's
        return float("inf")
