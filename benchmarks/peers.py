"""Other packages that do a part of the same work; all but pyautoattack are optional.

``requirements-bench.txt`` names them. Each is called as its own documentation does.
"""

import warnings
from importlib import metadata

import torch
import torch.nn.functional as F
from torch import nn

from . import plain
from .subjects import Subject

PACKAGES = {  # column -> the name it is installed by
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "pyautoattack": "pyautoattack",
    "PyHessian": "PyHessian",
    "curvlinops": "curvlinops-for-pytorch",
}

APPLY = {  # item -> who does it too
    "pgd": ("foolbox", "torchattacks", "pyautoattack"),
    "curvature": ("PyHessian", "curvlinops"),
}


def version(peer: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(PACKAGES[peer])
    except metadata.PackageNotFoundError:
        return None


def installed(contestants: dict) -> dict:
    """Those of ``contestants`` (by column) that can run here."""
    return {name: run for name, run in contestants.items() if version(name)}


def foolbox_pgd(s: Subject, steps: int):
    """Uniform start, last iterate, and a last forward pass that tells which images fell."""
    import foolbox

    model = foolbox.PyTorchModel(s.model, bounds=(0, 1), device=s.x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=s.step, steps=steps, random_start=True)
    _, clipped, _ = attack(model, s.x, s.y, epsilons=s.eps)
    return clipped


def torchattacks_pgd(s: Subject, steps: int):
    """Uniform start, last iterate."""
    import torchattacks

    return torchattacks.PGD(s.model, eps=s.eps, alpha=s.step, steps=steps)(s.x, s.y)


def apgd(f, s: Subject, steps: int):
    """APGD-CE of AutoAttack on x -> logits ``f``, one start, so many gradients; best points."""
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(f, n_iter=steps - 1, norm="Linf", eps=s.eps, device=s.x.device)
    attack.init_hyperparam(s.x)
    with torch.random.fork_rng(devices=[s.x.device] if s.x.is_cuda else []):
        torch.manual_seed(0)
        return attack.attack_single_run(s.x, s.y)[0].detach()


def _only_layers(s: Subject) -> nn.Module:
    """A copy in which nothing but the layers of two or more dimensions is trainable."""
    model = s.copy()
    kept = {id(p) for p in plain.layers(model) if p.ndim > 1}
    for p in model.parameters():
        p.requires_grad_(id(p) in kept)
    return model


def pyhessian(s: Subject, products: int) -> tuple[float, int]:
    """Power iteration with exactly so many products; it keeps the gradient's graph for them."""
    from pyhessian import hessian

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        found = hessian(_only_layers(s), F.cross_entropy, data=(s.x, s.y), cuda=False)
        values, _ = found.eigenvalues(maxIter=products, tol=-1.0)
    return values[0], products


def curvlinops(s: Subject, products: int | None) -> tuple[float, int]:
    """The operator's product, in the same Lanczos (None) or power iteration as the others."""
    from curvlinops import HessianLinearOperator

    model = _only_layers(s)
    w = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), w, [(s.x, s.y)], check_deterministic=False,
        num_data=len(s.x),
    )  # fmt: skip
    calls = []

    def times(v):
        calls.append(None)
        return operator @ v

    if products is None:
        value = plain.extreme_eigenvalues(times, operator.shape[0]).max()
    else:
        value = plain.power_iteration(times, operator.shape[0], products)
    return float(value), len(calls)
