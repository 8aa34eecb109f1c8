"""Speed, behind one seam: ``freeze`` and ``fast`` give a network as a function, made fast.

Attacks, measures and training call them; nothing else knows how it is done. The network is traced
once into a graph whose convolutions take their tensors from a dict and lie channels-last. In eval
mode batch norm is an affine map and folds into the convolution before it; a new weight set then
costs one fold. A network that cannot be traced so runs as it is.
"""

import operator
import weakref

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from . import checks
from .models import ReBatchNorm
from .weights import Weights, as_function, detached

_PLANS = weakref.WeakKeyDictionary()  # model -> (its modules, {their modes: plan or None})


PRECISIONS = {"float32": None, "bf16": torch.bfloat16}  # None: the model's own


def freeze(model: nn.Module, w: Weights | None = None, precision: str = "float32"):
    """x (N, C, H, W) -> logits (N, K) of ``model`` with the weights ``w`` (its own if None) fixed.

    No gradient reaches the weights; the one for x passes. Equal to the model up to rounding, that
    of float32 or, for an attack's gradient steps only, of "bf16". Freeze in the mode that is
    wanted, and anew when weights or statistics have changed.
    """
    dtype, plan = _dtype(precision), _plan(model)
    tensors = detached({**_tensors(model), **(w or {})})
    if plan is None or plan.kept:
        f = _cast(model, dtype)
        return lambda x: f(tensors, x)
    with torch.no_grad():
        folded = plan.fold(tensors, dtype)
    return lambda x: plan(folded, x)


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
    modules are others than then.
    """
    modules = dict(model.named_modules())
    if any(m._forward_hooks or m._forward_pre_hooks for m in modules.values()):
        return None
    signature = tuple((name, id(module)) for name, module in modules.items())
    known = _PLANS.get(model)
    if known is None or known[0] != signature:
        _PLANS[model] = known = (signature, {})
    modes = tuple(module.training for module in modules.values())
    if modes not in known[1]:
        known[1][modes] = _traced(model)
    return known[1][modes]


class _Leaves(torch.fx.Tracer):
    """Traces through everything but the modules that are folded or taken over."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _BatchNorm) or super().is_leaf_module(module, name)


class _Plan:
    """A traced network: its graph as a function of x and folded tensors, which convolution meets
    which norm, and the parameters that stay in modules: those of norms in train mode.
    """

    def __init__(
        self, graph, folds: dict[str, str | None], constants: list[str], kept: set[str], model
    ):
        self.graph, self.folds, self.constants, self.kept = graph, folds, constants, kept
        self.norms = {name: model.get_submodule(name) for name in folds.values() if name}

    def __call__(self, folded: Weights, x: Tensor) -> Tensor:
        used = next((v.dtype for v in folded.values() if v is not None), x.dtype)
        z = self.graph(x.to(used, memory_format=torch.channels_last), folded)
        return z.to(x.dtype)

    def fold(self, tensors: Weights, dtype: torch.dtype | None = None) -> Weights:
        """What the graph reads, from the network's parameters and buffers by name."""
        folded = {name: tensors[name] for name in self.constants}
        for name, norm in self.folds.items():
            weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
            if norm:
                weight, bias = _fold(weight, bias, tensors, norm, self.norms[norm])
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


def _fold(weight: Tensor, bias: Tensor | None, tensors: Weights, norm: str, module: _BatchNorm):
    """norm(conv(x)) = conv'(x): w' = s w, b' = s (b - mean) + beta with s = gamma / sqrt(var +
    eps).
    """
    gamma = tensors[f"{norm}.weight"] + (1 if isinstance(module, ReBatchNorm) else 0)
    scale = gamma * torch.rsqrt(tensors[f"{norm}.running_var"] + module.eps)
    shift = (
        -tensors[f"{norm}.running_mean"] if bias is None else bias - tensors[f"{norm}.running_mean"]
    )
    return weight * scale.view(-1, 1, 1, 1), shift * scale + tensors[f"{norm}.bias"]


def _traced(model: nn.Module) -> _Plan | None:
    """Trace ``model`` and rewrite convolutions, linear layers and buffers to take their tensors
    from a dict; None if its control flow cannot be traced or other modules hold trainable
    tensors.
    """
    attributes = set(vars(model))
    try:
        graph = _Leaves().trace(model)
    except (torch.fx.proxy.TraceError, TypeError, RuntimeError, AttributeError, ValueError):
        return None
    finally:  # tracing leaves tensors made in forward behind as attributes
        for name in set(vars(model)) - attributes:
            delattr(model, name)
    modules = dict(model.named_modules())
    (image, *others) = [node for node in graph.nodes if node.op == "placeholder"]
    if others or _refused(graph, model, modules):
        return None
    with graph.inserting_after(image):
        given = graph.placeholder("tensors")
    _drop_identities(graph, modules)
    folds: dict[str, str | None] = {}
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        module = modules[node.target]
        if (
            type(module) is nn.Linear
            or type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
        ):
            folds[node.target] = _take_over(graph, node, module, given, modules)
    constants = _take_attributes(graph, given)
    done = {f"{name}." for pair in folds.items() for name in pair if name}
    left = [
        k
        for k, _ in model.named_parameters()
        if not k.startswith(tuple(done)) and k not in constants
    ]
    if not all(_working_norm(modules[k.rpartition(".")[0]]) for k in left):
        return None
    return _Plan(torch.fx.GraphModule(model, graph), folds, constants, set(left), model)


def _working_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.training


def _refused(graph, model, modules) -> bool:
    """Whether a dict of tensors cannot say what the graph reads: tensors that are neither parameter
    nor buffer (perhaps random), weights of a convolution read apart from it, one called twice.
    """
    named = {k for k, _ in (*model.named_parameters(), *model.named_buffers())}
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    convs = [name for name in calls if isinstance(modules[name], nn.Conv2d)]
    apart = any(name.rpartition(".")[0] in calls for name in read)
    return apart or bool(read - named) or len(set(convs)) < len(convs)


def _drop_identities(graph, modules) -> None:
    """Take out modules that do nothing, so that a norm stands right behind its convolution."""
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        module = modules[node.target]
        idle = isinstance(module, nn.modules.dropout._DropoutNd) and not module.training
        if idle or isinstance(module, nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in graph.nodes:  # a view of channels-last tensors is not always one
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"
        if node.op == "call_method" and node.target == "mean" and node.kwargs == {"dim": (2, 3)}:
            with graph.inserting_before(node):  # its gradient then lies channels-last too
                image = graph.call_method("permute", (node.args[0], 0, 2, 3, 1))
            node.args, node.kwargs = (image,), {"dim": (1, 2)}


def _take_attributes(graph, given) -> list[str]:
    """Read buffers and bare parameters from the dict; their names."""
    nodes = [node for node in graph.nodes if node.op == "get_attr"]
    for node in nodes:
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_function(operator.getitem, (given, node.target)))
        graph.erase_node(node)
    return sorted({node.target for node in nodes})


def _take_over(graph, node, module, given, modules) -> str | None:
    """Replace a module call by its function on tensors from the dict; the name of the norm folded
    into it.

    A 1 x 1 convolution with a stride becomes one of the pixels it reads: oneDNN's gradient for the
    weights of the strided one, channels-last on AVX2 with 4 input channels, corrupts memory. The
    pixels are picked by pooling over single ones, whose gradient, unlike a slice's, lies
    channels-last.
    """
    norm = next(iter(node.users)) if len(node.users) == 1 else None
    foldable = (
        norm is not None and norm.op == "call_module" and type(module) is nn.Conv2d
        and type(modules[norm.target]) in (nn.BatchNorm2d, ReBatchNorm)
        and modules[norm.target].affine and modules[norm.target].track_running_stats
        and not modules[norm.target].training
    )  # fmt: skip
    name = node.target
    with graph.inserting_before(node):
        weight, bias = (
            graph.call_function(operator.getitem, (given, f"{name}.{k}"))
            for k in ("weight", "bias")
        )
        if type(module) is nn.Linear:
            new = graph.call_function(F.linear, (node.args[0], weight, bias))
        else:
            image, stride = node.args[0], module.stride
            if module.kernel_size == (1, 1) and module.padding == (0, 0) and stride != (1, 1):
                image, stride = graph.call_function(F.avg_pool2d, (image, 1, stride)), (1, 1)
            geometry = (stride, module.padding, module.dilation, module.groups)
            new = graph.call_function(F.conv2d, (image, weight, bias, *geometry))
    if foldable:
        norm.replace_all_uses_with(new)
        graph.erase_node(norm)
    else:
        node.replace_all_uses_with(new)
    graph.erase_node(node)
    return norm.target if foldable else None
