"""Early stopping: the snapshot of smallest RErr on images neither trained nor tested on."""

from pathlib import Path

import pandas as pd

from flatlib.attacks.pgd import PGD
from flatlib.files import atomic, tidy
from flatlib.measures.evaluate import robust_errors
from flatlib.training import snapshots


def stopped(run) -> int:
    """The epoch of smallest RErr under PGD-7 (restarts as in the protocol) on the early-stopping
    images, the first on ties. Kept beside the snapshots, so that it is computed once.
    """
    restarts = run.profile.protocol.early_restarts
    path = run.folder / f"early_stopping-x{restarts}.csv"
    table = tidy.read(path, tidy.STOPPING) if path.exists() else _computed(run, path, restarts)
    if sorted(table.epoch) != run.expected:
        raise tidy.damaged(path, ValueError(f"epochs {sorted(table.epoch)}, not {run.expected}"))
    if snapshots.other(table, run.hashes).any():
        raise tidy.damaged(path, ValueError("taken of other models"))
    if not table.rerr.between(0, 1).all():
        raise tidy.damaged(path, ValueError("an RErr outside [0, 1]"))
    return int(table.epoch[table.rerr.idxmin()])


def _computed(run, path: Path, restarts: int) -> pd.DataFrame:
    attack = PGD(restarts=restarts).within(run.profile.threat)
    rows = []
    for epoch in run.expected:
        model = run.model(epoch)
        errors = robust_errors(model, *run.data.early, attack)
        about = {"epoch": epoch, "weights": snapshots.weights(model)}
        rows.append(about | {"rerr": errors.double().mean().item()})
    table = pd.DataFrame(rows)
    atomic.write(path, table.to_csv(index=False))
    return table
