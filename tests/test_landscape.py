"""The loss along directions in weight space."""

import re

import pytest
import torch

from flatlib import PGD, as_function, evaluate, layers, slices
from flatlib.losses import cross_entropy
from flatlib.measures.hessian import top_eigenvector
from flatlib.measures.landscape import KINDS, ascent, plane
from flatlib.weights import add, detached, direction, norms, sample

pytestmark = pytest.mark.numerical

EPS = 0.1
FIXED = PGD(eps=EPS, steps=3, start="zero")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("points", [2, 5, 11, 51])
def test_the_table_has_a_row_per_direction_and_point(tiny, xy, points):
    table = slices(tiny, *xy, None, n=2, points=points)
    assert list(table.columns) == ["direction", "s", "rloss"] and len(table) == 2 * points
    assert table.direction.tolist() == [0] * points + [1] * points
    s = table.s[table.direction == 0].tolist()
    assert s == table.s[table.direction == 1].tolist() == sorted(s)
    assert (s[0], s[-1]) == (-1, 1)
    assert s == pytest.approx([-v for v in reversed(s)], abs=1e-7)


@pytest.mark.parametrize("attack", [None, FIXED], ids=["clean", "robust"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_the_middle_lies_the_models_own_loss(robust, xy, attack, kind):
    table = slices(robust, *xy, attack, kind, n=2, points=51)
    middle = table.rloss[table.s.abs() < 1e-6]
    report = evaluate(robust, *xy, attack, doubts=False)
    assert len(middle) == (1 if kind == "hessian" else 2)
    assert middle.tolist() == pytest.approx([report.RLoss] * len(middle), abs=1e-4)


def test_a_random_slice_in_a_loop(tiny, xy):
    f, w, g = as_function(tiny), detached(layers(tiny)), seeded()
    want = []
    for _ in range(2):
        nu = sample(w, 1.0, g)
        for s in (-1, -0.5, 0, 0.5, 1):
            moved = {k: w[k] + s * 0.3 * nu[k] for k in w}
            x_adv = FIXED(lambda p, v=moved: f(v, p), *xy)
            want.append(cross_entropy(f(moved, x_adv), xy.y).mean().item())
    got = slices(tiny, *xy, FIXED, n=2, points=5, length=0.3, generator=seeded())
    assert got.rloss.tolist() == pytest.approx(want, abs=1e-4)
    assert max(want) - min(want) > 0.1


def test_an_adversarial_slice_follows_the_normalised_ascent(robust, xy):
    f, w = as_function(robust), detached(layers(robust))
    nu = direction(ascent(robust, *xy, FIXED, seeded()), w)
    want = []
    for s in (-1, 0, 1):
        moved = add(w, nu, s * 0.025)
        x_adv = FIXED(lambda p, v=moved: f(v, p), *xy)
        want.append(cross_entropy(f(moved, x_adv), xy.y).mean().item())
    got = slices(robust, *xy, FIXED, "adversarial", n=1, points=3, generator=seeded())
    assert got.rloss.tolist() == pytest.approx(want, abs=1e-3)
    assert want[2] > want[1]


def test_the_ascent_stays_in_its_ball_and_raises_the_loss(robust, xy):
    f, w = as_function(robust), detached(layers(robust))
    nu = ascent(robust, *xy, None, seeded(), xi=0.02, steps=7, lr=0.01)
    size, radius = norms(nu), norms(w)
    assert all(size[k] <= 0.02 * radius[k] * (1 + 1e-5) for k in w)
    before, after = (cross_entropy(f(v, xy.x), xy.y).mean() for v in (w, add(w, nu)))
    random = cross_entropy(f(add(w, sample(w, 0.02, seeded())), xy.x), xy.y).mean()
    assert after > before + 1e-3 and after > random


def test_every_layer_gets_the_stated_length(tiny, xy, monkeypatch):
    """Spied on where the perturbed weights are handed to the network."""
    w, seen = detached(layers(tiny)), []
    from flatlib.measures import landscape

    monkeypatch.setattr(landscape, "robust_loss", lambda model, v, *rest: (
        seen.append(v), torch.zeros(1))[1])  # fmt: skip
    for kind, length in KINDS.items():
        seen.clear()
        slices(tiny, *xy, None, kind, n=1, points=2)
        for k in w:
            still = kind == "hessian" and w[k].ndim == 1  # the Hessian is that of the weights alone
            assert (seen[1][k] - w[k]).norm().item() == pytest.approx(
                0 if still else length * w[k].norm().item(), rel=1e-4, abs=1e-7
            )
            torch.testing.assert_close(seen[0][k] - w[k], w[k] - seen[1][k], atol=1e-6, rtol=1e-4)


def test_filters_get_the_stated_length_each(tiny, xy, monkeypatch):
    w, seen = detached(layers(tiny)), []
    from flatlib.measures import landscape

    monkeypatch.setattr(landscape, "robust_loss", lambda model, v, *rest: (
        seen.append(v), torch.zeros(1))[1])  # fmt: skip
    slices(tiny, *xy, None, n=1, points=2, per="filter")
    k = "blocks.0.conv1.weight"
    moved = (seen[1][k] - w[k]).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, 0.5 * w[k].flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)


def test_rows_get_the_stated_length_each_and_biases_stay(tiny, xy, monkeypatch):
    """Oracle: output by output, in a loop."""
    w, seen = detached(layers(tiny)), []
    from flatlib.measures import landscape

    monkeypatch.setattr(landscape, "robust_loss", lambda model, v, *rest: (
        seen.append(v), torch.zeros(1))[1])  # fmt: skip
    slices(tiny, *xy, None, n=1, points=2, per="row")
    assert {v.ndim for v in w.values()} == {1, 2, 4}
    for k in w:
        for row, (now, before) in enumerate(zip(seen[1][k], w[k])):
            want = 0 if w[k].ndim == 1 else 0.5 * before.norm().item()
            assert (now - before).norm().item() == pytest.approx(want, rel=1e-4, abs=1e-6), (k, row)


def test_length_zero_is_a_straight_line(tiny, xy):
    table = slices(tiny, *xy, FIXED, n=1, points=5, length=0.0)
    assert table.rloss.max() - table.rloss.min() < 1e-5


def test_the_generator_decides(tiny, xy):
    a, b, c = (slices(tiny, *xy, None, n=1, points=3, generator=g)
               for g in (None, seeded(0), seeded(1)))  # fmt: skip
    assert a.equals(b) and not a.equals(c)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "steepest"}, {"points": 1}, {"n": 0}, {"length": -1.0}, {"length": float("nan")},
     {"per": "neuron"}],
    ids=str,
)  # fmt: skip
def test_bad_settings_are_named(tiny, xy, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        slices(tiny, *xy, None, **settings)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda *a: slices(*a, None, "hessian", per="filter.."), "per='filter..'"),
        (lambda *a: plane(*a, None, ("hessian", "random"), per="neuron"), "per='neuron'"),
        (lambda *a: plane(*a, None, ("hessian",)), "kinds=.*two of"),
        (lambda *a: plane(*a, None, ("hessian", "random", "random")), "kinds=.*two of"),
        (lambda *a: plane(*a, None, "hessian"), "kinds='hessian'.*two of"),
    ],
    ids=["slices per", "plane per", "one kind", "three kinds", "a name"],
)
def test_bad_settings_are_refused_before_any_work(tiny, xy, monkeypatch, call, said):
    place = "flatlib.measures.landscape.top_eigenvector"
    monkeypatch.setattr(place, lambda *a: pytest.fail("worked"))
    with pytest.raises(ValueError, match=said):
        call(tiny, *xy)


def test_an_adversarial_slice_of_a_network_with_unused_weights(tiny, xy):
    class WithUnused(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.unused = tiny, torch.nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.inner(x)

    table = slices(WithUnused(), *xy, None, "adversarial", n=1, points=3)
    assert table.rloss.notna().all() and table.rloss.nunique() == 3


def test_a_hessian_slice_follows_the_normalised_eigenvector(robust, xy):
    f, w = as_function(robust), detached(layers(robust))
    nu = direction(top_eigenvector(robust, *xy), w)
    want = [cross_entropy(f(add(w, nu, s * 0.5), xy.x), xy.y).mean().item() for s in (-1, 0, 1)]
    got = slices(robust, *xy, None, "hessian", n=5, points=3)
    assert got.rloss.tolist() == pytest.approx(want, rel=1e-3) and min(want) == want[1]


def test_a_plane_in_a_loop(tiny, xy):
    f, w, g = as_function(tiny), detached(layers(tiny)), seeded()
    nu, mu = (direction(sample(w, 1.0, g), w) for _ in range(2))
    got = plane(tiny, *xy, FIXED, points=3, length=0.3, generator=seeded())
    assert got.columns.tolist() == ["s", "t", "rloss"] and len(got) == 9
    for s, t, rloss in got.itertuples(index=False):
        moved = {k: w[k] + 0.3 * (s * nu[k] + t * mu[k]) for k in w}
        x_adv = FIXED(lambda p, v=moved: f(v, p), *xy)
        assert rloss == pytest.approx(cross_entropy(f(moved, x_adv), xy.y).mean().item(), abs=1e-4)
    assert got.rloss.nunique() == 9


def test_a_plane_of_two_kinds_has_two_lengths(robust, xy):
    got = plane(robust, *xy, None, ("hessian", "adversarial"), points=3)
    line = slices(robust, *xy, None, "hessian", points=3)
    assert got[got.t == 0].rloss.tolist() == pytest.approx(line.rloss.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="kind='steepest'"):
        plane(robust, *xy, None, ("random", "steepest"))
