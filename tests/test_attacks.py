"""PGD and the AutoAttack adapter against linear models, hand-computed steps and each other."""

import random
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flatlib import PGD, AutoAttack, evaluate
from flatlib.attacks.attack import Attack, Threat, declared
from flatlib.attacks.pgd import PAPER_STEP, IgnoreIncorrect, PerTask, PreventLeaking
from flatlib.losses import cross_entropy, kl, own_task

pytestmark = pytest.mark.numerical

EPS = 0.1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def losses(f, x, y):
    with torch.no_grad():
        return cross_entropy(f(x), y)


@pytest.fixture
def linear(g):
    """f(x) = W x on 2x4x4 images, two classes, and images away from the borders of [0, 1]."""
    w = torch.randn(2, 32, generator=g)
    x = 0.4 + 0.2 * torch.rand(10, 2, 4, 4, generator=g)
    return w, lambda p: p.flatten(1) @ w.T, x, torch.arange(10) % 2


def test_one_step_is_the_step_computed_by_hand(linear):
    w, f, x, y = linear
    p = f(x).softmax(1)
    p[torch.arange(10), y] -= 1  # dCE/dz
    gradient = (p @ w).view_as(x)
    x_adv = PGD(eps=EPS, steps=1, lr=0.03, start="zero", keep="last")(f, x, y)
    torch.testing.assert_close(x_adv, x + 0.03 * gradient.sign())
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x_adv = PGD(eps=EPS, steps=1, lr=0.03, norm="l2", start="zero", keep="last")(f, x, y)
    torch.testing.assert_close(x_adv, x + 0.03 * gradient / length)


def test_the_last_iterate_is_the_loop_written_out(tiny, xy):
    x, y = xy
    delta = torch.zeros_like(x)
    for _ in range(4):
        point = (x + delta).requires_grad_()
        cross_entropy(tiny(point), y).mean().backward()
        delta = (delta + 0.04 * point.grad.sign()).clamp(-EPS, EPS)
        delta = (x + delta).clamp(0, 1) - x
    got = PGD(eps=EPS, steps=4, lr=0.04, start="zero", keep="last")(tiny, x, y)
    torch.testing.assert_close(got, x + delta)


@pytest.mark.parametrize("start", ["radial", "uniform", "zero"])
@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])
def test_a_linear_model_is_moved_as_far_as_it_can_be(linear, start, norm, dual):
    w, f, x, y = linear
    x_adv = PGD(eps=EPS, steps=40, lr=0.02, norm=norm, start=start)(f, x, y, seeded())
    margin = (f(x_adv) - f(x)) @ torch.tensor([-1.0, 1.0]) * (1 - 2 * y)
    best = EPS * torch.linalg.vector_norm(w[1] - w[0], dual)
    torch.testing.assert_close(margin, best.expand(10), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"start": "uniform"}, {"start": "zero"}, {"norm": "l2"},
        {"norm": "l2", "start": "uniform"},
        {"maximise": "kl"}, {"keep": "last"}, {"tau": 0}, {"tau": 2}, {"steps": 0}, {"lr": 5.0},
    ],
    ids=str,
)  # fmt: skip
def test_bounds_hold(tiny, xy, settings):
    attack = replace(PGD(eps=0.3, steps=3, restarts=2), **settings)
    x_adv = attack(tiny, xy.x, xy.y, seeded())
    assert x_adv.shape == xy.x.shape and x_adv.dtype == xy.x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    order = 2 if attack.norm == "l2" else float("inf")
    size = torch.linalg.vector_norm((x_adv - xy.x).flatten(1), order, dim=1)
    assert (size <= 0.3 + 1e-6).all() and size.max() > 0.01


def test_the_best_iterate_is_never_worse_than_the_last_or_the_start(tiny, xy):
    attack = PGD(eps=0.3, steps=6, lr=0.2)  # so large a step that PGD jumps about
    best = losses(tiny, attack(tiny, *xy, seeded()), xy.y)
    last = losses(tiny, replace(attack, keep="last")(tiny, *xy, seeded()), xy.y)
    first = losses(tiny, replace(attack, steps=0)(tiny, *xy, seeded()), xy.y)
    assert (best >= last - 1e-6).all() and (best > last + 1e-3).any()
    assert (best >= first - 1e-6).all()
    from_clean = replace(attack, start="zero")(tiny, *xy)
    assert (losses(tiny, from_clean, xy.y) >= losses(tiny, *xy) - 1e-6).all()


@pytest.mark.parametrize("settings", [{}, {"norm": "l2", "eps": 1.0}, {"maximise": "kl"}], ids=str)
def test_more_steps_and_restarts_never_lose_loss(robust, xy, settings):
    attack = replace(PGD(eps=EPS, steps=2), **settings)
    clean = robust(xy.x).detach()

    def value(**more):
        z = robust(replace(attack, **more)(robust, *xy, seeded())).detach()
        return cross_entropy(z, xy.y) if attack.maximise == "ce" else kl(clean, z)

    one, steps, restarts = value(), value(steps=8), value(restarts=4)
    assert (steps >= one - 1e-6).all() and steps.mean() > one.mean()
    assert (restarts >= one - 1e-6).all() and restarts.mean() > one.mean()


def test_restarts_are_the_worst_of_independent_starts(tiny, xy):
    attack, g = PGD(eps=EPS, steps=2), seeded()
    singles = torch.stack([losses(tiny, attack(tiny, *xy, g), xy.y) for _ in range(4)])
    together = losses(tiny, replace(attack, restarts=4)(tiny, *xy, seeded()), xy.y)
    torch.testing.assert_close(together, singles.amax(0))
    assert len(set(singles.argmax(0).tolist())) > 1


@pytest.mark.parametrize("settings", [{}, {"norm": "l2"}, {"maximise": "kl"}, {"tau": 1}])
def test_stacked_restarts_are_restarts_one_after_the_other(tiny, xy, monkeypatch, settings):
    attack = PGD(eps=0.1, steps=4, restarts=5, **settings)
    found = []
    for pixels in (0, 2 * xy[0].numel(), 2**30):  # one, two, all at once
        monkeypatch.setattr("flatlib.attacks.pgd.STACKED", pixels)
        g = torch.Generator().manual_seed(3)
        starts = list(attack.starts(tiny, *xy, g))
        assert len(starts) == 5 and all(x.shape == xy[0].shape for x, _ in starts)
        found.append(starts)
    for others in found[1:]:
        for (x, loss), (other, same) in zip(found[0], others):
            torch.testing.assert_close(loss, same, rtol=1e-4, atol=1e-5)
            assert (x - other).abs().flatten(1).amax(1).lt(1e-5).float().mean() > 0.9  # signs of ~0


def test_no_gradient_is_taken_that_no_step_needs(tiny, xy):
    calls = []

    def f(x):
        calls.append(x.requires_grad)
        return tiny(x)

    PGD(steps=3)(f, *xy)
    assert calls == [True, True, True, False]


def test_breaking_finds_at_least_the_errors_that_the_best_iterate_has(robust, xy):
    attack, seed = PGD(eps=0.1, steps=7), torch.Generator().manual_seed
    with torch.no_grad():
        best = robust(attack(robust, *xy, seed(0))).argmax(1) != xy[1]
        points = attack.breaking(robust, *xy, seed(0))
        broken = robust(points).argmax(1) != xy[1]
    assert (
        ((points - xy[0]).abs() <= 0.1 + 1e-6).all() and (0 <= points).all() and (points <= 1).all()
    )
    assert best.any() and not broken.all() and (broken | ~best).all()


def test_what_is_broken_takes_no_further_part(robust, xy):
    sizes = []

    def f(x):
        sizes.append(len(x))
        return robust(x)

    with torch.enable_grad():
        points = PGD(eps=0.2, steps=6).breaking(f, *xy, torch.Generator().manual_seed(0))
    broken = robust(points).argmax(1) != xy[1]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < len(xy[0])
    assert sizes[-1] >= int((~broken).sum())


def test_the_radial_start_has_uniform_length_and_gaussian_direction():
    x = torch.full((4000, 1, 4, 4), 0.5)
    delta = PGD(eps=0.2).random(x, seeded())
    size = delta.flatten(1).abs().amax(1)
    counts = torch.histc(size, 10, 0, 0.2)
    assert counts.sum() == 4000 and ((counts - 400).abs() < 5 * 360**0.5).all()
    assert 0.3 < delta.abs().mean() / size.mean() < 0.6  # not all pixels at the border


def test_the_other_starts(xy):
    x = torch.full((4000, 1, 2, 2), 0.5)
    uniform = PGD(eps=0.2, start="uniform").random(x, seeded())
    assert ((torch.histc(uniform, 10, -0.2, 0.2) - 1600).abs() < 5 * 1440**0.5).all()
    ball = PGD(eps=0.2, start="uniform", norm="l2").random(x, seeded()).flatten(1).norm(dim=1)
    volume = (ball / 0.2) ** 4  # uniform in a four-dimensional ball: r^4 is uniform
    assert ((torch.histc(volume, 10, 0, 1) - 400).abs() < 5 * 360**0.5).all()
    assert PGD(start="zero").random(xy.x, None).abs().sum() == 0


def test_the_step_scales_with_the_radius_unless_given():
    assert PGD(eps=8 / 255).step == pytest.approx(0.007)
    assert PGD(eps=0.2).step == pytest.approx(0.2 * PAPER_STEP) and PGD(eps=0.2, lr=0.5).step == 0.5


def test_an_attack_is_decided_by_its_generator_and_leaves_the_global_one(tiny, xy):
    attack, before = PGD(eps=EPS, steps=2, restarts=2), torch.get_rng_state()
    one, two, other = (attack(tiny, *xy, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_attacking_leaves_no_gradients_and_works_inside_no_grad(tiny, xy):
    attack = PGD(eps=EPS, steps=2)
    outside = attack(tiny, *xy, seeded())
    assert all(p.grad is None for p in tiny.parameters())
    with torch.no_grad():
        assert torch.equal(attack(tiny, *xy, seeded()), outside)


def test_radius_zero_gives_the_images_back(tiny, xy):
    x_adv = PGD(eps=0)(tiny, *xy)
    assert torch.equal(x_adv, xy.x) and x_adv is not xy.x


def test_kl_is_maximised_whatever_the_labels(robust, xy):
    attack = PGD(eps=EPS, steps=5, maximise="kl")
    x_adv = attack(robust, *xy, seeded())
    assert torch.equal(x_adv, attack(robust, xy.x, (xy.y + 1) % 10, seeded()))
    start = replace(attack, steps=0)(robust, *xy, seeded())
    value = [kl(robust(xy.x), robust(v)).detach() for v in (start, x_adv)]
    assert (value[1] >= value[0] - 1e-6).all() and value[1].mean() > 10 * value[0].mean()


def test_one_step_on_kl_is_the_step_computed_by_hand(linear):
    w, f, x, y = linear
    attack = PGD(eps=EPS, steps=1, lr=0.03, maximise="kl", keep="last")
    start = replace(attack, steps=0)(f, x, y, seeded())
    gradient = ((f(start).softmax(1) - f(x).softmax(1)) @ w).view_as(x)  # dKL(p || q)/dz = q - p
    want = x + (start - x + 0.03 * gradient.sign()).clamp(-EPS, EPS)
    torch.testing.assert_close(attack(f, x, y, seeded()), want)


class Recorder:
    """A network that remembers what it was asked, with (loss, misclassified) of every call."""

    def __init__(self, f, y):
        self.f, self.y, self.calls = f, y, []

    def __call__(self, x):
        z = self.f(x)
        value = cross_entropy(z.detach(), self.y)
        self.calls.append((x.detach().clone(), value, z.detach().argmax(1) != self.y))
        return z


@pytest.mark.parametrize("tau", [0, 1, 3])
def test_tau_keeps_the_first_improving_misclassified_iterates_naively(robust, xy, tau):
    f = Recorder(robust, xy.y)
    x_adv = PGD(eps=0.12, steps=7, tau=tau)(f, *xy, seeded())
    assert len(f.calls) == 8
    flipped = 0
    for i in range(len(xy.y)):
        kept, best, left = xy.x[i], -float("inf"), tau
        for point, value, wrong in f.calls:
            if wrong[i] and value[i] > best and left >= 0:
                kept, best, left = point[i], value[i], left - 1
        assert torch.equal(x_adv[i], kept)
        flipped += best > -float("inf")
    assert 0 < flipped < len(xy.y)  # some never flip, and stay clean


def test_tau_may_keep_the_last_iterate_of_what_never_flips(robust, xy):
    f = Recorder(robust, xy.y)
    clean = PGD(eps=0.12, steps=7, tau=0)(robust, *xy, seeded())
    last = PGD(eps=0.12, steps=7, tau=0, keep="last")(f, *xy, seeded())
    end, value, _ = f.calls[-1]
    never = ~torch.stack([wrong for *_, wrong in f.calls]).any(0)
    assert never.any() and torch.equal(last[~never], clean[~never])
    assert torch.equal(last[never], end[never]) and torch.equal(clean[never], xy.x[never])
    attack = PGD(eps=0.12, steps=7, tau=0, keep="last")
    ((_, losses),) = attack.starts(robust, *xy, seeded())
    torch.testing.assert_close(losses[never], value[never])


def test_a_patient_tau_is_plain_pgd_on_what_flips(robust, xy):
    patient = PGD(eps=0.12, steps=7, tau=100)(robust, *xy, seeded())
    plain = PGD(eps=0.12, steps=7)(robust, *xy, seeded())
    flips = robust(patient).argmax(1) != xy.y
    assert torch.equal(patient[flips], plain[flips]) and flips.any() and not flips.all()


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": -0.1}, {"eps": float("nan")}, {"eps": float("inf")}, {"eps": "8/255"}, {"lr": -1.0},
        {"lr": float("nan")}, {"steps": -1}, {"steps": 2.5}, {"restarts": 0}, {"norm": "l1"},
        {"start": "random"}, {"maximise": "dlr"}, {"keep": "first"}, {"tau": -1}, {"tau": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_bad_parameters_are_named_with_their_value(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        PGD(**settings)


class TestPerTask:
    """Classes and rotations attacked each through its own logits."""

    @pytest.fixture
    def both(self, g, xy):
        y = xy.y.clone()
        y[12:] = 10 + torch.arange(12) % 4
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 14))
        return net, xy.x, y

    def test_each_example_goes_through_its_own_logits(self, both):
        net, x, y = both
        attack = PGD(eps=EPS, steps=3, start="zero")
        x_adv = PerTask(attack, clean=0.0)(net, x, y, seeded())
        classes = attack(lambda p: net(p)[:, :10], x[:12], y[:12])
        turned = attack(lambda p: net(p)[:, 10:], x[12:], y[12:] - 10)
        torch.testing.assert_close(x_adv, torch.cat([classes, turned]))

    def test_the_clean_share_stays(self, both):
        net, x, y = both
        attack = PGD(eps=EPS, steps=3)
        assert torch.equal(PerTask(attack, clean=1.0)(net, x, y, seeded()), x)
        many = (x.repeat(50, 1, 1, 1), y.repeat(50))
        x_adv = PerTask(replace(attack, steps=0), clean=0.3)(net, *many, seeded())
        untouched = (x_adv == many[0]).flatten(1).all(1).double().mean().item()
        assert abs(untouched - 0.3) < 5 * (0.21 / 1200) ** 0.5

    def test_restarts_are_those_of_each_task(self, both):
        net, x, y = both
        attack = PGD(eps=EPS, steps=2, restarts=3)
        got = PerTask(attack, clean=0.0)(net, x, y, seeded())
        g = seeded()
        torch.rand(len(x), generator=g)  # which images stay clean
        want = attack(lambda p: own_task(net(p), y.repeat(len(p) // len(y))), x, y, g)
        torch.testing.assert_close(got, want)
        PerTask(attack)(net, x, y, seeded())  # some images of both tasks

    @pytest.mark.parametrize("clean", [-0.1, 1.1, float("nan")])
    def test_a_bad_share_is_named(self, clean):
        with pytest.raises(ValueError, match=f"clean={clean!r}"):
            PerTask(clean=clean, attack=PGD())

    def test_the_loss_rises_on_both_tasks(self, both):
        net, x, y = both
        x_adv = PerTask(PGD(eps=EPS, steps=3), clean=0.0)(net, x, y, seeded())
        before, after = (cross_entropy(own_task(net(v), y), y) for v in (x, x_adv))
        assert (after > before).all()


@pytest.mark.parametrize("known", [True, False], ids=["told", "asked"])
def test_misclassified_images_are_given_back_when_ignored(robust, digits, known):
    x, y = digits.test.first(100)
    predicted = (y + (torch.arange(100) < 30)) % 10 if known else robust(x).argmax(1)
    given = {"predicted": predicted} if known else {}
    attack = PGD(eps=EPS, steps=2)
    x_adv = IgnoreIncorrect(attack)(robust, x, y, seeded(), **given)
    right, attacked = predicted == y, attack(robust, x, y, seeded())
    assert torch.equal(x_adv[right], attacked[right]) and torch.equal(x_adv[~right], x[~right])
    assert right.any() and not right.all()


@pytest.mark.parametrize("known", [True, False], ids=["told", "asked"])
def test_the_predicted_class_is_attacked_against_leaking(robust, digits, known):
    x, y = digits.test.first(100)
    predicted = (y + 3) % 10 if known else robust(x).argmax(1)
    given = {"predicted": predicted} if known else {}
    attack = PGD(eps=EPS, steps=2)
    x_adv = PreventLeaking(attack)(robust, x, y, seeded(), **given)
    assert torch.equal(x_adv, attack(robust, x, predicted, seeded()))
    assert not torch.equal(x_adv, attack(robust, x, y, seeded()))


class TestAutoAttack:
    """The adapter to pyautoattack."""

    QUICK = AutoAttack(eps=EPS, attacks=("apgd-ce", "apgd-t"), iterations=20, targets=3)

    def test_it_breaks_at_least_what_pgd_breaks_up_to_a_few(self, robust, digits):
        x, y = digits.test.first(80)
        aa = evaluate(robust, x, y, self.QUICK, batch=80)
        pgd = evaluate(robust, x, y, PGD(eps=EPS, steps=20, restarts=2), seeded())
        assert aa.Err < pgd.RErr <= aa.RErr + 2 / 80
        assert torch.equal(aa.robust_wrong | aa.wrong, aa.robust_wrong)

    def test_all_four_attacks_run_and_what_holds_comes_back_clean(self, robust, digits):
        x, y = digits.test.first(12)
        attack = replace(self.QUICK, attacks=AutoAttack.attacks, iterations=3)
        x_adv = attack(robust, x, y)
        broken = robust(x_adv).argmax(1) != y
        assert torch.equal(x_adv[~broken], x[~broken]) and broken.any() and not broken.all()
        assert (x_adv - x).abs().max() <= EPS + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1

    def test_l2(self, robust, digits):
        x, y = digits.test.first(12)
        x_adv = replace(self.QUICK, norm="l2", eps=0.5, iterations=5)(robust, x, y)
        assert 0.1 < (x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5

    def test_deterministic_in_its_seed_and_silent_about_it(self, robust, digits, capfd):
        x, y = digits.test.first(12)
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        one = self.QUICK(robust, x, y)
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
        torch.manual_seed(2)
        assert torch.equal(self.QUICK(robust, x, y), one)
        assert not torch.equal(replace(self.QUICK, seed=1)(robust, x, y), one)
        assert capfd.readouterr().out == ""

    def test_tracing_is_given_back(self, robust, digits):
        def trace(frame, event, argument):
            return None

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            replace(self.QUICK, iterations=1)(robust, *digits.test.first(4))
            assert sys.gettrace() is trace
        finally:
            sys.settrace(before)

    @pytest.mark.parametrize(
        "settings",
        [{"eps": -1}, {"norm": "l1"}, {"attacks": ("pgd",)}, {"attacks": ()}, {"iterations": 0},
         {"targets": 0}, {"batch": 0}, {"batch": 2.5}],
        ids=str,
    )  # fmt: skip
    def test_bad_parameters_are_named_with_their_value(self, settings):
        ((name, value),) = settings.items()
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
            AutoAttack(**settings)

    @pytest.mark.parametrize("attacks, targets, classes, least", [
        (("apgd-ce", "apgd-t"), 3, 3, 4), (("square", "fab-t"), 9, 9, 10),
        (("apgd-dlr",), 1, 2, 3), (("apgd-t",), 1, 3, 4),
    ])  # fmt: skip
    def test_too_few_classes_are_refused_before_any_attack(self, attacks, targets, classes, least):
        """Instead of an IndexError in the midst of the ensemble."""
        asked = []

        def f(x):
            asked.append(len(x))
            return torch.zeros(len(x), classes)

        attack = AutoAttack(attacks=attacks, targets=targets)
        with pytest.raises(ValueError, match=f"{attacks[-1]} needs {least} classes.*has {classes}"):
            attack(f, torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.long))
        assert asked == [2]


# ---- the threat model ------------------------------------------------------------------------


def test_a_threat_model_is_refused_by_name():
    with pytest.raises(ValueError, match="norm='l1'"):
        Threat(0.1, "l1")
    with pytest.raises(ValueError, match="eps=-1"):
        Threat(-1)


@pytest.mark.parametrize("wrap", [IgnoreIncorrect, PreventLeaking, PerTask])
def test_a_wrapper_is_as_the_attack_it_carries_out(wrap):
    threat = Threat(1.5, "l2")
    own = wrap(PGD(eps=0.1, steps=3, restarts=2))
    assert (own.eps, own.norm, own.by_gradient, own.steps_per_image) == (0.1, "linf", True, 8)
    assert own.within(threat) == wrap(PGD(1.5, 3, None, 2, "l2"))
    assert own.rescaled(threat).attack == PGD(eps=0.1, steps=3, restarts=2).rescaled(threat)
    assert replace(own, attack=PGD(steps=0)).by_gradient is False


def test_attacks_in_the_papers_units_scale_with_the_threat():
    found = PGD(eps=9 / 255, lr=0.007).rescaled(Threat(0.5, "l2"))
    assert (found.eps, found.norm) == (pytest.approx(9 / 8 * 0.5), "l2")
    assert found.lr == pytest.approx(0.007 * 0.5 * 255 / 8)
    assert PGD().rescaled(Threat()) == replace(PGD(), lr=0.007)
    with pytest.raises(ValueError, match="attack.norm='l2': methods are given for 'linf'"):
        PGD(norm="l2").rescaled(Threat())
    assert AutoAttack().within(Threat(0.5, "l2")) == AutoAttack(0.5, "l2")


def test_a_function_declares_a_radius_at_most(xy):
    plain = declared(lambda f, x, y, g: x)
    assert (plain.eps, plain.by_gradient, plain.once(), plain.at_least(5)) == (
        None, None, plain, plain)  # fmt: skip
    assert declared(None) is None and declared(PGD()) == PGD()
    for wrong in (..., PGD, "pgd"):
        with pytest.raises(ValueError, match="attack"):
            declared(wrong)
    with pytest.raises(NotImplementedError, match="Attack has no __call__"):
        Attack()(None, *xy)
