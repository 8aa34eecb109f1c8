"""Whether a plan is the network: both are run on a few images before it is used.

Outputs, gradients for the images and those for every weight are compared in float64, where folding
and other orders of summation do not show and no kink of ReLU lies between the two; in the network's
own precision where it does not run in float64.
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from flatlib.fast.tracing import told
from flatlib.weights import Weights

NOT_FINITE = "its outputs or gradients are not finite"  # with these weights
_IMAGES = 2  # of those at hand, and a random one
_LARGE = 50_000_000  # weights of which no copies in float64 are made
_NEAR = {torch.float64: (1e-6, 1e-9), torch.float32: (1e-2, 1e-4)}  # see _differing
_COARSE = (0.1, 1e-2)  # the same in half precision


def difference(plan, model: nn.Module, tensors: Weights, x: Tensor) -> str | None:
    """What ``plan`` does otherwise than ``model`` with these tensors on images like x; None if
    nothing.
    """
    learned, errors = {name for name, _ in model.named_parameters()}, []
    for dtype in _precisions(tensors, x):
        derivatives = partial(_derivatives, tensors, learned, _images(x).to(dtype))
        try:
            want = derivatives(partial(_called, model))
        except Exception as error:  # in this precision: perhaps not in the next
            errors.append(told(error))
            continue
        if not all(bool(torch.isfinite(v).all()) for v in want.values()):
            return NOT_FINITE
        try:
            got = derivatives(plan.functional)
        except Exception as error:
            return f"its graph fails ({told(error)})"
        return _differing(got, want, *_NEAR.get(dtype, _COARSE))
    return f"it cannot be compared with its graph ({errors[-1]})"


def _called(model: nn.Module, w: Weights, x: Tensor) -> Tensor:
    return functional_call(model, w, (x,))


def coarse_difference(plan, model, tensors: Weights, x: Tensor, dtype: torch.dtype) -> str | None:
    """Why ``plan`` in a coarser precision cannot stand for ``model``; None if it can."""
    images, found = _images(x), []
    try:
        for f in (partial(plan.functional, dtype=dtype), partial(_called, model)):
            copies = {k: v.clone() for k, v in tensors.items()}
            with torch.no_grad(), _repeatable(images):
                found.append({"outputs": f(copies, images.clone())})
    except Exception as error:
        return f"its graph fails in {dtype} ({told(error)})"
    return _differing(*found, *_COARSE)


def _images(x: Tensor) -> Tensor:
    """Images at hand, a little off since max-pooling and ReLU have no one gradient at ties, and a
    random one.
    """
    x = x[:_IMAGES].detach()
    noise = torch.rand(len(x) + 1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    return torch.cat([x.lerp(noise[1:], 0.05), noise[:1]])


def _precisions(tensors: Weights, x: Tensor) -> list[torch.dtype]:
    large = sum(tensor.numel() for tensor in tensors.values()) > _LARGE
    return [x.dtype] if large else list(dict.fromkeys([torch.float64, x.dtype]))


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in ``dtype`` or its kind of complex numbers; whole numbers and truth values stay."""
    if not tensor.is_floating_point():
        wide = tensor.is_complex() and dtype == torch.float64
        dtype = torch.complex128 if wide else tensor.dtype
    # a network's own convolutions want contiguous weights, see graphs
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _derivatives(tensors: Weights, learned: set[str], images: Tensor, f) -> Weights:
    """The outputs of f(w, x) and the gradients of a random combination of them, for the images and
    every weight; f gets copies of all tensors.
    """
    w = {k: _copied(v, images.dtype) for k, v in tensors.items()}
    wanted = {k: w[k].requires_grad_() for k in w if k in learned and _has_gradient(w[k])}
    point = images.clone().requires_grad_()
    with torch.enable_grad(), _repeatable(images):
        z = f(w, point * 1)
        combination = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
        loss, how = (z * combination).sum(), {"allow_unused": True, "materialize_grads": True}
        grads = torch.autograd.grad(loss, [point, *wanted.values()], **how)
    names = ["gradients for the images", *(f"gradients for {k}" for k in wanted)]
    return {"outputs": z.detach(), **dict(zip(names, grads))}


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _differing(got: Weights, want: Weights, own: float, largest: float) -> str | None:
    """The first of ``want`` that is farther from that of ``got`` than a share of its own norm plus
    one of the largest norm; a bias before batch norm has rounding for a gradient.
    """
    scale = largest * max(float(v.norm()) for k, v in want.items())
    for name, v in want.items():
        if got[name].shape != v.shape or got[name].dtype != v.dtype:
            return f"{name} of its graph have another shape or type"
        gap = float((got[name] - v).norm())
        if not gap <= own * float(v.norm()) + scale:
            return f"{name} of its graph differ by {gap:.1e} from {float(v.norm()):.1e}"
    return None


@contextmanager
def _repeatable(x: Tensor):
    """The same random numbers in every such block, and no dropout: its mask depends on how images
    lie in memory.
    """
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        with _NoDropout():
            yield


class _NoDropout(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", "") and getattr(func, "__module__", "") == (
            "torch.nn.functional"
        ):
            return (args[0] if args else kwargs["input"]) * 1
        return func(*args, **kwargs)
