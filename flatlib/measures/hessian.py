"""Extreme eigenvalues of the mean loss's Hessian in weight space (Stutz et al. 2021, App. B)."""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from flatlib import checks, inputs
from flatlib.fast.forward import exact, fast, laid_out
from flatlib.losses import cross_entropy
from flatlib.measures.bilinear import (
    TwiceDifferentiable,
    attention_written_out,
    named_if_missing,
    refuse_broken,
)  # fmt: skip
from flatlib.modes import mode
from flatlib.weights import Weights, detached, layers

SKEW = 0.02  # how far products may be from those with a symmetric matrix; rounding is far below


def product(model: nn.Module, x: Tensor, y: Tensor, batch: int = 128):
    """v (P,) -> H v (P,), H the Hessian of the mean clean cross-entropy over all examples, by
    double backward.

    P counts the scalars of all layers with two or more dimensions, in the order of ``layers(model,
    biases=False)``; weights that take no part have zeros. The mean is over examples, whatever the
    batch size. On a GPU float32 is meant in full, whatever the user has set (``forward.exact``).
    """
    f, w = fast(model), _matrices(model)

    def gradient(xb: Tensor, yb: Tensor) -> tuple[Tensor, ...]:
        with TwiceDifferentiable(), attention_written_out(), named_if_missing(), exact():
            loss = cross_entropy(f(w, xb), yb).sum() / len(x)
            if not loss.requires_grad:  # no weight takes part
                return tuple(map(torch.zeros_like, w.values()))
            how = {"create_graph": True, "materialize_grads": True}
            grads = torch.autograd.grad(loss, w.values(), **how)
        if xb is batches[0][0]:
            refuse_broken(grads)
        return grads

    batches = list(zip(x.split(batch), y.split(batch)))
    kept = [gradient(*batches[0])] if len(batches) == 1 else None  # else memory would be the limit

    def hessian_times(v: Tensor) -> Tensor:
        parts = torch.split(v, [t.numel() for t in w.values()])
        vectors = [torch.empty_like(t).copy_(p.view_as(t)) for t, p in zip(w.values(), parts)]
        total = torch.zeros_like(v)
        for grads in kept or (gradient(*one) for one in batches):
            pairs = [(g, u) for g, u in zip(grads, vectors) if g.requires_grad]
            if not pairs:  # gradients that are constant
                continue
            curved, along = zip(*pairs)
            how = {"retain_graph": bool(kept), "materialize_grads": True}
            with named_if_missing(), exact():
                products = torch.autograd.grad(curved, w.values(), along, **how)
            total.add_(torch.cat([p.flatten() for p in products]))
        return total

    return hessian_times, sum(t.numel() for t in w.values())


def _matrices(model: nn.Module) -> Weights:
    """The layers that the Hessian is of, cut from the model and laid out for its fast form."""
    w = checks.perturbable(detached(layers(model, biases=False)))
    if any(v.is_complex() for v in w.values()):
        raise ValueError("model: complex weights; the Hessian is that of real ones")
    return {k: v.requires_grad_() for k, v in laid_out(model, w).items()}


@torch.inference_mode(False)
def eigenvalues(
    model: nn.Module,
    x,
    y=None,
    k: int = 4,
    batch: int = 128,
    tol: float = 1e-2,
    seed: int = 0,
) -> Tensor:
    """``k`` eigenvalues from both ends of the spectrum (k = 1: the largest), ascending, (k,), of
    the Hessian of the mean clean loss.

    SciPy's implicitly restarted Lanczos (``eigsh``, both ends) on a matrix-free product; the model
    in eval mode; weight tensors of two or more dimensions. ``tol`` is relative. The released code
    sums the gradients of four batches: its values are four times these.
    """
    k = checks.number("k", k)
    ends = "BE" if k > 1 else "LA"
    values = _lanczos(model, x, y, k, ends, batch, tol, seed, return_eigenvectors=False)
    return torch.tensor(np.sort(values), dtype=torch.float64)


@torch.inference_mode(False)
def top_eigenvector(
    model: nn.Module, x, y=None, batch: int = 128, tol: float = 1e-2, seed: int = 0
) -> Weights:
    """The eigenvector of the largest eigenvalue, of length 1, as a direction in weight space: a
    tensor for every layer with two or more dimensions.
    """
    _, vectors = _lanczos(model, x, y, 1, "LA", batch, tol, seed, return_eigenvectors=True)
    w = layers(model, biases=False)
    parts = torch.as_tensor(vectors[:, 0].copy()).split([t.numel() for t in w.values()])
    return {k: part.view_as(t).to(t) for part, (k, t) in zip(parts, w.items())}


def _lanczos(model, x, y, k: int, ends: str, batch: int, tol: float, seed: int, **how):
    """SciPy's ``eigsh`` on the product with the Hessian."""
    from scipy.sparse import linalg  # here alone: it takes as long as the rest of flatlib

    batch, tol = checks.number("batch", batch), checks.radius("tol", tol)
    seed = checks.seed("seed", seed)
    model, x, y, _ = inputs.examples(model, x, y, weights=True, climbs=True)
    _not_compiled(model)
    with mode(model, training=False), torch.enable_grad():
        times, size = product(model, x, y, batch)
        if k >= size:
            raise ValueError(f"k={k}: fewer than the {size} weights of the model")
        largest, pairs = 0.0, []  # entry of a product so far; the first vectors and products

        def matvec(v: np.ndarray) -> np.ndarray:
            nonlocal largest
            vector = torch.as_tensor(np.asarray(v).reshape(-1), dtype=x.dtype, device=x.device)
            found = times(vector).detach().double().cpu().numpy()
            if not np.isfinite(found).all():
                raise ValueError("model: a product with the Hessian is not finite")
            largest = max(largest, np.abs(found).max())
            if len(pairs) < 2:
                pairs.append((v.reshape(-1).copy(), found))
                _symmetric(*pairs)
            return found

        start = np.random.RandomState(seed).randn(size)
        operator = linalg.LinearOperator((size, size), matvec=matvec, dtype=np.float64)
        try:
            with threadpool_limits(1, "blas"):  # SciPy's threads would get in the way of torch's
                return linalg.eigsh(operator, k, which=ends, tol=tol, v0=start, **how)
        except linalg.ArpackNoConvergence as error:
            found = f"{len(error.eigenvalues)} of k={k} eigenvalues"
            raise ValueError(f"tol={tol!r}: Lanczos found {found}; choose a larger tol") from error
        except linalg.ArpackError as error:
            if largest > 0:
                raise ValueError(f"model: Lanczos fails on its Hessian ({error})") from error
            return _flat(k, start, **how)


def _not_compiled(model: nn.Module) -> None:
    """Refuse a network with compiled parts, whose second derivatives are not right."""
    compiled = [name for name, m in model.named_modules() if hasattr(m, "_orig_mod")]
    if compiled:
        raise ValueError(
            f"model: {compiled[0]} is compiled, and second derivatives of compiled code are not "
            "right: give the module it was made of"
        )


def _symmetric(first: tuple, second: tuple | None = None) -> None:
    """Refuse products, (v, H v) each, that are not those with a symmetric matrix: second
    derivatives that some operation of the network has wrong.
    """
    if second is None:
        return
    (v, hv), (u, hu) = first, second
    gap, scale = abs(u @ hv - v @ hu), np.linalg.norm(hv) * np.linalg.norm(u)
    if gap > SKEW * scale:
        raise ValueError(
            f"model: its Hessian is not symmetric (by {gap / scale:.1%}): an operation in it has "
            "wrong second derivatives"
        )


def _flat(k: int, start: np.ndarray, return_eigenvectors: bool):
    """What ``eigsh`` gives, of a Hessian that is zero: any direction is an eigenvector."""
    if not return_eigenvectors:
        return np.zeros(k)
    return np.zeros(1), start[:, None] / np.linalg.norm(start)
