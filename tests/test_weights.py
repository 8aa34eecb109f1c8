"""Layers, balls, directions and the two context managers."""

import copy
import re

import pytest
import torch
from torch import nn

from flatlib import as_function, layers, modes, weights
from flatlib.networks.parts import WithRotations
from flatlib.networks.resnet import ResNet
from flatlib.vision import models as torchvision_models

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def resnet18():
    return ResNet()


def scalars(tensors):
    return sum(t.numel() for t in tensors)


def test_the_papers_network_has_the_papers_layers(resnet18):
    w, matrices = layers(resnet18), layers(resnet18, biases=False)
    assert (len(w), scalars(w.values())) == (26, 11_165_322)
    assert (len(matrices), scalars(matrices.values())) == (21, 11_164_352)
    assert scalars(p for p in resnet18.parameters() if p.requires_grad) == 11_174_922
    biases = [name for name, t in w.items() if t.ndim == 1]
    assert len(biases) == 5 and sorted(set(w) - set(biases)) == sorted(matrices)
    assert not any("norm" in name for name in w)


def test_layers_are_the_live_parameters_in_the_models_order(tiny):
    own = dict(tiny.named_parameters())
    w = layers(tiny)
    assert all(w[name] is own[name] for name in w)
    assert list(w) == [name for name in own if name in w]


def test_norms_are_known_by_type_not_by_name():
    model = torchvision_models.resnet18(num_classes=10)  # names its norms bn1, downsample.1
    w = layers(model)
    kinds = {type(model.get_submodule(name.rsplit(".", 1)[0])) for name in w}
    assert kinds == {nn.Conv2d, nn.Linear}
    assert scalars(w.values()) == scalars(model.parameters()) - 2 * 4800
    norms = (nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.BatchNorm1d(3),
             nn.InstanceNorm1d(3, affine=True), nn.InstanceNorm2d(3, affine=True))  # fmt: skip
    assert list(layers(nn.Sequential(nn.Linear(3, 3), *norms))) == ["0.weight", "0.bias"]


def test_a_tensor_of_several_names_is_one_layer(g):
    """A module registered twice, and a weight that two modules share."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net.alias, net[2].weight = net[0], net[0].weight
    w = layers(net)
    assert list(w) == ["0.weight", "0.bias", "2.bias"]
    moved = weights.add(weights.detached(w), weights.sample(weights.detached(w), 0.5, g))
    x = torch.rand(3, 4, generator=g)
    shared, h = moved["0.weight"].T, x
    for bias in ("0.bias", "2.bias", "0.bias"):  # the alias comes last
        h = (torch.relu(h) if bias == "2.bias" else h) @ shared + moved[bias]
    torch.testing.assert_close(as_function(net)(moved, x), h)


def test_frozen_parameters_auxiliary_heads_and_buffers_are_no_layers(make):
    base = make()
    net = WithRotations(base)
    assert {name.removeprefix("base.") for name in layers(net)} == set(layers(base))
    base.conv.weight.requires_grad_(False)
    assert "conv.weight" not in layers(base) and "conv.bias" in layers(base)


def test_a_parameter_of_the_model_itself_is_a_layer():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(2, 2))

    assert list(layers(Bare())) == ["matrix"]


def test_as_function_equals_a_model_whose_weights_were_moved(tiny, xy, g):
    f, w = as_function(tiny), layers(tiny)
    nu = weights.sample(w, 0.3, g)
    moved = copy.deepcopy(tiny)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            if name in nu:
                p += nu[name]
    before = tiny(xy.x)
    torch.testing.assert_close(f(weights.add(w, nu), xy.x), moved(xy.x), rtol=0, atol=0)
    assert torch.equal(tiny(xy.x), before) and torch.equal(f(w, xy.x), before)


def test_gradients_pass_through_a_perturbation_to_the_parameters(tiny, xy, g):
    f, w = as_function(tiny), layers(tiny)
    nu = weights.sample(w, 0.3, g)
    f(weights.add(w, nu), xy.x).sum().backward()
    moved = copy.deepcopy(tiny)
    moved.load_state_dict(weights.detached(weights.add(w, nu)), strict=False)
    moved.zero_grad()
    moved(xy.x).sum().backward()
    for name, p in layers(moved).items():
        torch.testing.assert_close(w[name].grad, p.grad)


def test_add_scales_and_leaves_unnamed_layers_alone():
    w = {"a": torch.ones(2), "b": torch.ones(2)}
    out = weights.add(w, {"a": torch.tensor([1.0, 2.0])}, scale=3)
    assert out["a"].tolist() == [4, 7] and out["b"] is w["b"] and w["a"].tolist() == [1, 1]


@pytest.mark.parametrize("xi", [0.0, 0.003, 0.5])
def test_samples_lie_on_the_sphere_of_every_layer(tiny, g, xi):
    w = layers(tiny)
    for name, nu in weights.sample(w, xi, g).items():
        assert nu.norm().item() == pytest.approx(xi * w[name].norm().item(), rel=1e-5)


def test_samples_lie_on_the_sphere_of_every_filter(tiny, g):
    w = layers(tiny)
    for name, nu in weights.sample(w, 0.5, g, per="filter").items():
        rows = (w[name], nu) if nu.ndim == 4 else (w[name][None], nu[None])
        size, length = (t.flatten(1).norm(dim=1) for t in rows)
        torch.testing.assert_close(length, 0.5 * size, rtol=1e-5, atol=1e-7)


def test_sampled_directions_are_uniform_on_the_sphere(g):
    w = {"w": torch.tensor([[3.0, 4.0]])}  # radius 5
    draws = torch.cat([weights.sample(w, 1.0, g)["w"] for _ in range(2000)])
    angle = torch.atan2(draws[:, 1], draws[:, 0])
    counts = torch.histc(angle, 8, -torch.pi, torch.pi)
    assert counts.sum() == 2000 and ((counts - 250).abs() < 5 * (2000 / 8 * 7 / 8) ** 0.5).all()


def test_sampling_is_decided_by_the_generator(tiny):
    w = layers(tiny)
    one, two, other = (
        weights.sample(w, 1.0, torch.Generator().manual_seed(s))["conv.weight"] for s in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_projection_leaves_the_inside_and_puts_the_outside_on_the_boundary(tiny, g):
    w = weights.detached(layers(tiny))
    inside, outside = weights.sample(w, 0.2, g), weights.sample(w, 3.0, g)
    assert all(torch.equal(v, inside[k]) for k, v in weights.project(inside, w, 0.5).items())
    for k, v in weights.project(outside, w, 0.5).items():
        torch.testing.assert_close(v.norm(), 0.5 * w[k].norm())
        torch.testing.assert_close(v, outside[k] / 6, rtol=1e-5, atol=1e-7)  # 3.0 back to 0.5


def test_direction_is_equation_2_naively(tiny, g):
    w = layers(tiny)
    nu = {k: torch.randn(v.shape, generator=g) for k, v in w.items()}
    for k, v in weights.direction(nu, w).items():
        want = nu[k] / (nu[k] ** 2).sum() ** 0.5 * (w[k] ** 2).sum() ** 0.5
        torch.testing.assert_close(v, want)


def test_a_climb_is_a_normalised_step_and_a_projection(tiny, g):
    w = weights.detached(layers(tiny))
    grads = {k: torch.randn(v.shape, generator=g) for k, v in w.items()}
    for start in (0.1, 0.5):  # the step stays inside, or leaves the ball
        nu = weights.sample(w, start, g)
        before = {k: v.clone() for k, v in nu.items()}
        moved = weights.add(nu, weights.direction(grads, w), 0.2)
        weights.climb(nu, grads, weights.norms(w), lr=0.2, xi=0.5)
        for k, v in weights.project(moved, w, 0.5).items():
            torch.testing.assert_close(nu[k], v)
            assert not torch.equal(nu[k], before[k]) or not w[k].any()


def test_a_climb_leaves_layers_without_length_or_gradient(g):
    w = {"zero": torch.zeros(4), "some": torch.ones(4)}
    nu = {"zero": torch.zeros(4), "some": torch.full((4,), 0.1)}
    weights.climb(nu, {"zero": torch.ones(4), "some": torch.zeros(4)}, weights.norms(w), 0.1, 0.5)
    assert not nu["zero"].any() and torch.equal(nu["some"], torch.full((4,), 0.1))


def test_zero_tensors_give_zero_never_nan(g):
    w = {"zero": torch.zeros(4), "some": torch.ones(4)}
    nu = {"zero": torch.ones(4), "some": torch.zeros(4)}
    for out in (
        weights.sample(w, 0.5, g), weights.project(nu, w, 0.5), weights.direction(nu, w),
        weights.project(w, nu, 0.5), weights.direction(w, nu), weights.project(w, w, 0.0),
    ):  # fmt: skip
        assert all(torch.isfinite(v).all() for v in out.values())
    assert weights.sample(w, 0.5, g)["zero"].abs().sum() == 0
    assert weights.project(nu, w, 0.5)["zero"].abs().sum() == 0
    assert weights.direction(nu, w)["some"].abs().sum() == 0


def test_norms_refuse_an_unknown_unit(tiny):
    with pytest.raises(ValueError, match=re.escape("per='neuron'")):
        weights.norms(layers(tiny), "neuron")


def test_mode_gives_every_module_its_own_mode_back(tiny):
    tiny.train()
    tiny.blocks[0].eval()
    before = [m.training for m in tiny.modules()]
    assert len(set(before)) == 2
    for training in (True, False):
        with pytest.raises(ZeroDivisionError), modes.mode(tiny, training):
            assert all(m.training == training for m in tiny.modules())
            raise ZeroDivisionError
        assert [m.training for m in tiny.modules()] == before


def test_no_statistics_restores_means_variances_and_counters(make, xy):
    net = nn.Sequential(WithRotations(make()), nn.BatchNorm1d(14)).train()
    net(xy.x)  # counters are not zero before
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ZeroDivisionError), modes.no_statistics(net):
        net(xy.x)
        inside = {k: v.clone() for k, v in net.state_dict().items()}
        raise ZeroDivisionError
    changed = [k for k in before if not torch.equal(before[k], inside[k])]
    kinds = {k.rsplit(".", 1)[1] for k in changed}
    assert kinds == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Keeps(nn.Module):
    """Keeps numbers, tensors and a buffer from pass to pass."""

    def __init__(self):
        super().__init__()
        self.head, self.latest, self.passes = nn.Linear(4, 2), None, 0
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("running", torch.zeros(2))

    def forward(self, x):
        self.latest, self.head.seen, self.passes = x.sum(), x, self.passes + 1
        self.count += 1
        self.running = self.running + 1
        return self.head(x)


def test_measuring_leaves_attributes_and_buffers_as_they_were():
    net, x = Keeps().train(), torch.rand(3, 4)
    running = net.running
    with modes.mode(net, training=False):
        net(x)
        assert net.latest is not None and net.passes == 1 and net.count.sum() == 2
    assert net.latest is None and net.passes == 0 and not hasattr(net.head, "seen")
    assert net.count.sum() == 0 and net.running is running and net.training
    with modes.mode(net, training=True):
        net(x)
    assert net.passes == 1 and net.count.sum() == 2  # training is meant to leave something


def test_all_tensors_of_a_model_by_the_names_given():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    assert "0.weight" in weights.all_tensors(net) and "2.weight" not in weights.all_tensors(net)
    other = torch.zeros(3, 3)
    for name in ("0.weight", "2.weight"):
        found = weights.all_tensors(net, {name: other})
        assert found[name] is other and len(found) == len(weights.all_tensors(net))
