"""What forward passes leave behind in a model, and how it is taken back."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_OWN = frozenset(vars(nn.Module())) - {"_buffers"}  # attributes that no forward pass changes


@contextmanager
def unchanged(model: nn.Module):
    """Run the block, then give attributes and buffers the values they had.

    Not where it made modules or tensors: a model that builds itself in its first forward pass.
    """
    names = _names(model)
    attributes = [(m, _attributes(m)) for m in model.modules()]
    buffers = [(b, b._version, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        yield model
    finally:
        if _names(model) == names:
            for module, before in attributes:
                _give_back(module, before)
            with torch.no_grad():
                for buffer, version, value in buffers:
                    if buffer._version != version:
                        buffer.copy_(value)


def _names(model: nn.Module) -> list[str]:
    """Of modules and tensors, and whether they have a shape yet."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [name for name, _ in model.named_modules()] + [
        name for name, tensor in tensors if not is_lazy(tensor)
    ]


def _attributes(module: nn.Module) -> dict:
    """By name: the value and, for a list or dict, a copy of it as it is now."""
    found = {k: v for k, v in vars(module).items() if k not in _OWN}
    return {k: (v, v.copy() if isinstance(v, (list, dict, set)) else None) for k, v in found.items()}


def _give_back(module: nn.Module, before: dict) -> None:
    now = vars(module)
    for name in [k for k in now if k not in _OWN and k not in before]:
        del now[name]
    for name, (value, content) in before.items():
        now[name] = value
        if content is not None:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
