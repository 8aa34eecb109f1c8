"""The first step of all 74 methods in double precision, where rounding does not show.

    python tests/first_step.py      writes tests/first_step.csv anew

Wanted when a method, the profile "digits" or a random stream changes on purpose; what is stored in
data/results/digits of the methods concerned is then void as well.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from flatbook import published
from flatlib import CATALOGUE
from flatlib.data import Dataset, Split
from flatlib.modes import mode
from flatlib.training import profiles
from flatlib.training.train import Training, _Curves

FILE = Path(__file__).with_suffix(".csv")
PROGRESS = 0.01  # not 0, where a cyclic rate is zero


def take(method) -> dict[str, float]:
    """The loss of the first mini-batch and how far the step moves the weights.

    A pool keeps its true labels: no teacher is trained here, it would be in single precision.
    """
    training = Training(method, profiles.get("digits"), 0)
    training.data = double(training.images)
    training.net.double()
    training.average = {k: v.double() for k, v in training.average.items()}
    start = [p.detach().clone() for p in training.parameters]
    curves = _Curves(training.data.classes)
    with mode(training.net, training=True), training._dropout():
        training._step(training._batches(), PROGRESS, curves)
    moved = [(p.detach() - w).flatten() for p, w in zip(training.parameters, start)]
    return {"loss": curves.rows[0][0].item(), "distance": torch.cat(moved).norm().item()}


def double(images: Dataset) -> Dataset:
    train, test, early, pool = (
        Split(s.x.double() if s.x.is_floating_point() else s.x, s.y)
        for s in (images.train, images.test, images.early, images.pool)
    )
    return replace(images, train=train, test=test, early=early, pool=pool)


def main() -> None:
    torch.set_num_threads(1)
    rows = [{"method": name} | take(CATALOGUE[name]) for name in published.names()["method"]]
    pd.DataFrame(rows).to_csv(FILE, index=False, float_format="%.9g")


if __name__ == "__main__":
    main()
