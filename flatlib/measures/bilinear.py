"""Second derivatives for products with the Hessian: those of convolutions made fast, those of
attention possible, missing ones named.
"""

import re
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def attention_written_out():
    """Fused kernels of attention have no second derivative: none is used while the block runs."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def named_if_missing():
    """An operation without a second derivative is named."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not re.search("derivative|differentiate|[Dd]ouble backward", str(error)):
            raise
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"model: an operation has no second derivative ({first})") from error


def refuse_broken(grads: Iterable[Tensor]) -> None:
    """Refuse gradients with a part that PyTorch would leave out of a second derivative unsaid:
    that of an autograd function which is ``once_differentiable``.
    """
    todo, seen = [g.grad_fn for g in grads], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "Error":
            raise ValueError("model: a once_differentiable function has no second derivative")
        todo += [before for before, _ in node.next_functions]


class TwiceDifferentiable(TorchFunctionMode):
    """While active, convolutions are made so that their second derivatives are fast.

    A convolution, the gradient of its input and that of its weight are each linear in two tensors,
    and their derivatives are again of these three kinds, for which there are fast routines. PyTorch
    computes some of them as convolutions with kernels as large as the image. Equal up to rounding.
    PyTorch's own weight normalisation has wrong second derivatives: it is written out.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        if func is torch.conv2d and not kwargs and len(args) == 7 and args[0].ndim == 4:
            x, weight, bias, stride, padding, dilation, groups = args
            if all(isinstance(part, tuple) for part in (stride, padding, dilation)):
                y = _Conv.apply(x, weight, (stride, padding, dilation, groups))
                return y if bias is None else y + bias.view(1, -1, 1, 1)
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / ||v||, one norm for each index along ``dim``; -1: one for the whole tensor."""
    others = [d for d in range(v.ndim) if d != dim] if dim != -1 else None
    return v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1))


def _gradients(g: Tensor, x: Tensor, w: Tensor, geometry, wanted: list[bool]):
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )


class _Conv(Function):
    """(x, w) -> y."""

    @staticmethod
    def forward(ctx, x, w, geometry):
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        return torch.ops.aten.convolution(
            x, w, None, stride, padding, dilation, False, [0, 0], groups
        )

    @staticmethod
    def backward(ctx, g):
        (x, w), (for_x, for_w, _) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _InputGradient.apply(g, w, x, ctx.geometry) if for_x else None,
            _WeightGradient.apply(x, g, w, ctx.geometry) if for_w else None,
            None,
        )


class _InputGradient(Function):
    """(g, w) -> the gradient of x, of which only the shape is used."""

    @staticmethod
    def forward(ctx, g, w, x, geometry):
        ctx.save_for_backward(g, w)
        ctx.geometry = geometry
        return _gradients(g, x, w, geometry, [True, False, False])[0]

    @staticmethod
    def backward(ctx, u):
        (g, w), (for_g, for_w, *_) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _Conv.apply(u, w, ctx.geometry) if for_g else None,
            _WeightGradient.apply(u, g, w, ctx.geometry) if for_w else None,
            None, None,
        )  # fmt: skip


class _WeightGradient(Function):
    """(x, g) -> the gradient of w, of which only the shape is used."""

    @staticmethod
    def forward(ctx, x, g, w, geometry):
        ctx.save_for_backward(x, g)
        ctx.geometry = geometry
        return _gradients(g, x, w, geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx, u):
        (x, g), (for_x, for_g, *_) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _InputGradient.apply(g, u, x, ctx.geometry) if for_x else None,
            _Conv.apply(x, u, ctx.geometry) if for_g else None,
            None, None,
        )  # fmt: skip
