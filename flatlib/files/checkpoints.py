"""Tensors in files: the snapshots and states of training, with a checksum, read without running
code.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from flatlib.files.atomic import Damaged, write


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 over names, shapes, types and bytes of tensors, sorted by name."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name} {tuple(plain.shape)} {plain.dtype} ".encode())
        total.update(plain.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def save(path: Path, tensors: dict[str, Tensor], about: dict | None = None) -> None:
    """Tensors and a JSON-able ``about`` as one safetensors file, with a checksum of both."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(about or {})  # one entry: several come in no fixed order
    write(path, to_bytes(plain, metadata={"flatlib": f"{_checksum(plain, text)} {text}"}))


def _checksum(tensors: dict[str, Tensor], about: str) -> str:
    return hashlib.sha256(f"{fingerprint(tensors)} {about}".encode()).hexdigest()


def _checked(tensors: dict[str, Tensor], said: str) -> str:
    """The text behind a checksum, if it is that of the tensors and the text."""
    checksum, _, about = said.partition(" ")
    if checksum != _checksum(tensors, about):
        raise ValueError("its content is not what its checksum says")
    return about


def load(path: Path, device="cpu") -> tuple[dict[str, Tensor], dict]:
    """The tensors and ``about`` of a file written by ``save``; a damaged one is named.

    Files from before checksums were kept have none, and are taken as they are.
    """
    try:
        with safe_open(path, framework="pt") as file:
            plain = {k: file.get_tensor(k) for k in file.keys()}
            metadata = file.metadata() or {}
        about = metadata["about"] if "about" in metadata else _checked(plain, metadata["flatlib"])
        return {k: v.to(device) for k, v in plain.items()}, json.loads(about)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Damaged(
            f"{path} is damaged or was not written by flatlib ({error}). Nothing was overwritten: "
            f"move it away (or delete its run folder) to compute it anew."
        ) from error


def finite(tensors: dict[str, Tensor], what: str) -> None:
    """Refuse weights and statistics that are not finite: nothing measured on them has a meaning."""
    wrong = [k for k, v in tensors.items() if not bool(torch.isfinite(v).all())]
    if wrong:
        raise Damaged(f"{what}: {wrong[0]} is not finite, and so are {len(wrong)} tensors in all")


def save_parts(path: Path, parts: dict[str, dict[str, Tensor]], about: dict) -> None:
    """Several named sets of tensors as one file."""
    save(path, {f"{part}/{k}": v for part, found in parts.items() for k, v in found.items()}, about)


def load_parts(path: Path, names: tuple[str, ...], device="cpu") -> tuple[dict[str, dict], dict]:
    """Undo ``save_parts``; a set without tensors comes back empty."""
    tensors, about = load(path, device)
    parts: dict[str, dict] = {name: {} for name in names}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        if part not in parts:
            raise Damaged(f"{path} holds {name!r}, which belongs to none of {names}")
        parts[part][key] = value
    return parts, about


def same_origin(path: Path, was: dict | None, now: dict) -> None:
    """Refuse a file of another run: what it belongs to is compared by name and text.

    None is accepted: files written before this was kept do not say.
    """
    if was is None:
        return
    usual = "its default"  # settings that differ from it are named alone
    other = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if other:
        what = ", ".join(f"{k}={was.get(k, usual)}, not {now.get(k, usual)}" for k in other)
        raise ValueError(
            f"{path.parent} holds another training, begun with {what}: go on with the same, or "
            "name another folder"
        )


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as tensors by name, "<parameter number>.<entry>"."""
    state = optimiser.state_dict()["state"]
    return {
        f"{i}.{k}": torch.as_tensor(v)
        for i, entry in state.items()
        for k, v in entry.items()
        if v is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Undo ``flatten_optimiser``."""
    state: dict[int, dict] = {}
    for name, value in flat.items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
