"""What happens to weights around a gradient, each part against its formula."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch

from flatlib import AT, PGD, as_function, layers
from flatlib.losses import cross_entropy
from flatlib.streams import Streams
from flatlib.training.averages import EMA, SWA
from flatlib.training.optimisers import SGD, Adam, EntropySGD
from flatlib.training.perturbations import AWP, SAM, Unperturbed
from flatlib.training.projections import Clip
from flatlib.training.schedules import Constant, Cyclic, Steps
from flatlib.training.train import objective
from flatlib.weights import gradient

pytestmark = pytest.mark.numerical


@pytest.fixture
def problem(tiny, xy):
    """A network's layers and the loss as a function of them."""
    f, w = as_function(tiny), layers(tiny)
    return (lambda v: cross_entropy(f(v, xy.x), xy.y).mean()), w


def grads(loss, w):
    return dict(zip(w, torch.autograd.grad(loss(w), w.values())))


def test_gradient_of_some_layers(problem):
    loss, w = problem
    want = grads(loss, w)
    some = {"conv.weight": w["conv.weight"], "classify.bias": w["classify.bias"]}
    with torch.no_grad():  # as a caller may
        got = gradient(loss, w, some)
    assert set(got) == set(some)
    for k in some:
        torch.testing.assert_close(got[k], want[k])


def test_the_gradient_of_what_takes_no_part_is_zero(problem):
    loss, w = problem
    got = gradient(loss, {**w, "unused": torch.ones(2, 2)}, {"unused": None, "conv.weight": None})
    assert torch.equal(got["unused"], torch.zeros(2, 2)) and got["conv.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    "part, settings",
    [
        (AWP, {"xi": -0.1}), (AWP, {"xi": math.nan}), (SAM, {"rho": -1.0}),
        (EntropySGD, {"walk": -1}), (EntropySGD, {"walk": 1.5}), (Clip, {"w_max": 0.0}),
        (Clip, {"w_max": math.nan}), (EMA, {"tau": 1.1}), (EMA, {"tau": -0.1}),
        (SWA, {"after": 1.0}), (SWA, {"after": "0.5"}),
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings_are_named_with_their_value(part, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        part(**settings)


@pytest.mark.parametrize("xi", [0.001, 0.01, 0.3])
def test_ascend_moves_every_matrix_by_exactly_xi_along_its_gradient(problem, xi):
    loss, w = problem
    nu, g = AWP(xi)(loss, w), grads(loss, w)
    assert set(nu) == {k for k, v in w.items() if v.ndim > 1}
    for k, v in nu.items():
        assert v.norm().item() == pytest.approx(xi * w[k].norm().item(), rel=1e-5)
        assert torch.cosine_similarity(v.flatten(), g[k].flatten(), 0) > 1 - 1e-5
        assert not v.requires_grad


def test_ascend_where_gradient_or_norm_is_zero(problem):
    loss, w = problem
    w = {**w, "unused": torch.ones(2, 2), "zero": torch.zeros(2, 2)}
    nu = AWP(0.1)(lambda v: loss(v) + v["zero"].sum() + 0 * v["unused"].sum(), w)
    assert nu["unused"].abs().sum() == 0 and nu["zero"].abs().sum() == 0


def test_ascend_raises_the_loss(problem):
    loss, w = problem
    nu = AWP(0.01)(loss, w)
    assert loss({k: v + nu.get(k, 0) for k, v in w.items()}) > loss(w)


def test_sam_is_one_step_of_length_rho_over_all_layers(problem):
    loss, w = problem
    nu, g = SAM(0.05)(loss, w), grads(loss, w)
    flat, slope = (torch.cat([d[k].flatten() for k in w]) for d in (nu, g))
    assert flat.norm().item() == pytest.approx(0.05, rel=1e-5)
    torch.testing.assert_close(flat, 0.05 * slope / slope.norm())


def test_neutral_perturbations_name_no_layer(problem):
    assert Unperturbed()(*problem) == AWP(0)(*problem) == SAM(0)(*problem) == {}


@pytest.mark.parametrize("perturbation", [AWP(0.05), SAM(0.1)], ids=str)
def test_the_perturbed_gradient_is_that_of_a_model_whose_weights_were_moved(make, xy, perturbation):
    """One objective in the training step against perturb, backward and restore, in train mode."""
    net = make(activation="silu").train()
    twin = copy.deepcopy(net)
    method = replace(AT, attack=None, perturbation=perturbation)
    objective(method, net, xy, 0.0, Streams(0), {}).backward()

    cross_entropy(copy.deepcopy(twin)(xy.x), xy.y).mean()  # counts no statistics in ``twin``
    probe = copy.deepcopy(twin)
    cross_entropy(probe(xy.x), xy.y).mean().backward()
    slopes = {k: p.grad for k, p in layers(probe).items()}
    total = torch.stack([s.norm() for s in slopes.values()]).norm()
    with torch.no_grad():
        for k, p in layers(twin).items():
            if isinstance(perturbation, SAM):
                p += perturbation.rho * slopes[k] / total
            elif p.ndim > 1:
                p += perturbation.xi * p.norm() * slopes[k] / slopes[k].norm()
    cross_entropy(twin(xy.x), xy.y).mean().backward()
    for (k, p), q in zip(net.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=k)
    for (k, a), b in zip(net.named_buffers(), twin.buffers()):
        torch.testing.assert_close(a, b, msg=k)


# ---- optimisers ------------------------------------------------------------------------------


def bowl():
    """A quadratic with its minimum at (1, -2), and a parameter."""
    p = torch.nn.Parameter(torch.tensor([0.3, 0.7]))
    target, scale = torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.5])
    return p, lambda: (scale * (p - target) ** 2).sum() / 2, lambda v: scale * (v - target)


def run(part, steps=3, seed=0):
    p, loss, _ = bowl()
    optimiser = part.build([p], torch.Generator().manual_seed(seed))
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        optimiser.step(closure)
    assert calls == steps * part.calls
    return p.detach()


def test_sgd_is_nesterov_with_coupled_decay():
    p, _, slope = bowl()
    w, velocity = p.detach().clone(), torch.zeros(2)
    for _ in range(3):
        g = slope(w) + 0.1 * w
        velocity = 0.9 * velocity + g
        w = w - 0.05 * (g + 0.9 * velocity)
    torch.testing.assert_close(run(SGD(lr=0.05, decay=0.1)), w)


def test_adam_is_its_formula_with_coupled_decay():
    p, _, slope = bowl()
    w, m, v = p.detach().clone(), torch.zeros(2), torch.zeros(2)
    for t in range(1, 4):
        g = slope(w) + 0.1 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.02 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    torch.testing.assert_close(run(Adam(lr=0.02, decay=0.1)), w)


@pytest.mark.parametrize("walk", [1, 2, 5])
def test_entropy_sgd_is_its_docstring_written_out(walk):
    part = EntropySGD(walk=walk, lr=0.7, decay=0.01, gamma=0.03, noise=0.02)
    p, _, slope = bowl()
    w, g = p.detach().clone(), torch.Generator().manual_seed(0)
    for _ in range(3):
        walker, mu = w.clone(), w.clone()
        for _ in range(walk):
            thermal = part.noise / math.sqrt(0.5 * part.inner) * torch.randn(2, generator=g)
            step = slope(walker) + part.decay * walker - part.gamma * (w - walker) + thermal
            walker = walker - part.inner * step
            mu = part.keep * mu + (1 - part.keep) * walker
        w = w - part.lr * (w - mu + part.decay * w)
    torch.testing.assert_close(run(part), w)
    assert part.calls == walk


def test_entropy_sgd_without_a_walk_is_sgd():
    assert torch.equal(run(EntropySGD(walk=0, momentum=0.9)), run(SGD()))
    assert torch.equal(run(EntropySGD(walk=0)), run(SGD(momentum=0.0)))


def test_the_walk_is_random_in_its_own_generator():
    part = EntropySGD(noise=0.1)
    assert torch.equal(run(part, seed=1), run(part, seed=1))
    assert not torch.equal(run(part, seed=1), run(part, seed=2))


# ---- schedules -------------------------------------------------------------------------------


def test_steps_drop_at_their_milestones():
    at = Steps()
    rates = [at(t)["lr"] for t in (0, 0.399, 0.4, 0.599, 0.6, 0.8, 0.999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001, 0.001])
    epochs = [epoch / 150 for epoch in range(150)]  # the paper's: epochs 60, 90, 120
    drops = [e for e in range(1, 150) if at(epochs[e])["lr"] < at(epochs[e - 1])["lr"]]
    assert drops == [60, 90, 120]
    late = Steps(at=(140 / 150, 145 / 150))
    drops = [e for e in range(1, 150) if late(epochs[e])["lr"] < late(epochs[e - 1])["lr"]]
    assert drops == [140, 145]
    assert all(Steps(at=())(t) == Constant()(t) == {"lr": 1.0} for t in epochs)


@pytest.mark.parametrize("cycles", [1, 2, 4])
def test_cyclic_is_a_triangle(cycles):
    schedule = Cyclic(cycles=cycles)
    ts = [i / (400 * cycles) for i in range(400 * cycles)]
    rates, momenta = zip(*[(s["lr"], s["momentum"]) for s in map(schedule, ts)])
    one_cycle = [min(i, 400 - i) / 200 * 4.0 for i in range(400)]
    assert rates == pytest.approx(one_cycle * cycles, abs=1e-9)  # 0 -> 4 x 0.05 = 0.2 -> 0
    assert min(momenta) == pytest.approx(0.8) and max(momenta) == pytest.approx(0.9)
    assert momenta == pytest.approx([0.9 - 0.1 * r / 4 for r in rates])


def test_cyclic_is_the_librarys_cyclic_schedule():
    p = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([p], 0.05, momentum=0.9)
    theirs = torch.optim.lr_scheduler.CyclicLR(optimiser, 0.0, 0.2, step_size_up=15)
    for i in range(60):
        ours = Cyclic(cycles=2)(i / 60)
        (group,) = optimiser.param_groups
        assert 0.05 * ours["lr"] == pytest.approx(group["lr"], abs=1e-9)
        assert ours["momentum"] == pytest.approx(group["momentum"])
        optimiser.step(), theirs.step()


# ---- after and beside ------------------------------------------------------------------------


def test_clip_clamps_everything_in_place(tiny):
    before = [p.detach().clone() for p in tiny.parameters()]
    Clip(math.inf)(tiny.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.parameters()))
    Clip(0.05)(tiny.parameters())
    assert any((b.abs() > 0.05).any() for b in before)
    for b, p in zip(before, tiny.parameters()):
        assert torch.equal(p, b.clamp(-0.05, 0.05))


def weights_over_time(g, n=12):
    return [{"w": torch.randn(3, generator=g), "b": torch.randn(1, generator=g)} for _ in range(n)]


@pytest.mark.parametrize("tau", [0.0, 0.6, 0.9975])
def test_ema_in_closed_form(g, tau):
    first, *steps = weights_over_time(g)
    average, count = first, 0
    for w in steps:
        average, count = EMA(tau)(average, w, count, 0.0)
    n = len(steps)
    for k in first:
        want = tau**n * first[k]
        want = want + sum((1 - tau) * tau ** (n - 1 - i) * w[k] for i, w in enumerate(steps))
        torch.testing.assert_close(average[k], want)
    assert count == n
    assert tau or torch.equal(average["w"], steps[-1]["w"])


def test_swa_is_the_mean_of_the_epochs_from_its_start_on(g):
    first, *epochs = weights_over_time(g)
    average, count = first, 0
    for i, w in enumerate(epochs):
        average, count = SWA(after=0.5)(average, w, count, (i + 1) / 11)
        chosen = [v for j, v in enumerate(epochs[: i + 1]) if (j + 1) / 11 >= 0.5] or [w]
        for k in first:
            torch.testing.assert_close(average[k], torch.stack([v[k] for v in chosen]).mean(0))
    assert count == 6


def test_swa_keeps_values_not_the_live_weights(g):
    w = {"w": torch.zeros(2)}
    average, count = SWA(after=0.5)(w, w, 0, 0.1)
    w["w"].add_(1)
    assert average["w"].abs().sum() == 0 and count == 0


def test_parts_are_values():
    assert PGD(eps=0.1) == PGD(eps=0.1) and hash(AWP(0.1)) == hash(AWP(0.1))
    assert AWP(0.1) != SAM(0.1) and EMA() != SWA()
