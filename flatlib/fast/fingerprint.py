"""What the forward passes of a network may read in Python, as a value that changes when it does: a
trace has it burnt in.
"""

import types
from collections.abc import Iterator
from functools import cache

import numpy as np
from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))  # attributes that say nothing about a forward pass
_LIBRARIES = ("torch", "torchvision", "numpy", "builtins")  # their code reads nothing that changes
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_DEPTH = 4  # of collections and objects within each other


def fingerprint(modules: dict[str, nn.Module]) -> tuple:
    """Attributes, globals and tensors' types of the modules of one network, by name."""
    return tuple((name, id(module), *_module(module)) for name, module in modules.items())


def _module(module: nn.Module) -> Iterator:
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            yield name, None if tensor is None else (tensor.dtype, tensor.device, tensor.shape)
    for name, v in vars(module).items():
        if name not in _OWN:
            yield name, _value(v)
            if type(v) is types.FunctionType:
                yield from _read(v)
    for function in _methods(type(module)):
        yield from _read(function)


def _value(v, depth: int = _DEPTH):
    """Numbers, text and collections of them compare by value, functions as themselves, objects by
    their attributes too. What a tensor holds is not read while tracing.
    """
    if v is None or isinstance(v, (int, float, complex, str, bytes)):
        return v
    if isinstance(v, _CODE) or isinstance(v, nn.Module) or not depth:
        return id(v)
    if isinstance(v, Tensor):
        return Tensor
    if isinstance(v, np.ndarray):
        return v.shape, v.tobytes()
    if isinstance(v, dict):
        return tuple((_value(k, depth - 1), _value(one, depth - 1)) for k, one in v.items())
    if isinstance(v, (list, tuple)):
        return tuple(_value(one, depth - 1) for one in v)
    return (id(v), _value(getattr(v, "__dict__", None), depth - 1))


@cache
def _methods(kind: type) -> tuple[types.FunctionType, ...]:
    """The functions that a class and those it inherits from define, outside of libraries, with what
    they call, if these read anything.
    """
    own = [c for c in kind.__mro__ if not _library(c)]
    found: dict = {}
    for function in (v for c in own for v in vars(c).values()):
        function = getattr(function, "fget", None) or getattr(function, "__func__", function)
        if type(function) is types.FunctionType and function.__name__ != "__init__":
            _follow(function, found)
    return tuple(function for function in found if function.__closure__ or _names(function))


def _library(thing) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def _follow(function: types.FunctionType, found: dict) -> None:
    """Add a function and the functions of its module that it may call."""
    if function in found or _library(function):
        return
    found[function] = True
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if type(called) is types.FunctionType:
            _follow(called, found)


@cache
def _names(function: types.FunctionType) -> tuple[str, ...]:
    """The names of globals that a function reads."""
    return tuple(name for name in function.__code__.co_names if name in function.__globals__)


def _read(function: types.FunctionType) -> Iterator:
    """The values of the globals and of the enclosing functions' variables that one reads."""
    for name in _names(function):
        v = function.__globals__.get(name)
        yield name, _value(v)
        if isinstance(v, types.ModuleType) and v.__name__.partition(".")[0] not in _LIBRARIES:
            within = (vars(v).get(n) for n in function.__code__.co_names)
            yield from (_value(one) for one in within if not isinstance(one, _CODE))
    for cell in function.__closure__ or ():
        yield _value(_contents(cell))


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
