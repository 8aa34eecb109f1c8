"""Train and eval mode, and batch norm's statistics: taken for a block, then given back."""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from flatlib.traces import unchanged


@contextmanager
def mode(model: nn.Module, training: bool):
    """Run the block in train or eval mode, then give every module its own mode back.

    Measuring, in eval mode, leaves nothing behind: what forward passes keep in attributes and
    buffers is taken back too.
    """
    before = {module: module.training for module in model.modules()}
    kept = nullcontext() if training else unchanged(model)
    try:
        with kept, _weights_kept(model):
            model.train() if training else model.eval()
            yield model
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def _weights_kept(model: nn.Module):
    """Give weights their values back that a module changes as it changes its mode, such as one that
    merges a low-rank part into its weights for eval mode.
    """
    own = (nn.Module.train, nn.Module.eval)
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    plain = all((type(m).train, type(m).eval) == own for m in modules)
    learned = [] if plain else [p for p in model.parameters() if not (is_lazy(p) or p.is_meta)]
    values = [(p, p.detach().clone()) for p in learned]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in values:
                if not torch.equal(parameter, value):
                    parameter.copy_(value)


@contextmanager
def in_modes(model: nn.Module, modes: tuple[bool, ...]):
    """Run the block with a train or eval mode for every module, in the order of ``modules()``."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for (module, _), training in zip(before, modes):
            module.training = training
        yield model
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def no_statistics(model: nn.Module):
    """Run the block without lasting effect on batch norm's running statistics and counters."""
    buffers = [
        b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)
    ]
    before = [b.clone() for b in buffers]
    try:
        yield model
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before):
                buffer.copy_(value)
