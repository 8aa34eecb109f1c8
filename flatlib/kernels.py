"""Speed, behind one seam: ``freeze`` and ``fast`` give a network as a function, made fast.

Attacks, measures and training call them; nothing else knows how it is done. The network is traced
once into a graph whose convolutions take their tensors from a dict and lie channels-last. In eval
mode batch norm is an affine map, which folds into the convolution before it or stands alone; a new
weight set then costs one fold. A network that cannot be traced so runs as it is.
"""

import weakref
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import checks
from .graphs import Recorder, traced
from .models import ReBatchNorm
from .weights import Weights, as_function, detached

_PLANS = weakref.WeakKeyDictionary()  # model -> (its modules, {their modes: plan or None})
_OWN = frozenset(vars(nn.Module()))  # attributes that say nothing about a forward pass
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}  # None: the model's own


@contextmanager
def exact():
    """Float32 in full while the block runs, for numbers that are reported: no TF32, PyTorch's
    default for convolutions on a GPU. Steps of attacks and of training keep the user's setting.
    """
    read, write, full = _switches()
    before = read()
    try:
        write(full)
        yield
    finally:
        write(before)


def _switches():
    """How the precision of float32 on a GPU is read and written, and its value in full.

    PyTorch has two generations of names for it that must not be mixed: the older ones cannot be
    read once the user has set the newer ones.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def older(values: tuple | None = None):
        if values:
            cudnn.allow_tf32 = values[0]
        if values and values[1] != torch.get_float32_matmul_precision():
            torch.set_float32_matmul_precision(values[1])
        return cudnn.allow_tf32, torch.get_float32_matmul_precision()

    def newer(values: tuple | None = None):
        parts = (cudnn.conv, cudnn.rnn, matmul)
        for part, value in zip(parts, values or ()):
            part.fp32_precision = value
        return tuple(part.fp32_precision for part in parts)

    if not torch.cuda.is_available():  # nothing to read or write
        return tuple, tuple, ()
    try:
        older(), matmul.allow_tf32
    except RuntimeError:
        return newer, newer, ("ieee",) * 3
    return older, older, (False, "highest")


def freeze(
    model: nn.Module, w: Weights | None = None, precision: str = "float32", recorded: bool = False
):
    """x (N, C, H, W) -> logits (N, K) of ``model`` with the weights ``w`` (its own if None) fixed.

    No gradient reaches the weights; the one for x passes. Equal to the model up to rounding, that
    of float32 or, for an attack's gradient steps only, of "bf16". Freeze in the mode that is
    wanted, and anew when weights or statistics have changed. ``recorded`` replays CUDA graphs, one
    per shape of x: on a GPU, in eval mode, without control flow, every forward pass followed by its
    backward pass (see ``graphs``).
    """
    dtype, plan = _dtype(precision), _plan(model)
    tensors = detached({**_tensors(model), **(w or {})})
    if recorded and (plan is None or plan.kept):
        raise ValueError("recorded=True: a network in eval mode wanted that tracing can follow")
    if recorded and not all(tensor.is_cuda for tensor in tensors.values()):
        raise ValueError("recorded=True: CUDA graphs want the model and its weights on a GPU")
    if plan is None or plan.kept:
        f = _cast(model, dtype)
        return lambda x: f(tensors, x)
    with torch.no_grad():
        folded = plan.fold(tensors, dtype)
    run = plan.recorder(dtype) if recorded else plan
    return lambda x: run(folded, x)


def fast(model: nn.Module, precision: str = "float32"):
    """f(w, x) -> logits (N, K), what ``as_function(model)`` gives, up to rounding.

    Gradients reach ``w``, ``x`` and the model's other parameters: folding is differentiated too.
    The model's mode counts when ``fast`` is called; in train mode batch norm works as ever.
    """
    dtype, plan, f = _dtype(precision), _plan(model), _cast(model, _dtype(precision))
    if plan is None:
        return f
    others = _tensors(model)

    def planned(w: Weights, x: Tensor) -> Tensor:
        if plan.kept and not plan.kept.isdisjoint(w):
            return f(w, x)
        return plan(plan.fold({**others, **w}, dtype), x)

    return planned


def laid_out(model: nn.Module, w: Weights) -> Weights:
    """The same values in the order that the fast form of ``model`` wants them in memory: what need
    not be copied there at every step. Where a network has no fast form nothing changes: its own
    convolutions are not called with weights channels-last (see ``graphs._take_over``).
    """
    plan = _plan(model)
    if plan is None or plan.kept:
        return w
    return {k: _channels_last(v) if v.ndim == 4 else v for k, v in w.items()}


def _cast(model: nn.Module, dtype: torch.dtype | None):
    """The model as a function f(w, x), in autocast where a precision is asked for."""
    f = as_function(model)
    if dtype is None:
        return f

    def cast(w: Weights, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype):
            return f(w, x).to(x.dtype)

    return cast


def _dtype(precision: str) -> torch.dtype | None:
    checks.choice("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def _tensors(model: nn.Module) -> Weights:
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}


def _plan(model: nn.Module) -> "_Plan | None":
    """The plan of ``model`` in its present mode, traced when first asked for and again when its
    modules, or what their forward passes may read, are others than then.
    """
    modules = dict(model.named_modules())
    for m in modules.values():  # what tracing would not see
        if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m):
            return None
    signature = tuple((name, id(module), *_settings(module)) for name, module in modules.items())
    known = _PLANS.get(model)
    if known is None or known[0] != signature:
        _PLANS[model] = known = (signature, {})
    modes = tuple(module.training for module in modules.values())
    if modes not in known[1]:
        found = traced(model)
        known[1][modes] = found and _Plan(*found, model)
    return known[1][modes]


def _settings(module: nn.Module):
    """The attributes of one module that are neither its tensors nor its modules."""
    return ((k, _value(v)) for k, v in vars(module).items() if k not in _OWN)


def _value(v):
    """Numbers, text and collections of them compare by value, all else (functions) as itself."""
    if isinstance(v, dict):
        v = tuple(v.items())
    if isinstance(v, (list, tuple)):
        return tuple(map(_value, v))
    return v if v is None or isinstance(v, (int, float, str)) else id(v)


class _Plan:
    """A traced network: its graph as a function of x and folded tensors, which convolution meets
    which norm (one that stands alone: itself), and the parameters that stay in modules: those of
    norms in train mode.
    """

    def __init__(
        self, graph, folds: dict[str, str | None], constants: list[str], kept: set[str], model
    ):
        self.graph, self.folds, self.constants, self.kept = graph, folds, constants, kept
        self.norms = {name: model.get_submodule(name) for name in folds.values() if name}
        self.recorders: dict[torch.dtype | None, Recorder] = {}

    def __call__(self, folded: Weights, x: Tensor) -> Tensor:
        used = next((v.dtype for v in folded.values() if v is not None), x.dtype)
        z = self.graph(x.to(used, memory_format=torch.channels_last), folded)
        return z.to(x.dtype)

    def recorder(self, dtype: torch.dtype | None) -> Recorder:
        """The CUDA graphs of this network in one precision, kept as long as the plan is."""
        return self.recorders.setdefault(dtype, Recorder(self))

    def fold(self, tensors: Weights, dtype: torch.dtype | None = None) -> Weights:
        """What the graph reads, from the network's parameters and buffers by name."""
        folded = {name: tensors[name] for name in self.constants}
        for name, norm in self.folds.items():
            weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
            if norm:
                before = (None, None) if norm == name else (weight, bias)
                weight, bias = _fold(*before, tensors, norm, self.norms[norm])
            if weight.ndim == 4:
                weight = _channels_last(weight)
            folded[f"{name}.weight"], folded[f"{name}.bias"] = weight, bias
        return {k: v if v is None else v.to(dtype or v.dtype) for k, v in folded.items()}


def _channels_last(weight: Tensor) -> Tensor:
    """Laid out channels-last; a single channel fits both layouts, its strides say which one."""
    if weight.shape[1] > 1:
        return weight.contiguous(memory_format=torch.channels_last)
    height, width = weight.shape[2:]
    return weight.contiguous().as_strided(weight.shape, (height * width, 1, width, 1))


def _fold(
    weight: Tensor | None, bias: Tensor | None, tensors: Weights, norm: str, module: _BatchNorm
):
    """norm(conv(x)) = conv'(x): w' = s w, b' = s (b - mean) + beta with s = gamma / sqrt(var +
    eps). Without a convolution norm(x) = s x + b'.
    """
    gamma = tensors[f"{norm}.weight"] + (1 if isinstance(module, ReBatchNorm) else 0)
    scale = gamma * torch.rsqrt(tensors[f"{norm}.running_var"] + module.eps)
    shift = (
        -tensors[f"{norm}.running_mean"] if bias is None else bias - tensors[f"{norm}.running_mean"]
    )
    bias = shift * scale + tensors[f"{norm}.bias"]
    if weight is None:
        return scale.view(-1, 1, 1), bias.view(-1, 1, 1)
    return weight * scale.view(-1, 1, 1, 1), bias
