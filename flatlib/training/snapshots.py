"""The kept models of a run: which there must be, and that each is the one that was trained."""

import json
import re
from pathlib import Path

import pandas as pd
from torch import nn

from flatlib.files import checkpoints, tidy
from flatlib.files.atomic import Damaged
from flatlib.training import profiles
from flatlib.training.methods import Method
from flatlib.training.profiles import Profile

_FILE = re.compile(r"epoch-(\d{3,})\.safetensors")


def kept(folder: Path) -> dict[int, Path]:
    """The snapshots in a folder by epoch, ascending; epochs count from 0."""
    found = {_FILE.fullmatch(file.name): file for file in folder.glob("epoch-*.safetensors")}
    return dict(sorted((int(match[1]), file) for match, file in found.items() if match))


def expected(method: Method, profile: Profile) -> list[int]:
    """The epochs whose models a finished run keeps: 0, s, 2s, ... and the last."""
    last = profiles.epochs(method, profile) - 1
    return sorted({*range(0, last, profile.snapshot_every), last})


def weights(model: nn.Module) -> str:
    """Ten hex digits of a model's weights and statistics: the same only for the same model."""
    return checkpoints.fingerprint(model.state_dict())[:10]


def hashes(folder: Path) -> dict[str, str]:
    """The weights of every snapshot by epoch, for the record of a finished run."""
    loaded = {epoch: checkpoints.load(file)[0] for epoch, file in kept(folder).items()}
    return {str(epoch): checkpoints.fingerprint(t)[:10] for epoch, t in loaded.items()}


def record(folder: Path) -> dict:
    """What ``done`` says of a finished run: its provenance, and ``weights`` by epoch unless it is
    from before those were kept.
    """
    path = folder / "done"
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not isinstance(found["commit"], str):
            raise ValueError("no record of a finished run")
        if not all(re.fullmatch("[0-9a-f]{10}", h) for h in found.get("weights", {}).values()):
            raise ValueError("weights that are no hashes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path} is damaged or empty ({error!r}): whether the run was trained to the end is "
            "not known. Nothing was overwritten: move it away, and training goes on or begins anew"
        ) from error
    return found


def complete(folder: Path, wanted: list[int]) -> dict[int, Path]:
    """The snapshots of a finished run: all of them, or those that are gone are named."""
    there = kept(folder)
    if not there:
        raise FileNotFoundError(
            f"{folder}: its models were removed after training: move the folder away to train it "
            "again"
        )
    gone = [epoch for epoch in wanted if epoch not in there]
    if gone:
        raise Damaged(
            f"{folder}: the snapshots of epochs {gone} are missing, and no other model takes their "
            "place: restore them, or move the folder away to train it again"
        )
    return {epoch: there[epoch] for epoch in wanted}


def fill(model: nn.Module, file: Path, known: str | None, who: str) -> nn.Module:
    """``model`` with the weights in ``file``: those of the hash ``known``, and finite."""
    tensors, _ = checkpoints.load(file, next(model.parameters()).device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise Damaged(f"{file} does not fit the network of {who}: {error}") from error
    if known is not None and weights(model) != known:
        raise Damaged(f"{file} is not the model that was trained: {weights(model)}, not {known}")
    return finite(model, str(file))


def rows(path: Path, key: str, known: dict[str, str]) -> pd.DataFrame:
    """The measures of a run in ``path``, if all were taken of it and of its models, whose weights
    ``known`` has by epoch.
    """
    table = tidy.read(path, tidy.MEASURES)
    plain = ~table.which.str.startswith("scaled")  # a scaled model has weights of its own
    foreign = (table.key != key) | (plain & other(table, known))
    if foreign.any():
        line = foreign.to_numpy().argmax() + 2
        raise tidy.damaged(path, ValueError(f"line {line}: measured on another model"))
    return table


def other(table: pd.DataFrame, known: dict[str, str]) -> pd.Series:
    """Which rows say that they are of other weights than those known of their epoch."""
    if "weights" not in table:
        return pd.Series(False, table.index)
    right = table.epoch.astype(str).map(known)
    return right.notna() & table.weights.notna() & (right != table.weights)


def finite(model: nn.Module, what: str) -> nn.Module:
    """``model`` if its weights and statistics are finite: else no number measured on it has a
    meaning.
    """
    checkpoints.finite(model.state_dict(), what)
    return model
