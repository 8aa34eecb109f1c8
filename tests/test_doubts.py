"""What speaks against trusting an attack: each flag where it belongs, none where it does not."""

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack.square import SquareAttack
from torch import nn

from flatlib import AT, PGD, AutoAttack, evaluate
from flatlib.training.train import fit

EPS = 0.1
PGD7 = PGD(eps=EPS, steps=7)


class Wrapped(nn.Module):
    """A network with something before or behind it."""

    def __init__(self, inner, before=None, behind=None):
        super().__init__()
        self.inner, self.before, self.behind = inner, before, behind

    def forward(self, x):
        z = self.inner(x if self.before is None else self.before(x))
        return z if self.behind is None else self.behind(z)


@pytest.fixture(scope="module")
def ordinary(smoke):
    """Trained without attacks."""
    size = {"train": 400, "test": 200, "early": 100, "epochs": 20, "width": 8, "eps": EPS}
    return fit(replace(AT, attack=None), replace(smoke, name="ordinary", log_every=20, **size), 0)[0]


def doubts(model, x, y, attack=PGD7, **settings):
    return " | ".join(evaluate(model, x, y, attack, **settings).doubts)


# ---- random outputs --------------------------------------------------------------------------


def shifted(x):
    return torch.roll(x, tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))


def resized(x):
    return F.interpolate(F.interpolate(x, size=random.choice((6, 7))), size=8)


def jittered(x):
    return x + torch.as_tensor(np.random.uniform(-1 / 255, 1 / 255, x.shape), dtype=x.dtype)


RANDOM = {
    "dropout": (None, lambda z: F.dropout(z, 0.1, training=True)),
    "noise": (lambda x: x + torch.randn_like(x) / 255, None),
    "noise of NumPy": (jittered, None),
    "shift": (shifted, None),
    "resize": (resized, None),
    "mirrored half the time": (lambda x: x.flip(3) if random.random() < 0.5 else x, None),
}


@pytest.mark.parametrize("before, behind", RANDOM.values(), ids=RANDOM.keys())
def test_random_outputs_are_noticed_every_time(robust, digits, before, behind):
    model, (x, y) = Wrapped(robust, before, behind), digits.test.first(10)
    for _ in range(100):
        assert "random" in doubts(model, x, y, PGD(eps=EPS, steps=1))


def test_looking_for_doubts_leaves_random_states_alone(robust, digits):
    """With and without doubts a random model draws as much."""
    model, (x, y) = Wrapped(robust, jittered, RANDOM["dropout"][1]), digits.test.first(10)

    def states(doubts):
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        evaluate(model, x, y, PGD7, doubts=doubts)
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    assert states(True) == states(False)


# ---- the other flags -------------------------------------------------------------------------


def test_probabilities_are_not_logits(robust, digits):
    model, (x, y) = Wrapped(robust, behind=lambda z: z.softmax(1)), digits.test.first(50)
    for attack in (None, PGD7):
        assert "returns probabilities: leave the softmax out" in doubts(model, x, y, attack)
    assert "probabilities" not in doubts(Wrapped(robust, behind=torch.sigmoid), x, y, None)


def purified(model, x, by):
    """Images after a descent on the entropy, inside the forward pass."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        by(model, point)
    return x - 0.01 * point.grad.sign()


def by_backward(model, point):
    p = model(point).softmax(1)
    (-(p * p.log()).sum()).backward(inputs=[point])


def by_grad(model, point):
    p = model(point).softmax(1)
    (point.grad,) = torch.autograd.grad(-(p * p.log()).sum(), point)


@pytest.mark.parametrize("by", [by_backward, by_grad])
def test_an_optimisation_inside_the_model_is_seen(robust, digits, by):
    model = Wrapped(robust, lambda x: purified(robust, x, by))
    assert "optimisation inside the model" in doubts(model, *digits.test.first(20))


def test_gradients_switched_on_inside_are_seen(robust, digits):
    model = Wrapped(robust, behind=torch.enable_grad()(lambda z: z * 1))
    assert "optimisation inside the model" in doubts(model, *digits.test.first(20))


def test_zero_gradients_are_seen_where_logits_saturate(ordinary, digits):
    found = doubts(Wrapped(ordinary, behind=lambda z: z * 1e4), *digits.test.first(50))
    assert "zero gradient" in found and "black-box" in found


class Backwards(torch.autograd.Function):
    """The identity with a gradient that points the wrong way."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return -gradient


def misleading(x):
    return Backwards.apply(x) if x.sum() >= 0 else x  # a branch that no trace can follow


@pytest.mark.parametrize("attack", [
    PGD(eps=EPS, steps=20), AutoAttack(eps=EPS, attacks=("apgd-ce",), iterations=20),
    AutoAttack(eps=EPS, attacks=("apgd-ce", "square"), iterations=20),
], ids=["PGD", "AutoAttack", "with Square"])  # fmt: skip
def test_a_black_box_attack_that_beats_gradients_is_told(robust, digits, attack, monkeypatch):
    """By Square: uniform noise is kept out of the way."""
    perturb = SquareAttack.perturb

    def fewer(self, x, y):
        self.n_queries = min(self.n_queries, 100)
        return perturb(self, x, y)

    monkeypatch.setattr(SquareAttack, "perturb", fewer)
    monkeypatch.setattr(PGD, "random", lambda self, x, g: torch.zeros_like(x))
    model = Wrapped(robust, misleading)
    x, y = digits.test.first(40)
    assert "Square, which sees no gradients, breaks" in doubts(model, x, y, attack)
    assert "Square" not in doubts(robust, x, y, attack)


@pytest.mark.parametrize("attack", [
    PGD7, PGD(eps=EPS, steps=20, restarts=2), PGD(eps=0.03, steps=10), PGD(eps=0.5, norm="l2"),
    PGD(eps=EPS, start="zero"), AutoAttack(eps=EPS, attacks=("apgd-ce", "apgd-t"), iterations=10),
], ids=str)  # fmt: skip
def test_ordinary_models_are_not_doubted(robust, ordinary, digits, attack):
    for model in (robust, ordinary):
        for seed in range(3):
            x, y = digits.test.x[50 * seed :][:50], digits.test.y[50 * seed :][:50]
            assert doubts(model, x, y, attack, generator=torch.Generator().manual_seed(seed)) == ""


def test_a_profiler_of_the_caller_goes_on(robust, digits):
    def watch(frame, event, argument):
        return None

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        doubts(robust, *digits.test.first(5))
        assert sys.getprofile() is watch
    finally:
        sys.setprofile(before)
