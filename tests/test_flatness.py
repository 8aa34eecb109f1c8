"""Average- and worst-case flatness against their equations, and what must not change them."""

import copy
import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from flatlib import (
    PGD,
    as_function,
    average_flatness,
    eigenvalues,
    evaluate,
    layers,
    slices,
    worst_flatness,
)  # fmt: skip
from flatlib.losses import cross_entropy
from flatlib.networks.parts import ReBatchNorm
from flatlib.weights import add, detached, direction, project, sample

pytestmark = pytest.mark.numerical

EPS = 0.1
FIXED = PGD(eps=EPS, steps=3, start="zero")  # draws nothing: the same attack every time


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def robust_loss(f, w, x, y, attack, g=None):
    x_adv = attack(lambda p: f(w, p), x, y, g) if attack else x
    with torch.no_grad():
        return cross_entropy(f(w, x_adv), y)


def close(got, want, tolerance=2e-4):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


# ---- the equations, naively ------------------------------------------------------------------


@pytest.mark.parametrize("attack", [None, FIXED], ids=["clean", "robust"])
@pytest.mark.parametrize("scope", ["batch", "dataset"])
def test_equation_3_in_a_loop(tiny, xy, attack, scope):
    f, w, g = as_function(tiny), detached(layers(tiny)), seeded()
    reference = robust_loss(f, w, *xy, attack)
    batches = list(zip(xy.x.split(10), xy.y.split(10)))
    losses = torch.zeros(4, 24)
    if scope == "batch":  # a fresh nu for every batch and draw
        for b, (x, y) in enumerate(batches):
            for k in range(4):
                nu = sample(w, 0.5, g)
                losses[k, 10 * b : 10 * b + 10] = robust_loss(f, add(w, nu), x, y, attack)
    else:
        for k in range(4):
            nu = sample(w, 0.5, g)
            losses[k] = torch.cat([robust_loss(f, add(w, nu), x, y, attack) for x, y in batches])
    got = average_flatness(tiny, *xy, attack, xi=0.5, n=4, generator=seeded(), scope=scope,
                           reference=reference, batch=10)  # fmt: skip
    close(got.per_example, losses.mean(0) - reference)
    assert got.value == pytest.approx(losses.mean().item() - reference.mean().item(), abs=1e-4)
    assert got.reference == pytest.approx(reference.mean().item(), rel=1e-5)
    assert got.std == pytest.approx(losses.mean(1).std(unbiased=False).item(), rel=1e-3)
    assert got.value > 0.05 and got.std > 0.01


@pytest.mark.parametrize("kind", ["clean", "paper", "matched"])
@pytest.mark.parametrize("scope", ["batch", "dataset"])
def test_equation_5_in_a_loop(make, xy, kind, scope):
    """The joint ascent written out: both gradients from one backward pass, the last pair counts. On
    the matched side of the reference the same starts climb over images alone.
    """
    net, xi, lr_w, steps, restarts = make(activation="silu"), 0.02, 0.004, 3, 2
    f, w, g = as_function(net), detached(layers(net)), seeded()
    batches = list(zip(xy.x.split(10), xy.y.split(10)))
    clean = kind == "clean"
    attack = None if clean else PGD(eps=EPS, steps=steps)
    given = robust_loss(f, w, *xy, None)

    def ascend(group):
        shrink = {k: torch.rand((), generator=g) for k in w}
        nu = {k: v * shrink[k] for k, v in sample(w, xi, g).items()}
        deltas = [torch.zeros_like(x) if clean else attack.random(x, g) for x, _ in group]
        unmoved = {k: torch.zeros_like(v) for k, v in w.items()}
        return climb(group, nu, xi, list(deltas)), climb(group, unmoved, 0.0, list(deltas))

    def climb(group, nu, xi, deltas):
        for _ in range(steps):
            for i, (x, y) in enumerate(group):
                point = (x + deltas[i]).requires_grad_()
                moved = {k: (w[k] + nu[k]).requires_grad_() for k in w}
                cross_entropy(f(moved, point), y).mean().backward()
                step = direction({k: v.grad for k, v in moved.items()}, w)
                nu = project({k: nu[k] + lr_w * step[k] for k in w}, w, xi)
                if not clean:
                    delta = (deltas[i] + attack.step * point.grad.sign()).clamp(-EPS, EPS)
                    deltas[i] = (x + delta).clamp(0, 1) - x
        with torch.no_grad():
            losses = [cross_entropy(f(add(w, nu), x + d), y) for (x, y), d in zip(group, deltas)]
            return torch.cat(losses)

    groups = [[b] for b in batches] if scope == "batch" else [batches]
    sides = [], []
    for group in groups:
        for side, tries in zip(sides, zip(*(ascend(group) for _ in range(restarts)))):
            side.append(max(tries, key=lambda loss: loss.mean()))
    worst, still = (torch.cat(side) for side in sides)
    how = {"protocol": "matched"} if kind == "matched" else {"protocol": "paper", "reference": given}
    got = worst_flatness(net, *xy, EPS, xi, steps, restarts, seeded(), lr_w=lr_w, clean=clean,
                         scope=scope, batch=10, **how)  # fmt: skip
    close(got.per_example, worst - (still if kind == "matched" else given), tolerance=2e-3)
    assert got.value > 0.01


def test_the_reference_is_the_attack_with_ten_restarts(robust, xy):
    attack = PGD(eps=EPS, steps=2)
    got = average_flatness(robust, *xy, attack, n=1, generator=seeded())
    report = evaluate(robust, *xy, replace(attack, restarts=10), seeded(), doubts=False)
    assert got.reference == pytest.approx(report.RLoss, abs=1e-3)
    assert average_flatness(robust, *xy, None, n=1).reference == pytest.approx(report.Loss)


def test_value_and_example_values_agree(robust, xy):
    for flat in (average_flatness(robust, *xy, FIXED, n=2),
                 worst_flatness(robust, *xy, EPS, steps=2, restarts=2)):  # fmt: skip
        assert flat.per_example.shape == (24,)
        assert flat.value == pytest.approx(flat.per_example.mean().item())


# ---- neutral elements ------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["batch", "dataset"])
def test_without_a_perturbation_nothing_rises(tiny, xy, scope):
    for clean in (
        average_flatness(tiny, *xy, None, xi=0, n=3, scope=scope),
        worst_flatness(tiny, *xy, xi=0, steps=3, restarts=2, scope=scope, clean=True),
        average_flatness(tiny, *xy, FIXED, xi=0, n=3, scope=scope),  # the same attack both times
    ):
        assert clean.value == pytest.approx(0, abs=1e-6)
        assert clean.per_example.abs().max() < 1e-5 and clean.std < 1e-6


@pytest.mark.parametrize("scope", ["batch", "dataset"])
def test_the_matched_worst_case_begins_at_zero_and_the_papers_below(robust, xy, scope):
    """Weights that hardly move: the search itself must add nothing."""
    how = {"steps": 4, "restarts": 3, "lr_w": 1e-9, "scope": scope, "batch": 10}
    still = worst_flatness(robust, *xy, EPS, 0.0, **how)
    assert still.value == 0 and not still.per_example.any() and still.reference > 0
    hardly = worst_flatness(robust, *xy, EPS, 1e-8, **how)
    assert hardly.value == pytest.approx(0, abs=1e-3 * still.reference)
    paper = worst_flatness(robust, *xy, EPS, 0.0, protocol="paper", **how)
    assert paper.value < -0.01 * still.reference


def test_both_protocols_share_the_search(robust, xy):
    """What they reach under moved weights is the same: the paper's value costs nothing more."""
    report = evaluate(robust, *xy, PGD(eps=EPS, steps=4, restarts=3), doubts=False)
    how = {"eps": EPS, "xi": 0.01, "steps": 4, "restarts": 2}
    given = {"protocol": "paper", "reference": report.robust_loss}
    one, two = worst_flatness(robust, *xy, **how), worst_flatness(robust, *xy, **how, **given)
    assert one.value + one.reference == pytest.approx(two.value + report.RLoss, rel=1e-5)
    assert one.std == pytest.approx(two.std) and one.reference < two.reference


def test_clean_is_no_attack(tiny, xy):
    one = average_flatness(tiny, *xy, None, n=2, generator=seeded())
    two = average_flatness(tiny, *xy, FIXED, n=2, generator=seeded(), clean=True)
    assert torch.equal(one.per_example, two.per_example) and one.std == two.std


@pytest.mark.parametrize("measure", [
    lambda m, x, y, **k: average_flatness(m, x, y, FIXED, n=3, generator=seeded(), **k),
    lambda m, x, y, **k: worst_flatness(m, x, y, EPS, 0.01, 3, 2, seeded(), protocol="paper", **k),
], ids=["average", "worst"])  # fmt: skip
def test_one_batch_is_the_data_set(tiny, xy, measure):
    reference = torch.zeros(24)
    values = [measure(tiny, *xy, scope=s, reference=reference) for s in ("batch", "dataset")]
    assert torch.equal(values[0].per_example, values[1].per_example)
    assert values[0].std == values[1].std
    split = measure(tiny, *xy, scope="batch", reference=reference, batch=10)
    assert not torch.equal(split.per_example, values[0].per_example)


# ---- order -----------------------------------------------------------------------------------


def test_the_worst_case_grows_with_the_radius(robust, xy):
    values = [
        worst_flatness(robust, *xy, xi=xi, steps=20, restarts=2, lr_w=xi / 3, clean=True).value
        for xi in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
    ]
    assert values == sorted(values) and values[-1] > 0.5


def test_the_worst_case_is_above_the_average(robust, xy):
    for xi in (0.003, 0.03, 0.1):
        average = average_flatness(robust, *xy, None, xi=xi, n=5)
        worst = worst_flatness(robust, *xy, xi=xi, steps=15, restarts=2, lr_w=xi / 3, clean=True)
        assert worst.value > max(average.value + average.std, 0)


def test_the_robust_worst_case_is_above_the_reference_and_more_restarts_never_lower_it(robust, xy):
    reference = evaluate(robust, *xy, PGD(eps=EPS, steps=10, restarts=3), doubts=False).robust_loss
    one, many = (worst_flatness(robust, *xy, EPS, 0.03, 10, r, seeded(), lr_w=0.01, protocol="paper",
                                reference=reference).value for r in (1, 4))  # fmt: skip
    assert many >= one > 0


# ---- invariances -----------------------------------------------------------------------------


def rescaled(net, factor):
    """Convolutions times a factor each, their batch norm's statistics to match: the same function
    but for the ``eps`` of batch norm (Stutz et al. 2021, App. C)."""
    net = copy.deepcopy(net)
    pairs = [(net.conv, net.norm)]
    for block in net.blocks:
        pairs += [(block.conv1, block.norm1), (block.conv2, block.norm2)]
        if isinstance(block.shortcut, nn.Sequential):
            pairs.append(tuple(block.shortcut))
    with torch.no_grad():
        for i, (conv, norm) in enumerate(pairs):
            s = factor * (1 + i / 10)
            conv.weight.mul_(s)
            if conv.bias is not None:
                conv.bias.mul_(s)
            norm.running_mean.mul_(s), norm.running_var.mul_(s * s)
    return net


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_rescaling_layers_changes_neither_robustness_nor_flatness(make, xy, factor):
    net = make((1, 2)).double()
    for norm in (m for m in net.modules() if isinstance(m, ReBatchNorm)):
        norm.eps = 0.0
    x, y, other = xy.x.double(), xy.y, rescaled(net, factor)
    torch.testing.assert_close(other(x), net(x), rtol=1e-9, atol=1e-9)

    def measured(model):
        average = average_flatness(model, x, y, FIXED, n=2, generator=seeded())
        worst = worst_flatness(model, x, y, EPS, 0.02, 5, 2, seeded(), lr_w=0.005)
        return average, worst

    for a, b in zip(measured(net), measured(other)):
        assert (a.value, a.std, a.reference) == pytest.approx((b.value, b.std, b.reference), 1e-5)
        close(a.per_example, b.per_example, tolerance=1e-5)
        assert abs(a.value) > 1e-2


def test_zero_tensors_give_no_nan(make, xy):
    net = make()
    nn.init.zeros_(net.conv.bias), nn.init.zeros_(net.blocks[1].shortcut[0].bias)
    nn.init.zeros_(net.classify.bias)
    for flat in (average_flatness(net, *xy, FIXED, n=2),
                 worst_flatness(net, *xy, EPS, 0.01, 3, 2)):  # fmt: skip
        assert torch.isfinite(flat.per_example).all() and flat.value > 0


def test_the_model_is_left_as_it_was(tiny, xy):
    tiny.train()
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    average_flatness(tiny, *xy, FIXED, n=2)
    worst_flatness(tiny, *xy, EPS, 0.01, 2, 2)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    assert all(p.grad is None for p in tiny.parameters()) and tiny.training


def test_train_and_eval_mode_measure_the_same(make, xy):
    values = [average_flatness(make().train(mode), *xy, FIXED, n=2).value for mode in (True, False)]
    assert values[0] == values[1]


def test_the_generator_decides_and_is_seed_0_by_default(tiny, xy):
    a, b, c = (average_flatness(tiny, *xy, FIXED, n=2, generator=g).value
               for g in (None, seeded(0), seeded(1)))  # fmt: skip
    assert a == b != c


def test_any_attack_will_do(robust, xy):
    """An attack of one's own, without restarts: a function of (f, x, y, g)."""

    def brighten(f, x, y, g):
        return (x + EPS).clamp(0, 1)

    flat = average_flatness(robust, *xy, brighten, n=2)
    assert flat.reference == pytest.approx(evaluate(robust, *xy, brighten, doubts=False).RLoss,
                                           rel=1e-4)  # fmt: skip


class WithUnused(nn.Module):
    """A network with a convolution that takes no part, as networks of RobustBench have."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.unused = inner, nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "robust"])
def test_weights_that_take_no_part_are_no_obstacle(make, xy, clean):
    net = WithUnused(make(activation="silu"))
    flat = worst_flatness(net, *xy, EPS, 0.02, 3, 1, lr_w=0.004, clean=clean)
    assert torch.isfinite(flat.per_example).all() and flat.value > 0.01


def test_an_attack_with_more_restarts_keeps_them_in_the_reference(tiny, xy):
    asked = []

    @dataclass(frozen=True)
    class Counted(PGD):
        def __call__(self, f, x, y, g=None):
            asked.append(self.restarts)
            return x

    for restarts, reference in ((1, 10), (12, 12)):
        asked.clear()
        average_flatness(tiny, *xy, Counted(eps=EPS, restarts=restarts), n=1)
        assert asked == [reference, restarts]


# ---- what is refused -------------------------------------------------------------------------


@dataclass
class Counting:
    """An attack that must not be reached."""

    calls: int = 0

    def __call__(self, f, x, y, g=None):
        self.calls += 1
        return x


@pytest.mark.parametrize("xi", [-0.1, float("nan"), float("inf"), "0.5"])
def test_a_bad_radius_is_named(tiny, xy, xi):
    for measure in (lambda: average_flatness(tiny, *xy, FIXED, xi=xi),
                    lambda: worst_flatness(tiny, *xy, xi=xi)):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(f"xi={xi!r}")):
            measure()


@pytest.mark.parametrize("settings", [
    {"n": 0}, {"scope": "epoch"}, {"batch": 0}, {"reference": torch.zeros(23)},
], ids=str)  # fmt: skip
def test_bad_settings_are_refused_before_any_work(tiny, xy, settings):
    ((name, value),), attack = settings.items(), Counting()
    shown = name if name == "reference" else re.escape(f"{name}={value!r}")
    with pytest.raises(ValueError, match=shown):
        average_flatness(tiny, *xy, attack, **settings)
    assert attack.calls == 0


@pytest.mark.parametrize(
    "reference, said",
    [
        (torch.zeros(24, dtype=torch.long), "float.*int64"),
        (torch.zeros(24, device="meta"), "meta.*cpu"),
        (torch.full((24,), float("nan")), "24 values are not finite"),
        (torch.zeros(24, 1), r"\(24,\).*\(24, 1\)"),
    ],
    ids=["whole numbers", "elsewhere", "nan", "shape"],
)
def test_a_bad_reference_is_refused_before_any_work(tiny, xy, reference, said):
    attack = Counting()
    for measure in (lambda: average_flatness(tiny, *xy, attack, reference=reference),
                    lambda: worst_flatness(tiny, *xy, protocol="paper", reference=reference)):
        with pytest.raises(ValueError, match=f"reference.*{said}"):
            measure()
    assert attack.calls == 0


@dataclass(frozen=True)
class TooFar:
    eps: float = EPS

    def __call__(self, f, x, y, g=None):
        return (x + 2 * self.eps).clamp(0, 1)


def test_an_attack_that_breaks_its_contract_is_refused(tiny, xy):
    for measure in (lambda: average_flatness(tiny, *xy, TooFar(), n=1, reference=torch.zeros(24)),
                    lambda: slices(tiny, *xy, TooFar(), n=1, points=2)):  # fmt: skip
        with pytest.raises(ValueError, match="TooFar.*more than eps = 0.1"):
            measure()


@pytest.mark.parametrize("name", ["average", "worst", "slices", "eigenvalues"])
def test_a_model_without_trainable_weights_is_refused(make, xy, name):
    measure = {
        "average": lambda m: average_flatness(m, *xy, None),
        "worst": lambda m: worst_flatness(m, *xy, clean=True),
        "slices": lambda m: slices(m, *xy, None),
        "eigenvalues": lambda m: eigenvalues(m, *xy),
    }[name]
    with pytest.raises(ValueError, match="no weights to perturb.*requires_grad_"):
        measure(make().requires_grad_(False))


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"restarts": 0}, {"lr_w": -1.0}, {"eps": -0.1}, {"lr": float("nan")}],
    ids=str,
)
def test_bad_settings_of_the_worst_case(tiny, xy, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        worst_flatness(tiny, *xy, **settings)


def test_bf16_is_for_steps_only_what_is_reported_is_float32(tiny, xy):
    x, y = xy
    with torch.no_grad():
        clean = cross_entropy(tiny(x), y)
    still = {"xi": 0.0, "reference": clean, "precision": "bf16"}
    for flat in (
        average_flatness(tiny, x, y, PGD(eps=0.0), n=1, **still),
        worst_flatness(tiny, x, y, eps=0.0, steps=1, restarts=1, protocol="paper", **still),
    ):
        assert flat.per_example.dtype == torch.float32 and flat.per_example.abs().max() < 1e-5
