"""Networks of RobustBench, measured like our own runs (Stutz et al. 2021, Tables 3 and 4).

They are trained by others and only measured here. The package that downloads them is optional.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import nn

from flatlib import checks
from flatlib.files import paths
from flatlib.keys import digest, settings
from flatlib.networks import parts
from flatlib.runs import suites
from flatlib.runs.run import Run
from flatlib.training.methods import AT
from flatlib.training.profiles import Profile

# RobustBench's names (CIFAR-10, L-infinity), matched by clean accuracy: the rows of Table 3.
NAMES = {
    "Carmon2019Unlabeled": "Carmon et al. 2019",
    "Engstrom2019Robustness": "Engstrom et al. 2019",
    "Pang2020Boosting": "Pang et al. 2020",
    "Wang2020Improving": "Wang et al. 2020",
    "Wong2020Fast": "Wong et al. 2020",
    "Wu2020Adversarial": "Wu et al. 2020",
    "Zhang2019Theoretically": "Zhang et al. 2019 (TRADES)",
    "Zhang2020Attacks": "Zhang et al. 2020 (FAT)",
}


def load(name: str, device: str = "cpu") -> nn.Module:
    """A network of RobustBench in eval mode, pixels in [0, 1] -> logits (N, 10), its weights
    trainable, so that they can be perturbed. Downloaded once, below the data sets.
    """
    checks.choice("name", name, NAMES)
    from flatlib import vision  # noqa: F401 (robustbench imports torchvision, see there)

    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise ImportError(
            f"{name} needs the package robustbench: pip install robustbench ({error})"
        ) from error
    folder = paths.DATASETS / "robustbench"
    model = load_model(name, model_dir=str(folder), dataset="cifar10", threat_model="Linf")
    return model.to(device).requires_grad_(True).eval()


def run(name: str, profile: Profile, device: str = "cpu") -> "External":
    """A network of RobustBench as a finished run of a CIFAR-10 profile."""
    checks.choice("name", name, NAMES)
    if profile.dataset != "cifar10":
        raise ValueError(f"profile={profile.name!r}: {name} is a network for CIFAR-10")
    return External(name, AT, profile, 0, device)


@dataclass(frozen=True)
class External(Run):
    """A network that others trained: it has a last model, no history and no snapshots."""

    @cached_property
    def key(self) -> str:
        """Ten hex digits of its name and the images it is measured on."""
        return digest(self.identity, 10)

    @property
    def identity(self) -> dict:
        images = ("dataset", "train", "test", "eps")
        asked = {k: v for k, v in settings(self.profile).items() if k in images}
        return {"robustbench": self.name, "images": asked}

    @property
    def done(self) -> bool:
        return True

    def train(self, progress: bool = False, until: float | None = None) -> Run:
        return self

    @property
    def hashes(self) -> dict[str, str]:
        return {}

    @property
    def expected(self) -> list[int]:
        return [0]

    def history(self) -> pd.DataFrame:
        return pd.DataFrame()

    def snapshots(self) -> dict[int, Path]:
        return {}

    def model(self, which: str | int = "last") -> nn.Module:
        checks.choice("which", which, ("last", "scaled-0.5", "scaled-2"))
        network, s = load(self.name, self.on), suites.factor(which)
        return parts.scaled(network, s) if s else network

    def epoch(self, which: str) -> int:
        return 0

    def wanted(self, suite="default") -> tuple:
        """Without early stopping and snapshots, which only a run of our own has."""
        return tuple(w for w in super().wanted(suite) if w[1] == "last" or suites.factor(w[1]))
