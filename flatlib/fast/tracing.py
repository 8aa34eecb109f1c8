"""Tracing a forward pass into a graph that says all of it, or a reason why that cannot be.

A trace sees operations, not Python: what a forward pass decides, draws or reads outside of tensors
is burnt in, what it does to autograd is lost. Each is looked for here; what slips through is found
when the graph is compared with the network (see ``agreement``).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Tracer
from torch.nn.modules.batchnorm import _BatchNorm

_TRIES = 3  # of a trace: other threads of the process draw random numbers too


class Untraceable(Exception):
    """Why a network has no graph that stands for it."""


class _Drawn(Untraceable):
    """Random numbers have been drawn during a trace, by the network or by another thread."""


def trace(model: nn.Module) -> Graph:
    """The graph of ``model`` in its present mode; the model is left as it is, whatever its forward
    pass does to itself.

    It is traced twice, with gradients and without, from different random states: what depends on
    the run shows as a difference.
    """
    try:
        copy, found = _copied(model), []
    except Exception as error:  # whatever hangs on a module
        raise Untraceable(f"it cannot be copied ({told(error)})") from None
    for seed, gradients in enumerate((True, False)):
        found.append(_undisturbed(copy, seed, gradients))
    if _text(found[0]) != _text(found[1]):
        raise Untraceable("its forward pass takes another course when it is run again")
    return found[0]


def _undisturbed(model: nn.Module, seed: int, gradients: bool) -> Graph:
    """A trace during which nobody draws random numbers; a network that does so does it every time,
    another thread (those of a Dask worker do) hardly ever.
    """
    for left in reversed(range(_TRIES)):
        try:
            with _random(seed), torch.set_grad_enabled(gradients):
                return _traced(model)
        except _Drawn:
            if not left:
                raise


def _traced(model: nn.Module) -> Graph:
    try:
        return _Leaves().trace(model)
    except Untraceable:
        raise
    except Exception as error:  # whatever a forward pass does to a stand-in for images
        raise Untraceable(f"its forward pass cannot be traced ({told(error)})") from None


def told(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:100]}"


def _text(graph: Graph) -> list[tuple]:
    return [(n.op, n.target, str(n.args), str(n.kwargs)) for n in graph.nodes]


class _Leaves(Tracer):
    """Traces through everything but the modules that are folded or taken over."""

    proxy_buffer_attributes = True  # buffers are read when the graph runs, not now

    def __init__(self):
        super().__init__()
        self.around = _around()

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _BatchNorm) or super().is_leaf_module(module, name)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        if _around() != self.around:
            raise Untraceable(
                "its forward pass has an autograd function of its own, or a block in another "
                "gradient mode or precision"
            )
        return super().create_node(kind, target, args, kwargs, name, type_expr)


def _around() -> tuple:
    """What blocks like ``torch.no_grad`` set, and the forward pass of an autograd function."""
    casts = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
    types = [torch.get_autocast_dtype(device) for device in ("cpu", "cuda")]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *casts, *types


class _Unread(Tensor):
    """A weight or buffer during a trace: Python may ask what it is like, not what it holds."""

    asked = frozenset(
        getattr(Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout")
    ) | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point}

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func not in cls.asked:
            raise Untraceable("its forward pass computes with tensors outside the graph")
        return super().__torch_function__(func, types, args, kwargs or {})


class _Hidden(_Unread):
    """A tensor that is just an attribute, perhaps kept from the last forward pass."""

    asked = frozenset()


def _copied(model: nn.Module) -> nn.Module:
    """A copy of the modules and their attributes, with tensors that only a graph can read."""
    memo = {}
    for module in model.modules():
        for tensor in _attributes(list(vars(module).values())):
            memo[id(tensor)] = Tensor._make_subclass(_Hidden, tensor.detach(), False)
    for tensor in (*model.parameters(), *model.buffers()):
        stand_in = Tensor._make_subclass(_Unread, tensor.detach(), tensor.requires_grad)
        stand_in._is_param = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = stand_in
    return deepcopy(model, memo)


def _attributes(v) -> Iterator[Tensor]:
    """The tensors in a value and in lists and dicts of them."""
    if isinstance(v, Tensor):
        yield v
    elif isinstance(v, (list, tuple, dict)):
        for one in v.values() if isinstance(v, dict) else v:
            yield from _attributes(one)


@contextmanager
def _random(seed: int):
    """Other random states than elsewhere while the block runs, which must not draw from them."""
    numbers, array = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.setstate(random.Random(seed).getstate())
            np.random.set_state(np.random.RandomState(seed).get_state())
            torch.manual_seed(seed)
            before = _states()
            yield
            if _states() != before:
                raise _Drawn("its forward pass draws random numbers outside the graph")
        finally:
            random.setstate(numbers), np.random.set_state(array)


def _states() -> tuple:
    _, keys, *rest = np.random.get_state()
    return random.getstate(), keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()
