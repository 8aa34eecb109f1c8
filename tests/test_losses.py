"""Losses against naive transcriptions of their formulas."""

import math

import pytest
import torch
from torch import nn

from flatlib.losses import (
    Adversarial,
    Mart,
    Rotation,
    Trades,
    cross_entropy,
    guessing,
    kl,
    own_task,
)
from flatlib.training.methods import Batch, Exact, Noise, Smooth

pytestmark = pytest.mark.numerical

N, K = 12, 5


@pytest.fixture
def logits(g):
    return [3 * torch.randn(N, K, generator=g, dtype=torch.float64) for _ in range(2)]


@pytest.fixture
def batch(g, logits):
    """Images are stand-ins: ``f`` below maps x to the first logits, x_adv to the second."""
    y = torch.randint(K, (N,), generator=g)
    target = Smooth(0.3)(y, K, g).double()
    return Batch(torch.zeros(1), torch.ones(1), y, target, 0.0)


@pytest.fixture
def f(logits):
    calls = []

    def forward(x):
        calls.append(int(x.sum()))
        return logits[calls[-1]]

    forward.calls = calls
    return forward


def softmax(z):
    e = [math.exp(float(v)) for v in z]
    return [v / sum(e) for v in e]


def naive_ce(z, target):
    return -sum(float(t) * math.log(p) for t, p in zip(target, softmax(z)))


def naive_kl(z, other):
    return sum(p * math.log(p / q) for p, q in zip(softmax(z), softmax(other)))


def close(got, want):
    torch.testing.assert_close(got, torch.tensor(want, dtype=got.dtype), rtol=1e-9, atol=1e-9)


def test_cross_entropy_with_probabilities_and_with_classes(logits, batch):
    close(cross_entropy(logits[0], batch.target), [*map(naive_ce, logits[0], batch.target)])
    hot = Exact()(batch.y, K, None).double()
    close(cross_entropy(logits[0], batch.y), [*map(naive_ce, logits[0], hot)])


def test_kl(logits):
    close(kl(*logits), [*map(naive_kl, *logits)])
    assert kl(logits[0], logits[0]).abs().max() < 1e-15 and (kl(*logits) > 0).all()
    assert not torch.allclose(kl(*logits), kl(*reversed(logits)))


def test_kl_of_extreme_logits_is_finite():
    z = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = kl(z, -z.detach())
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(z.grad).all()


def test_adversarial_is_cross_entropy_on_x_adv_alone(f, batch, logits):
    close(Adversarial()(f, batch), [*map(naive_ce, logits[1], batch.target)])
    assert f.calls == [1]


def test_trades_transcribed(f, batch, logits):
    want = [naive_ce(z, t) + 2.5 * naive_kl(z, a) for z, a, t in zip(*logits, batch.target)]
    close(Trades(2.5)(f, batch), want)
    assert f.calls == [0, 1]  # clean first: the order in which batch norm sees them


def test_trades_without_its_second_term_is_clean_cross_entropy(f, batch, logits):
    assert torch.equal(Trades(0.0)(f, batch), cross_entropy(logits[0], batch.target))


def test_mart_transcribed(f, batch, logits):
    want = []
    for z, a, y, target in zip(*logits, batch.y.tolist(), batch.target):
        p, p_adv = softmax(z), softmax(a)
        rival = max(q for k, q in enumerate(p_adv) if k != y)
        bce = naive_ce(a, target) - math.log(1.0001 - rival + 1e-12)
        want.append(bce + 2.5 * naive_kl(z, a) * (1.0000001 - p[y]))
    close(Mart(2.5)(f, batch), want)
    assert f.calls == [0, 1]


def test_the_weight_of_mart_carries_gradient(logits, batch):
    z, a = logits[0].clone().requires_grad_(), logits[1]

    def loss(clean):
        return Mart(2.5)(lambda x: a if x.sum() else clean, batch).sum()

    (got,) = torch.autograd.grad(loss(z), z)
    step, want = 1e-6, torch.zeros_like(z)
    for i in range(N):
        for k in range(K):
            e = torch.zeros_like(z)
            e[i, k] = step
            want[i, k] = (loss(z.detach() + e) - loss(z.detach() - e)) / (2 * step)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def rotation_batch(g):
    y = torch.tensor([0, 4, 2, K, K + 3, K + 1, K + 1])
    x = torch.rand(len(y), 3, generator=g)
    return Batch(x, x, y, torch.zeros(len(y), K + 4), 0.0), nn.Linear(3, K + 4)


def test_rotation_is_two_means_naively(g):
    batch, net = rotation_batch(g)
    z = net(batch.x_adv).detach()
    classes = [naive_ce(z[i, :K], torch.eye(K)[batch.y[i]]) for i in range(3)]
    turned = [naive_ce(z[i, K:], torch.eye(4)[batch.y[i] - K]) for i in range(3, 7)]
    want = sum(classes) / 3 + 2.5 * sum(turned) / 4
    assert Rotation(2.5)(net, batch).mean().item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("part", [slice(0, 3), slice(3, 7)])
def test_rotation_with_one_task_only_is_that_tasks_mean(g, part):
    batch, net = rotation_batch(g)
    one = Batch(*(v[part] for v in batch[:4]), 0.0)
    weight = 1.0 if part.start == 0 else 2.5
    mean = cross_entropy(own_task(net(one.x_adv), one.y), one.y).mean().item()
    assert Rotation(2.5)(net, one).mean().item() == pytest.approx(weight * mean, rel=1e-6)


def test_masked_logits_have_finite_gradients_confined_to_their_task(g):
    batch, net = rotation_batch(g)
    z = net(batch.x).detach().requires_grad_()
    Rotation(2.5)(lambda x: z, batch).sum().backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad[:3, K:] == 0).all() and (z.grad[3:, :K] == 0).all()
    assert (z.grad[:3, :K] != 0).all() and (z.grad[3:, K:] != 0).all()


def test_smoothing_is_its_formula_and_neutral_at_zero(g):
    y = torch.tensor([2, 0])
    want = torch.full((2, 4), 0.4 / 4)
    want[0, 2] += 0.6
    want[1, 0] += 0.6
    torch.testing.assert_close(Smooth(0.4)(y, 4, g), want)
    assert torch.equal(Smooth(0.0)(y, 4, g), Exact()(y, 4, g))
    assert torch.equal(Noise(0.0)(y, 4, g), Exact()(y, 4, g))


def test_smoothing_is_the_mean_of_noise(g):
    y = torch.arange(K).repeat_interleave(4000)
    mean = Noise(0.3)(y, K, g).view(K, 4000, K).mean(1)
    want = Smooth(0.3)(torch.arange(K), K, g)
    assert ((mean - want).abs() < 5 * (want * (1 - want) / 4000).sqrt()).all()


@pytest.mark.parametrize("tau", [0.1, 0.3, 1.0])
def test_noise_really_flips_its_share_and_never_leaves_a_row_unlabelled(g, tau):
    y = torch.randint(10, (20_000,), generator=g)
    target = Noise(tau)(y, 10, g)
    assert set(target.unique().tolist()) == {0.0, 1.0} and (target.sum(1) == 1).all()
    flipped = (target.argmax(1) != y).double().mean().item()
    expected = tau * 9 / 10  # a tenth of the flips returns the true label
    assert abs(flipped - expected) < 5 * (expected * (1 - expected) / 20_000) ** 0.5


@pytest.mark.parametrize("kind", [Trades, Mart, Rotation])
@pytest.mark.parametrize("lam", [-1.0, float("nan"), "6"])
def test_a_bad_weight_is_named(kind, lam):
    with pytest.raises(ValueError, match=f"lam={lam!r}"):
        kind(lam)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_guessing_costs_what_equal_logits_cost(classes):
    z, y = torch.zeros(1, classes), torch.tensor([1])
    assert guessing(classes) == pytest.approx(cross_entropy(z, y).item())
