"""Where a number comes from: the code, the libraries, the processor and the weights behind it."""

import platform
import subprocess
from functools import cache

import torch

from flatlib.files import paths


def _git(*what: str) -> str:
    command = ["git", "-C", str(paths.ROOT), *what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@cache
def provenance(device: str = "cpu") -> dict[str, str]:
    """Code, libraries and hardware behind a number: "-dirty" if flatlib differs from the commit."""
    try:
        commit = _git("describe", "--always")
        commit += "-dirty" if _git("status", "--porcelain", "--", "flatlib") else ""
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {"commit": commit, "torch": torch.__version__, "device": processor(device)}


def processor(device: str = "cpu") -> str:
    """The kind of processor: a GPU's name, or a CPU's architecture and the widest instructions that
    PyTorch uses on it, on which the last bits of a number depend.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
