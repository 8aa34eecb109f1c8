"""The same work without flatlib: attacks, flatness, training and curvature as one writes them down.

This is what the benchmark compares with, and it can be read as an introduction: every function is
its equation and a loop. Nothing is done for speed. The model is called as it is, and
``loss.backward()`` gives all gradients, those of the weights too, needed or not; this is how most
published code is written. Images x (N, C, H, W) lie in [0, 1], y (N,) are classes, ``g`` is the
random generator. Equations are those of Stutz et al. 2021.
"""

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn


def random_start(x, eps, g):
    """delta of random direction, ||delta||_inf uniform in [0, eps], with x + delta in [0, 1]."""
    noise = torch.randn(x.shape, generator=g, device=x.device)
    length = eps * torch.rand(len(x), 1, 1, 1, generator=g, device=x.device)
    delta = length * noise / noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    return (x + delta).clamp(0, 1) - x


def pgd(model, x, y, eps, step, steps=20, g=None):
    """max_delta L(f(x + delta), y) over ||delta||_inf <= eps by projected gradient ascent:

    delta <- Pi(delta + step * sign(grad_delta L)). The best point met on the way is returned, for
    every image its own.
    """
    delta = random_start(x, eps, g)
    best, best_loss = x.clone(), x.new_full((len(x),), -torch.inf)
    for t in range(steps + 1):
        delta = delta.detach().requires_grad_(t < steps)
        with torch.set_grad_enabled(t < steps):
            loss = F.cross_entropy(model(x + delta), y, reduction="none")
        better = loss.detach() > best_loss
        best[better] = (x + delta).detach()[better]
        best_loss[better] = loss.detach()[better]
        if t < steps:
            model.zero_grad()
            loss.sum().backward()
            delta = (delta.detach() + step * delta.grad.sign()).clamp(-eps, eps)
            delta = (x + delta).clamp(0, 1) - x
    return best


def robust_loss(model, x, y, eps, step, steps=20, g=None, restarts=1):
    """RLoss of every image, (N,): the highest cross-entropy over so many PGD starts."""
    worst = x.new_full((len(x),), -torch.inf)
    for _ in range(restarts):
        x_adv = pgd(model, x, y, eps, step, steps, g)
        with torch.no_grad():
            worst = torch.maximum(worst, F.cross_entropy(model(x_adv), y, reduction="none"))
    return worst


def layers(model):
    """The tensors that are perturbed: weights and biases of convolutions and linear layers."""
    kinds = (nn.Conv2d, nn.Linear)
    return [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()]


def random_direction(w, xi, g):
    """nu with ||nu_l|| = xi ||w_l|| in every layer l."""
    nu = [torch.randn(p.shape, generator=g, device=p.device) for p in w]
    return [v * (xi * p.detach().norm() / v.norm().clamp_min(1e-12)) for v, p in zip(nu, w)]


def average_flatness(model, x, y, reference, eps, step, steps=20, xi=0.5, draws=10, g=None):
    """E_nu[max_delta L(f(x + delta; w + nu), y)] - reference, Eq. (3), with fresh nu and delta in
    every draw; ``reference`` (N,) is RLoss at w.
    """
    total = x.new_zeros(len(x))
    for _ in range(draws):
        moved = deepcopy(model)
        with torch.no_grad():
            for p, v in zip(layers(moved), random_direction(layers(model), xi, g)):
                p.add_(v)
        total += robust_loss(moved, x, y, eps, step, steps, g)
    return (total / draws - reference).mean().item()


def worst_flatness(model, x, y, reference, eps, step, steps=20, xi=0.003, restarts=1, g=None):
    """max_nu max_delta L(f(x + delta; w + nu), y) - reference, Eq. (5), by joint ascent.

    One backward pass gives both gradients; nu_l moves by 0.001 ||w_l|| along its gradient and
    returns to ||nu_l|| <= xi ||w_l||, delta moves as in PGD. The worst of all starts counts.
    """
    losses = [joint_ascent(model, x, y, eps, step, steps, xi, g) for _ in range(restarts)]
    worst = max(losses, key=lambda loss: loss.mean().item())
    return (worst - reference).mean().item()


def joint_ascent(model, x, y, eps, step, steps, xi, g, weight_step=0.001):
    """One start of the search of ``worst_flatness``; the losses it ends with, (N,)."""
    w, moved = layers(model), deepcopy(model)
    shrink = [torch.rand((), generator=g, device=x.device) for _ in w]
    nu = [s * v for s, v in zip(shrink, random_direction(w, xi, g))]
    delta = random_start(x, eps, g)
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        set_weights(moved, w, nu)
        moved.zero_grad()
        F.cross_entropy(moved(x + delta), y).backward()
        with torch.no_grad():
            for v, p, q in zip(nu, w, layers(moved)):
                length = p.norm()
                v += weight_step * length * q.grad / q.grad.norm().clamp_min(1e-12)
                v *= (xi * length / v.norm().clamp_min(1e-12)).clamp_max(1)
            delta = (delta + step * delta.grad.sign()).clamp(-eps, eps)
            delta = (x + delta).clamp(0, 1) - x
    set_weights(moved, w, nu)
    with torch.no_grad():
        return F.cross_entropy(moved(x + delta), y, reduction="none")


@torch.no_grad()
def set_weights(moved, w, nu):
    """Write w + nu into the network ``moved``."""
    for q, p, v in zip(layers(moved), w, nu):
        q.copy_(p + v)


def training_step(model, optimiser, x, y, eps, step, steps=7, g=None):
    """One step of adversarial training, min_w max_delta L(f(x + delta; w), y); its loss.

    The attack sees batch norm's running statistics, the update those of the batch.
    """
    model.eval()
    x_adv = pgd(model, x, y, eps, step, steps, g)
    model.train()
    optimiser.zero_grad()
    loss = F.cross_entropy(model(x_adv), y)
    loss.backward()
    optimiser.step()
    return loss.item()


def train(model, x, y, eps, step, epochs, size, g, after_epoch=lambda epoch: None):
    """Adversarial training with PGD-7, SGD with momentum and a rate that falls three times."""
    optimiser = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(epochs):
        passed = sum(epoch >= at * epochs for at in (0.4, 0.6, 0.8))
        optimiser.param_groups[0]["lr"] = 0.05 * 0.1**passed
        for chosen in torch.randperm(len(x), generator=g).split(size):
            training_step(model, optimiser, x[chosen], y[chosen], eps, step, 7, g)
        model.eval()
        after_epoch(epoch)
    return model


def hessian_product(model, x, y):
    """v -> H v, H = d^2 L / dw^2 of the mean loss, as d(v . dL/dw)/dw; and the length of v.

    w are the layers with two or more dimensions, one after the other.
    """
    w = [p for p in layers(model) if p.ndim > 1]

    def times(v):
        loss = F.cross_entropy(model(x), y)
        gradient = torch.autograd.grad(loss, w, create_graph=True)
        flat = torch.cat([part.reshape(-1) for part in gradient])
        product = torch.autograd.grad(flat @ v, w)
        return torch.cat([part.reshape(-1) for part in product])

    return times, sum(p.numel() for p in w)


def extreme_eigenvalues(times, size, k=2, tol=1e-2, seed=0):
    """k eigenvalues from both ends of a matrix of which only the product ``times`` is known
    (Lanczos), ascending.
    """

    def matvec(v):
        return times(torch.as_tensor(v.reshape(-1), dtype=torch.float32)).detach().numpy()

    start = np.random.RandomState(seed).randn(size)
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    return eigsh(operator, k, which="BE", tol=tol, v0=start, return_eigenvectors=False)


def power_iteration(times, size, products=5, seed=0):
    """v <- H v / ||H v||, so many times; the last v . H v, which tends to the eigenvalue of largest
    size.
    """
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    for _ in range(products):
        v = v / v.norm()
        moved = times(v).detach()
        value, v = v @ moved, moved
    return float(value)
