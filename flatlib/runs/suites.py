"""What is measured: a suite is a tuple of triples (measure, which model, which images).

``which`` is "last", "early_stopped", "epoch-NNN" (a kept snapshot, three digits) or "scaled-S" (the
last model, its convolutions times S).
"""

import re

import numpy as np
import pandas as pd

from flatlib import checks
from flatlib.records import MEASURES
from flatlib.training import profiles
from flatlib.training.methods import Method
from flatlib.training.profiles import Profile

Triple = tuple[str, str, str]

DEFAULT = (
    ("robustness", "last", "test"), ("autoattack", "last", "test"), ("average", "last", "test"),
    ("worst", "last", "test"), ("robustness", "last", "train"), ("autoattack", "last", "train"),
    ("average", "last", "train"), ("robustness", "early_stopped", "test"),
    ("autoattack", "early_stopped", "test"), ("average", "early_stopped", "test"),
)  # fmt: skip
_SCALED = tuple(
    (measure, which, split)
    for which in ("scaled-0.5", "scaled-2")
    for measure, split in (
        ("robustness", "test"), ("robustness", "train"), ("average", "test"), ("worst", "test"),
        ("hessian", "test"), ("lines", "test"),
    )
)  # fmt: skip
# Every measure is a suite of its own name besides: of the last model, on test images.
FIXED = {name: ((name, "last", "test"),) for name in MEASURES} | {
    "default": DEFAULT,
    "scaled": _SCALED,  # Fig. 15, Tab. 2
}
# Taken of snapshots through training and of the last model: (measure, which images).
THROUGH = {
    "training": (("robustness", "test"), ("robustness", "train"), ("average", "test"),
                 ("hessian", "test")),  # Fig. 6, 18
    "training_worst": (("worst", "test"),),  # Fig. 6
    "training_radii": (("radii", "test"),),  # Fig. 12
}  # fmt: skip
NAMES = (*FIXED, *THROUGH)
_WHICH = re.compile(r"last|early_stopped|epoch-\d{3,}|scaled-(?!0+(\.0+)?$)\d+(\.\d+)?")


def triples(suite, method: Method, profile: Profile) -> tuple[Triple, ...]:
    """What ``suite`` asks of a method at a profile; each triple once.

    ``suite`` is a name, triples of one's own, or several names.
    """
    suite = [suite] if isinstance(suite, str) else suite
    found: dict[Triple, None] = {}
    for part in suite:
        found |= dict.fromkeys(_named(part, method, profile) if isinstance(part, str) else [part])
    for measure, which, split in found:
        checks.choice("measure", measure, MEASURES)
        check_which(which)
        checks.choice("split", split, ("test", "train"))
    return tuple(found)


def _named(name: str, method: Method, profile: Profile) -> list[Triple]:
    checks.choice("suite", name, NAMES)
    if name in FIXED:
        return list(FIXED[name])
    models = [f"epoch-{epoch:03d}" for epoch in through(method, profile)] + ["last"]
    return [(measure, which, split) for which in models for measure, split in THROUGH[name]]


def through(method: Method, profile: Profile) -> range:
    """The snapshots measured through training, the last model left out: every second one that is
    kept, at the paper's spacing epochs 5, 15, 25 and so on, counted from 0.
    """
    step = profile.snapshot_every
    return range(step, profiles.epochs(method, profile) - 1, 2 * step)


def check_which(which) -> None:
    """Refuse what names no model."""
    if not isinstance(which, str) or not _WHICH.fullmatch(which):
        raise ValueError(
            f"which={which!r}: choose 'last', 'early_stopped', 'epoch-NNN' (a kept snapshot, three "
            "digits) or 'scaled-S' (convolutions times S above 0, such as 'scaled-0.5')"
        )


def factor(which: str | int) -> float | None:
    """S of "scaled-S"."""
    scaled = isinstance(which, str) and which.startswith("scaled-")
    return float(which.removeprefix("scaled-")) if scaled else None


def rows(table: pd.DataFrame, wanted) -> pd.DataFrame:
    """The rows of a tidy table that belong to the triples ``wanted``."""
    asked = set(wanted)
    kept = [triple in asked for triple in zip(table.asked, table.which, table.split)]
    return table[np.array(kept, bool)].reset_index(drop=True)
