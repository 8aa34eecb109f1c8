"""Weights as values: the network is a function f(w, x), a perturbation is a dict of tensors.

A *layer* is one trainable tensor: the weight and the bias of a convolution are two layers.
Parameters of normalisation modules and of auxiliary heads are no layers (Stutz et al. 2021, Sec.
3.2).
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

Weights = dict[str, Tensor]

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_RUNNERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
UNITS = ("layer", "filter", "row")  # what is normalised as one
_TINY = 1e-12  # keeps 0/0 out of directions: conv biases before batch norm start at exactly zero


def layers(model: nn.Module, biases: bool = True) -> Weights:
    """The perturbed tensors of ``model`` by name, the live parameters themselves.

    Chosen by module type, not by name: every trainable tensor but those of normalisation modules
    and of modules marked ``auxiliary = True``. ``biases=False`` keeps tensors of two or more
    dimensions only (AWP, Hessian). A tensor that goes by several names is listed by the first in
    the whole model, be it in an auxiliary branch. For the paper's ResNet-18: 26 tensors, 11 165 322
    scalars; 21 without biases.
    """
    model = bare(model)
    found, first = {}, {id(parameter): name for name, parameter in model.named_parameters()}
    for _, module in branches(model):
        if isinstance(module, _NORMS):
            continue
        for parameter in module.parameters(recurse=False):
            wanted = parameter.requires_grad and (biases or parameter.ndim > 1)
            if wanted and id(parameter) in first:  # a module may keep its weights to itself
                found[first[id(parameter)]] = parameter
    return found


def branches(module: nn.Module, prefix: str = ""):
    """(name, module) of ``module`` and all below it, without branches marked ``auxiliary``."""
    if getattr(module, "auxiliary", False):
        return
    yield prefix, module
    for name, child in module.named_children():
        yield from branches(child, f"{prefix}.{name}" if prefix else name)


def as_function(model: nn.Module):
    """f(w, x) -> logits (N, K): ``model`` with the tensors named in ``w`` in place of its own.

    Everything not in ``w`` (batch norm, buffers) stays the model's; so does its train or eval mode.
    A model that writes into its images gets a copy of them.
    """
    model = bare(model)
    rigid = _rigid(model)
    if rigid:
        raise ValueError(
            f"model: {rigid} keeps its weights to itself; give the network inside it instead"
        )

    def f(w: Weights, x: Tensor) -> Tensor:
        with _nothing_recomputed():
            return functional_call(model, w, (x.clone(),))

    return f


@contextmanager
def _nothing_recomputed():
    """Refuse activation checkpointing: its second forward pass comes with the backward pass, when
    the model has its own weights again, not those it was lent.
    """
    why = "recomputes activations (torch.utils.checkpoint), with weights that may be others by then"
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(why):
            yield
    except RuntimeError as error:
        if why not in str(error):
            raise
        raise ValueError(f"model: {why}: switch that off to measure it") from None


def bare(model: nn.Module) -> nn.Module:
    """The network inside ``DataParallel`` and ``torch.compile``, which only say how it is run."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r}: a torch.nn.Module wanted")
    while isinstance(model, _RUNNERS):
        model = model.module
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else bare(compiled)


def fixed(model: nn.Module, w: Weights | None = None):
    """x -> logits (N, K) of ``model`` with the tensors ``w``, or with its own where no others can
    be given to it; no gradient reaches its own.
    """
    if w is None and _rigid(model):
        return lambda x: _without_gradients(model, x.clone())
    f, tensors = as_function(model), detached(all_tensors(model, w))
    return lambda x: f(tensors, x)


def _rigid(model: nn.Module) -> str | None:
    """The kind of a module that PyTorch does not lend other weights."""
    kinds = (torch.jit.ScriptModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
    return next((type(m).__name__ for m in model.modules() if isinstance(m, kinds)), None)


def _without_gradients(model: nn.Module, x: Tensor) -> Tensor:
    learned = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in learned:
            p.requires_grad_(False)
        return model(x)
    finally:
        for p in learned:
            p.requires_grad_(True)


def all_tensors(model: nn.Module, w: Weights | None = None) -> Weights:
    """Buffers and parameters by name, those of ``w`` in place of the model's own; one that goes by
    several names is there once, by the name that ``w`` calls it.
    """
    own = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    others = (w or {}).keys() - own.keys()
    if others:
        named = dict(model.named_parameters(remove_duplicate=False))
        replaced = {id(named[k]) for k in others if k in named}
        own = {k: v for k, v in own.items() if id(v) not in replaced}
    return {**own, **(w or {})}


def detached(w: Weights) -> Weights:
    """The same values, cut from the autograd graph."""
    return {name: tensor.detach() for name, tensor in w.items()}


def add(w: Weights, nu: Weights, scale: float = 1.0) -> Weights:
    """w + scale * nu; layers that ``nu`` does not name are unchanged."""
    if not nu:
        return dict(w)
    moved = torch._foreach_add([w[k] for k in nu], list(nu.values()), alpha=scale)
    return {**w, **dict(zip(nu, moved))}


def norms(w: Weights, per: str = "layer") -> Weights:
    """||w_l||_2 per layer, each shaped to broadcast against its tensor.

    ``per="filter"`` takes one norm per output filter of tensors with four dimensions and treats all
    others as one unit (Li et al. 2018 as used in Stutz et al. 2021, App. E). ``per="row"`` takes
    one per filter of convolutions and per row of linear layers; what has one dimension counts 0 and
    is so left where it is (Li et al. 2018 as released, with biases ignored).
    """
    if per not in UNITS:
        raise ValueError(f"per={per!r}: choose one of {UNITS}")
    if per == "layer":
        return dict(zip(w, torch._foreach_norm(list(w.values()))))
    return {name: _norm(tensor, per) for name, tensor in w.items()}


def _norm(tensor: Tensor, per: str) -> Tensor:
    units = tensor.ndim == 4 if per == "filter" else tensor.ndim > 1
    dims = tuple(range(1, tensor.ndim)) if units else None
    norm = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norm if units or per == "filter" else 0 * norm


def _scaled(nu: Weights, factors: list[Tensor]) -> Weights:
    return dict(zip(nu, torch._foreach_mul(list(nu.values()), factors)))


def _ratios(w: Weights, nu: Weights, per: str = "layer") -> list[Tensor]:
    """||w_l|| / ||nu_l||, finite where nu_l is zero."""
    return _over(norms({k: w[k] for k in nu}, per), nu, per)


def _over(lengths: Weights, nu: Weights, per: str = "layer") -> list[Tensor]:
    """``lengths`` / ||nu_l||, finite where nu_l is zero."""
    size = torch._foreach_clamp_min(list(norms(nu, per).values()), _TINY)
    return torch._foreach_div([lengths[k] for k in nu], size)


def direction(nu: Weights, w: Weights, per: str = "layer") -> Weights:
    """nu_l / ||nu_l|| * ||w_l||, Eq. (2): every layer of ``nu`` gets the length of the same layer
    of ``w``. A zero tensor in either gives zero, never NaN.
    """
    return _scaled(nu, _ratios(w, nu, per))


def sample(w: Weights, xi: float, g: torch.Generator, per: str = "layer") -> Weights:
    """A random nu on the sphere ||nu_l|| = xi ||w_l|| of every layer, Eq. (4) with equality.

    In high dimension uniform-in-ball is the same; the released code samples on the sphere too.
    """
    drawn = {"generator": g, "dtype": torch.float32}  # the same nu for a model in float64
    noise = {k: torch.randn(v.shape, device=v.device, **drawn).to(v.dtype) for k, v in w.items()}
    ratios = torch._foreach_mul(_ratios(detached(w), noise, per), xi)
    return _scaled(noise, ratios)


def project(nu: Weights, w: Weights, xi: float) -> Weights:
    """The nearest point of B_xi(w), Eq. (4): ||nu_l|| <= xi ||w_l||. Inside nothing changes."""
    ratios = torch._foreach_mul(_ratios(w, nu), xi)
    return _scaled(nu, torch._foreach_clamp_max(ratios, 1.0))


def climb(nu: Weights, grads: Weights, lengths: Weights, lr: float, xi: float) -> None:
    """nu <- project(nu + lr direction(grads, w), w, xi) in place, with ``lengths`` = norms(w).

    The same step as those functions take, without their copies of all weights: in an ascent on few
    images these are a good part of the time.
    """
    moving, grads = list(nu.values()), {k: grads[k] for k in nu}
    rates = torch._foreach_mul(_over(lengths, grads), lr)
    torch._foreach_addcmul_(moving, list(grads.values()), rates)
    shrink = torch._foreach_mul(_over(lengths, nu), xi)
    torch._foreach_mul_(moving, torch._foreach_clamp_max(shrink, 1.0))


def gradient(objective, w: Weights, wrt: Weights) -> Weights:
    """The gradient of the scalar objective(w) with respect to the layers named in ``wrt``, zero
    for those it does not depend on.
    """
    leaves = {k: v.detach().requires_grad_(k in wrt) for k, v in w.items()}
    with torch.enable_grad():
        wanted = [leaves[k] for k in wrt]
        grads = torch.autograd.grad(objective(leaves), wanted, materialize_grads=True)
    return dict(zip(wrt, grads))
