"""A plan is the fast form of a network: its graph, and which convolution meets which norm.

It is made when first asked for, kept while everything that it was made from stays as it was, and
trusted once it has been compared with the network.
"""

import weakref
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from flatlib.fast.agreement import NOT_FINITE, coarse_difference, difference
from flatlib.fast.fingerprint import fingerprint
from flatlib.fast.graphs import Recorder, traced
from flatlib.fast.tracing import Untraceable, told
from flatlib.modes import in_modes
from flatlib.networks.parts import ReBatchNorm
from flatlib.weights import Weights, all_tensors

_SAME = 1e-3  # relative distance of logits, for rounding in float32
_PLANS = weakref.WeakKeyDictionary()  # model -> (its fingerprint, {modes: plan or why none})


def plan_of(model: nn.Module) -> "Plan | str":
    """The plan of ``model`` in its present mode, or why it has none; traced when first asked for
    and again when its modules, or what their forward passes may read, are others than then.
    """
    modules = dict(model.named_modules())
    found = _hidden(modules)
    if found:
        return found
    signature = fingerprint(modules)
    known = _PLANS.get(model)
    if known is None or known[0] != signature:
        _PLANS[model] = known = (signature, {})
    modes = tuple(module.training for module in modules.values())
    if modes not in known[1]:
        known[1][modes] = _made(model)
    return known[1][modes]


def refresh(model: nn.Module, x: Tensor) -> None:
    """Forget the plan of ``model`` if by now the model gives other logits for x, for reasons that
    nothing in it tells: a global setting, a method exchanged on its class.
    """
    known = _PLANS.get(model, (None, {}))[1]
    plan = known.get(tuple(module.training for module in model.modules()))
    if not isinstance(plan, Plan) or plan.kept or plan.refusal() or not plan.verdicts:
        return
    tensors = all_tensors(model)
    with torch.no_grad():
        want, got = model(x.clone()), plan(plan.fold(tensors), x)
    if got.shape != want.shape or not float((got - want).norm()) <= _SAME * float(want.norm()):
        del _PLANS[model]


def _made(model: nn.Module) -> "Plan | str":
    try:
        plan = Plan(*traced(model), model)
        with torch.no_grad():
            plan.fold(all_tensors(model))
        return plan
    except Untraceable as why:
        return str(why)
    except Exception as error:
        return f"its graph cannot be made ({told(error)})"


def _hidden(modules: dict[str, nn.Module]) -> str | None:
    """What changes a forward or backward pass without showing in a trace."""
    for m in modules.values():
        hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
        if hooks or m._backward_pre_hooks:
            return f"{type(m).__name__} has hooks"
        if "forward" in vars(m):
            return f"one {type(m).__name__} has a forward pass of its own"
    return "there are hooks on all modules" if _has_any_global_hook() else None


class Plan:
    """A traced network: its graph as a function of x and folded tensors, which convolution meets
    which norm (one that stands alone: itself), and the parameters that stay in modules: those of
    norms in train mode. ``refusal`` says why it is not used, once it has been compared.
    """

    def __init__(
        self, graph, folds: dict[str, str | None], constants: list[str], kept: set[str], model
    ):
        self.graph, self.folds, self.constants, self.kept = graph, folds, constants, kept
        self.norms = {name: model.get_submodule(name) for name in folds.values() if name}
        self.modes = tuple(module.training for module in model.modules())
        self.recorders: dict[torch.dtype | None, Recorder] = {}
        self.verdicts: dict[torch.dtype | None, str | None] = {}  # by precision: why not

    def __call__(self, folded: Weights, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The logits, computed in ``dtype`` if one is given and the tensors are folded in it."""
        z = self.graph(_laid_out(x if dtype is None else x.to(dtype)), folded)
        return z if dtype is None else z.to(x.dtype)

    def recorder(self, dtype: torch.dtype | None) -> Recorder:
        """The CUDA graphs of this network in one precision, kept as long as the plan is."""
        return self.recorders.setdefault(dtype, Recorder(partial(self, dtype=dtype)))

    def fold(self, tensors: Weights, dtype: torch.dtype | None = None) -> Weights:
        """What the graph reads, from the network's parameters and buffers by name."""
        folded = {name: tensors[name] for name in self.constants}
        for name, norm in self.folds.items():
            weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
            if norm:
                before = (None, None) if norm == name else (weight, bias)
                weight, bias = _fold(*before, tensors, norm, self.norms[norm])
            if weight.ndim == 4:
                weight = channels_last(weight)
            folded[f"{name}.weight"], folded[f"{name}.bias"] = weight, bias
        return folded if dtype is None else {k: _rounded(v, dtype) for k, v in folded.items()}

    def functional(self, tensors: Weights, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The logits as a function of all tensors, of those that stay in modules too."""
        inside = dict(self.graph.named_parameters()) | dict(self.graph.named_buffers())
        inside = {name: tensors[name] for name in inside}
        inputs = _laid_out(x if dtype is None else x.to(dtype)), self.fold(tensors, dtype)
        z = functional_call(self.graph, inside, inputs)
        return z if dtype is None else z.to(x.dtype)

    def refusal(self, dtype: torch.dtype | None = None) -> str | None:
        """Why the plan has been found not to be the network, if it has been."""
        return self.verdicts.get(None) or self.verdicts.get(dtype)

    def trusted(self, model: nn.Module, tensors: Weights, x: Tensor, dtype=None) -> bool:
        """Whether the plan is ``model`` in a precision: compared once, on the first images."""
        if not len(x):
            return False
        if None not in self.verdicts:
            with in_modes(model, self.modes):
                found = difference(self, model, tensors, x)
            if found == NOT_FINITE:
                return False
            self.verdicts[None] = found
        if self.verdicts[None] is None and dtype not in self.verdicts:
            with in_modes(model, self.modes):
                self.verdicts[dtype] = coarse_difference(self, model, tensors, x, dtype)
        return self.refusal(dtype) is None


def _laid_out(x: Tensor) -> Tensor:
    """A copy of images, channels-last: a network may write into it."""
    y = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    return y.clone() if y is x else y


def _rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """In ``dtype``, if these are real numbers: indices, masks and phases stay."""
    real = tensor is not None and tensor.is_floating_point()
    return tensor.to(dtype) if real else tensor


def channels_last(weight: Tensor) -> Tensor:
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
