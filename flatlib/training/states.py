"""The state of a training in one file: everything needed to go on from it, whole or refused."""

from pathlib import Path

from torch import Tensor

from flatlib.files import checkpoints
from flatlib.files.atomic import Damaged

PARTS = ("net", "average", "optimiser", "random")


def save(training, path: Path) -> None:
    """Everything needed to go on, in one file written at once."""
    about = {"epoch": training.epoch, "averaged": training.averaged, "history": training.history}
    checkpoints.save_parts(path, _parts(training), about | {"begun": training.begun})


def _parts(training) -> dict[str, dict[str, Tensor]]:
    optimiser = checkpoints.flatten_optimiser(training.optimiser)
    parts = training.net.state_dict(), training.average, optimiser, training.random.state()
    return dict(zip(PARTS, parts))


def resume(training, path: Path) -> None:
    """Go on from a file written by ``save``; that of another training is refused, and one that
    lacks anything or is not finite.
    """
    parts, about = checkpoints.load_parts(path, PARTS, training.device)
    checkpoints.same_origin(path, about.get("begun"), training.begun)
    try:
        _whole(training, parts, about)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(
            f"{path} is no whole state of this training ({error}). Nothing was overwritten: move "
            "it away to begin anew"
        ) from error
    for name in ("net", "average"):
        checkpoints.finite(parts[name], f"{path}, {name}")
    training.net.load_state_dict(parts["net"])
    training.average = parts["average"]
    checkpoints.restore_optimiser(training.optimiser, parts["optimiser"])
    training.random.restore(parts["random"])
    training.epoch, training.history = about["epoch"], about["history"]
    training.averaged = about["averaged"]


def _whole(training, parts: dict[str, dict], about: dict) -> None:
    """Refuse a state that ``training`` would not have saved after one of its epochs."""
    for name, own in _parts(training).items():
        if name != "optimiser":
            _same(name, parts[name], own, shapes=name != "random")  # those differ between devices
    _optimiser(parts["optimiser"], training)
    epoch, rows = about["epoch"], [row["epoch"] for row in about["history"]]
    if not isinstance(epoch, int) or not 1 <= epoch <= training.epochs:
        raise ValueError(f"epoch {epoch!r} of {training.epochs}")
    if rows != list(range(epoch)):
        raise ValueError(f"a history of the epochs {rows} after {epoch}")
    if not isinstance(about["averaged"], int) or about["averaged"] < 0:
        raise ValueError(f"averaged={about['averaged']!r}")


def _same(name: str, there: dict[str, Tensor], own: dict[str, Tensor], shapes: bool) -> None:
    other = [k for k in {**own, **there} if (k in there) != (k in own)]
    if shapes:
        other += [k for k in own if k in there and there[k].shape != own[k].shape]
    if other:
        raise ValueError(f"{name}: {other[0]!r} is missing, foreign or of another shape")


def _optimiser(there: dict[str, Tensor], training) -> None:
    """Every parameter has the same entries, and some where the optimiser remembers anything."""
    number = len(training.parameters)
    entries = {name.partition(".")[2] for name in there}
    settings = training.optimiser.defaults
    if not entries and (settings.get("momentum") or "betas" in settings):
        raise ValueError("optimiser: it remembers nothing")
    if set(there) != {f"{i}.{entry}" for i in range(number) for entry in entries}:
        raise ValueError("optimiser: entries of some parameters are missing")
    for name, value in there.items():
        shape = training.parameters[int(name.partition(".")[0])].shape
        if value.ndim and value.shape != shape:
            raise ValueError(f"optimiser: {name!r} is of another shape")
