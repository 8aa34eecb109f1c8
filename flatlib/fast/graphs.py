"""The forward pass of a network as a graph: traced, so that its tensors come from a dict, and
recorded on a GPU, so that the hundreds of launches of a small network's passes become one.

No GPU has timed recording yet, so nothing uses it unasked: ``freeze(..., recorded=True)`` does, and
the benchmark on a GPU compares both.
"""

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm

from flatlib.fast.tracing import Untraceable, trace
from flatlib.networks.parts import ReBatchNorm
from flatlib.weights import Weights

_HW = (2, 3)
_DIMS = {"dim": _HW}


def traced(model: nn.Module):
    """``model`` as f(x, tensors), with what ``tensors`` has to hold: a module; by name of each
    convolution, linear layer and norm taken over the norm folded into it (itself: a norm that
    stands alone), or None; other tensors read; parameters that stay in modules, those of norms in
    train mode. Raises ``Untraceable`` where that cannot be had.
    """
    graph, modules = trace(model), dict(model.named_modules())
    _refuse(graph, model, modules)
    (image,) = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(image):
        given = graph.placeholder("tensors")
    _drop_identities(graph, modules)
    folds = _take_modules(graph, given, modules)
    constants = _take_attributes(graph, given)
    calls = tuple(f"{name}." for name in _calls(graph))
    left = [k for k, _ in model.named_parameters() if k.startswith(calls)]
    for module in (modules[k.rpartition(".")[0]] for k in left):
        if not _working_norm(module):
            raise Untraceable(f"{type(module).__name__} is not one of the layers taken over")
    return GraphModule(model, graph), folds, constants, set(left)


def _calls(graph) -> list[str]:
    return [node.target for node in graph.nodes if node.op == "call_module"]


def _working_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.training


def _settled(module: nn.Module) -> bool:
    """Whether this is a batch norm that a scale and a shift per channel stand for."""
    known = type(module) in (nn.BatchNorm2d, ReBatchNorm) and not module.training
    return known and module.affine and module.track_running_stats


def _refuse(graph, model, modules) -> None:
    """Refuse what images and a dict of tensors cannot say: other arguments, tensors that are
    neither parameter nor buffer (perhaps random), weights of a convolution read apart from it, one
    called twice, tensors that go by two names.
    """
    inputs = [node.target for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or inputs[0].startswith("*"):
        raise Untraceable("its forward pass has other arguments than images")
    named = {k for k, _ in (*model.named_parameters(), *model.named_buffers())}
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    if read - named:
        raise Untraceable("it reads a tensor that is neither parameter nor buffer")
    calls = _calls(graph)
    if any(name.rpartition(".")[0] in calls for name in read):
        raise Untraceable("it reads a layer's tensors apart from the layer")
    convs = [name for name in calls if isinstance(modules[name], nn.Conv2d)]
    if len(set(convs)) < len(convs):
        raise Untraceable("it calls a convolution twice")
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise Untraceable("a weight goes by two names")


def _image(node):
    """What a module is called with, by position or by keyword."""
    return (*node.args, *node.kwargs.values())[0]


def _spatial_mean(x: Tensor) -> Tensor:
    """``x.mean((2, 3))``, of images so that its gradient lies channels-last too."""
    return x.permute(0, 2, 3, 1).mean((1, 2)) if x.ndim == 4 else x.mean((2, 3))


def _drop_identities(graph, modules) -> None:
    """Take out modules that do nothing, so that a norm stands right behind its convolution."""
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        module = modules[node.target]
        idle = isinstance(module, nn.modules.dropout._DropoutNd) and not module.training
        if idle or type(module) is nn.Identity:
            node.replace_all_uses_with(_image(node))
            graph.erase_node(node)
    for node in [node for node in graph.nodes if node.op == "call_method"]:
        if node.target == "view":  # a view of channels-last tensors is not always one
            node.target = "reshape"
        if node.target == "mean" and (node.args[1:], node.kwargs) in (((), _DIMS), ((_HW,), {})):
            node.op, node.target = "call_function", _spatial_mean
            node.args, node.kwargs = node.args[:1], {}


def _take_attributes(graph, given) -> list[str]:
    """Read buffers and bare parameters from the dict; their names."""
    nodes = [node for node in graph.nodes if node.op == "get_attr"]
    for node in nodes:
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_function(operator.getitem, (given, node.target)))
        graph.erase_node(node)
    return sorted({node.target for node in nodes})


def _take_modules(graph, given, modules) -> dict[str, str | None]:
    """Replace convolutions, linear layers and settled norms by functions of tensors from the dict;
    by name the norm folded into each, a norm that stands alone into itself.
    """
    folds: dict[str, str | None] = {}
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        module = modules[node.target]
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros"
        if plain or type(module) is nn.Linear:
            folds[node.target] = _take_over(graph, node, module, given, modules)
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        if _settled(modules[node.target]):
            folds[node.target] = node.target
            with graph.inserting_before(node):
                scale, shift = _tensors_of(graph, node.target, given)
                new = graph.call_function(torch.addcmul, (shift, _image(node), scale))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    return folds


def _tensors_of(graph, name: str, given):
    names = (f"{name}.weight", f"{name}.bias")
    return [graph.call_function(operator.getitem, (given, key)) for key in names]


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
        and _settled(modules[norm.target])
    )  # fmt: skip
    with graph.inserting_before(node):
        weight, bias = _tensors_of(graph, node.target, given)
        if type(module) is nn.Linear:
            new = graph.call_function(F.linear, (_image(node), weight, bias))
        else:
            image, stride = _image(node), module.stride
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


# ---- CUDA graphs


class Recorder:
    """f(tensors, x) for one function f, recorded once per shape of x and replayed from then on.

    A recording reads its tensors at fixed addresses: they are copied there when others are given
    than last time, so that functions of several weight sets may live side by side. What comes back
    is the caller's own, untouched by the next replay. What the backward pass reads is not: all
    replays of a shape share it, so two forward passes before one backward pass give gradients that
    are wrong.
    """

    def __init__(self, f):
        self.f, self.recordings = f, {}
        self.held: Weights = {}
        self.latest: Weights | None = None

    def __call__(self, tensors: Weights, x: Tensor) -> Tensor:
        self._hold(tensors)
        key = (x.shape, x.dtype)
        if key not in self.recordings:
            self.recordings[key] = self._record(x)
        return self.recordings[key](x * 1).clone()  # "* 1": the gradient is the caller's own too

    def _hold(self, tensors: Weights) -> None:
        if tensors is self.latest:
            return
        given = {k: v for k, v in tensors.items() if v is not None}
        if not self.held:
            self.held = {k: v.clone() for k, v in given.items()}
        else:
            torch._foreach_copy_(list(self.held.values()), [given[k] for k in self.held])
        self.latest = tensors

    @torch.enable_grad()
    def _record(self, x: Tensor):
        held = {k: self.held.get(k) for k in self.latest}
        sample = x.detach().clone().requires_grad_()
        return torch.cuda.make_graphed_callables(lambda image: self.f(held, image), (sample,))
