"""Files that survive a kill: written beside their place and moved in whole; read without running
code.
"""

import hashlib
import json
import os
import tempfile
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

# Columns of hexadecimal digits, which a CSV reader may take for numbers ("91e952").
_TEXT = {name: str for name in ("key", "weights", "protocol", "commit")}


class Damaged(ValueError):
    """A file that is there but cannot be what was written."""


def write(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` atomically: readers see the old file or the new one, never a
    part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 over names, shapes, types and bytes of tensors, sorted by name."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        total.update(f"{name} {tuple(plain.shape)} {plain.dtype} ".encode())
        total.update(plain.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def save(path: Path, tensors: dict[str, Tensor], about: dict | None = None) -> None:
    """Tensors and a JSON-able ``about`` as one safetensors file."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write(path, to_bytes(plain, metadata={"about": json.dumps(about or {})}))


def load(path: Path, device="cpu") -> tuple[dict[str, Tensor], dict]:
    """The tensors and ``about`` of a file written by ``save``; a damaged file is named, never
    skipped.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k).to(device) for k in file.keys()}
            about = json.loads((file.metadata() or {})["about"])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise Damaged(
            f"{path} is damaged or was not written by flatlib ({error}). Nothing was overwritten: "
            f"move it away (or delete its run folder) to compute it anew."
        ) from error
    return tensors, about


def save_parts(path: Path, parts: dict[str, dict[str, Tensor]], about: dict) -> None:
    """Several named sets of tensors as one file."""
    save(path, {f"{part}/{k}": v for part, found in parts.items() for k, v in found.items()}, about)


def load_parts(path: Path, names: tuple[str, ...], device="cpu") -> tuple[dict[str, dict], dict]:
    """Undo ``save_parts``; a set without tensors comes back empty."""
    tensors, about = load(path, device)
    parts: dict[str, dict] = {name: {} for name in names}
    for name, value in tensors.items():
        part, key = name.split("/", 1)
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


def read_table(path: Path) -> pd.DataFrame:
    """A CSV written by flatlib; a damaged one is named and left alone."""
    try:
        text = path.read_text()
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        return pd.read_csv(StringIO(text), dtype=_TEXT)
    except (ValueError, UnicodeDecodeError) as error:
        raise Damaged(
            f"{path} is damaged ({error}). Nothing was overwritten: move it away to compute it "
            f"anew."
        ) from error
