"""What forward passes leave behind in a model, and how it is taken back."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_OWN = frozenset(vars(nn.Module()))  # attributes that are not the forward pass's


@contextmanager
def unchanged(model: nn.Module):
    """Run the block, then bind attributes and buffers to what they were and give buffers their
    values; what was put into a list stays there.

    Not where the block made modules or weights: a model that builds itself in its first pass.
    """
    names = _names(model)
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    attributes = [(m, _attributes(m), dict(m._buffers)) for m in modules]
    written = [b for b in model.buffers() if not (is_lazy(b) or b.is_inference() or b.is_meta)]
    buffers = [(b, b.clone()) for b in written]
    try:
        yield model
    finally:
        if _names(model) == names:
            for saved in attributes:
                _give_back(*saved)
            with torch.no_grad():
                for buffer, value in buffers:  # versions do not tell of what ``.data`` wrote
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def _names(model: nn.Module) -> list[str]:
    """Of modules and tensors, and whether they have a shape yet."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [name for name, _ in model.named_modules()] + [
        name for name, tensor in tensors if not is_lazy(tensor)
    ]


def _attributes(module: nn.Module) -> dict:
    return {k: v for k, v in vars(module).items() if k not in _OWN}


def _give_back(module: nn.Module, before: dict, buffers: dict) -> None:
    now = vars(module)
    for name in [k for k in now if k not in _OWN and k not in before]:
        del now[name]
    now.update(before)
    module._buffers.update(buffers)
