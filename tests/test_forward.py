"""``freeze`` and ``fast`` are the model, whatever is done to it."""

import copy
import gc
import pickle
import random
import threading
import weakref
from functools import partial

import awkward
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward import (
    FOLLOWED,
    PLAIN,
    Caching,
    Counting,
    ListedBuffers,
    ReadsGlobal,
    ReadsObject,
    StraightThrough,
    Switch,
    Temperature,
    WritesIntoItsInput,
)  # fmt: skip
from torch import nn

from flatlib import (
    PGD,
    as_function,
    average_flatness,
    eigenvalues,
    evaluate,
    layers,
    weights,
    worst_flatness,
)  # fmt: skip
from flatlib.fast import forward, plans, tracing
from flatlib.networks.parts import ACTIVATIONS, ReBatchNorm, WithRotations
from flatlib.vision import models as torchvision_models

pytestmark = pytest.mark.numerical


def close(got, want):
    """Equal up to float32 rounding, relative to the size of the logits."""
    scale = want.detach().abs().max()
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=2e-5)


def planned(model):
    return forward.why_plain(model) is None


@pytest.fixture
def x(g):
    return torch.rand(6, 1, 8, 8, generator=g)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_projects_networks(make, x, activation):
    net = make((1, 2), activation=activation, dropout=0.5)
    assert planned(net)
    close(forward.freeze(net)(x), net(x))
    close(forward.fast(net)(layers(net), x), net(x))


def test_the_rotation_network(make, x, age):
    net = age(WithRotations(make()))
    close(forward.freeze(net)(x), net(x))


def test_torchvisions_resnet18(age, g):
    net = age(torchvision_models.resnet18(num_classes=10))
    x = torch.rand(4, 3, 32, 32, generator=g)
    assert planned(net)
    close(forward.freeze(net)(x), net(x))
    nu = weights.sample(weights.detached(layers(net)), 0.1, g)
    w = weights.detached(weights.add(layers(net), nu))
    close(forward.freeze(net, w)(x), as_function(net)(w, x))


def test_perturbed_weights(tiny, x, g):
    w = weights.detached(layers(tiny))
    f = as_function(tiny)
    for scale in (0.0, 0.5, -1.0):
        moved = weights.add(w, weights.sample(w, 0.5, g), scale)
        close(forward.freeze(tiny, moved)(x), f(moved, x))
        close(forward.fast(tiny)(moved, x), f(moved, x))


def test_statistics_and_weights_that_have_changed(tiny, x):
    first = forward.freeze(tiny)(x)
    tiny.train()
    tiny(x * 0.5)  # moves the running statistics
    tiny.eval()
    second = forward.freeze(tiny)(x)
    close(second, tiny(x))
    with torch.no_grad():
        tiny.blocks[0].conv1.weight.mul_(1.5), tiny.norm.bias.add_(0.3), tiny.mean.add_(0.1)
    third = forward.freeze(tiny)(x)
    close(third, tiny(x))
    assert not torch.allclose(first, second) and not torch.allclose(second, third)


def test_gradients_for_the_images_are_the_models(make, x):
    net = make(activation="silu")
    grads = []
    for f in (forward.freeze(net), lambda p: forward.fast(net)(layers(net), p), net):
        point = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(f(point).square().sum(), point)[0])
    close(grads[0], grads[2]), close(grads[1], grads[2])


def test_no_gradient_reaches_frozen_weights(tiny, x):
    w = {k: v.detach().requires_grad_() for k, v in layers(tiny).items()}
    forward.freeze(tiny, w)(x.clone().requires_grad_()).sum().backward()
    assert all(p.grad is None for p in (*tiny.parameters(), *w.values()))
    assert not forward.freeze(tiny)(x).requires_grad


def test_gradients_for_the_weights_are_the_models(make, x):
    net = make(activation="silu")
    f, fast, w = as_function(net), forward.fast(net), layers(net)
    want = torch.autograd.grad(f(w, x).square().mean(), w.values())
    got = torch.autograd.grad(fast(w, x).square().mean(), w.values())
    for a, b in zip(got, want):
        close(a, b)


def test_freezing_in_train_mode_gives_the_model_as_it_is(tiny, x):
    tiny.train()
    torch.testing.assert_close(forward.freeze(tiny)(x), tiny(x))
    tiny.eval()
    tiny.blocks[0].norm1.train()  # one module suffices
    want = copy.deepcopy(tiny)(x)
    torch.testing.assert_close(forward.freeze(tiny)(x), want)


def test_freezing_leaves_model_and_mode_alone(tiny, x):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    attributes, modes = set(vars(tiny)), [m.training for m in tiny.modules()]
    forward.freeze(tiny)(x)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    assert set(vars(tiny)) == attributes and [m.training for m in tiny.modules()] == modes


def test_hooks_are_honoured(tiny, x):
    plain = forward.freeze(tiny)(x)
    handle = tiny.blocks[0].register_forward_hook(lambda m, i, out: 2 * out)
    doubled = forward.freeze(tiny)(x)
    close(doubled, tiny(x))
    handle.remove()
    handle = tiny.blocks.register_forward_pre_hook(lambda m, i: (i[0] + 1,))
    close(forward.freeze(tiny)(x), tiny(x))
    handle.remove()
    close(forward.freeze(tiny)(x), plain)
    assert not torch.allclose(plain, doubled)


def test_replaced_modules_are_noticed(tiny, make, x):
    before = forward.freeze(tiny)(x)
    tiny.blocks[0] = make(seed=3).blocks[0]
    close(forward.freeze(tiny)(x), tiny(x))
    tiny.classify = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 10)).eval()
    after = forward.freeze(tiny)(x)
    close(after, tiny(x))
    assert not torch.allclose(before, after)


def test_attributes_that_have_changed_are_noticed(age, x):
    """What a forward pass reads besides tensors and modules became part of the graph."""
    net, found = age(Configured()), []
    changes = [
        lambda: None,
        lambda: setattr(net, "temperature", 3.0),
        lambda: setattr(net, "act", F.silu),
        lambda: net.scales.__setitem__(0, 0.5),
        lambda: net.named.update(shift=2.0),
    ]
    for change in changes:
        change()
        assert planned(net)
        found.append(forward.freeze(net)(x))
        close(found[-1], net(x)), close(forward.fast(net)(layers(net), x), net(x))
    assert all(not torch.allclose(a, b) for a, b in zip(found, found[1:]))


def test_a_forward_of_one_instance_is_honoured(tiny, x):
    plain = forward.freeze(tiny)(x)
    tiny.blocks[0].norm1.forward = lambda h: 2 * h
    close(forward.freeze(tiny)(x), tiny(x))
    del tiny.blocks[0].norm1.forward
    close(forward.freeze(tiny)(x), plain)


def test_asking_for_a_plan_again_traces_nothing(tiny, monkeypatch):
    plan = forward.plan_of(tiny)
    monkeypatch.setattr(plans, "traced", lambda model: pytest.fail("traced again"))
    assert forward.plan_of(tiny) is plan


def test_a_copy_is_a_model_of_its_own(tiny, x):
    forward.freeze(tiny)
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.conv.weight.mul_(2)
    close(forward.freeze(other)(x), other(x))
    close(forward.freeze(tiny)(x), tiny(x))


def test_a_model_that_is_gone_is_forgotten(make, x):
    net = make()
    f = forward.freeze(net)
    f(x)
    gone = weakref.ref(net)
    del net, f
    gc.collect()
    assert gone() is None


class Net(nn.Module):
    """A convolution with batch norm; subclasses say what is strange about them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def body(self, x):
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Configured(Net):
    def __init__(self):
        super().__init__()
        self.temperature, self.act, self.scales = 1.0, F.relu, [2.0, 1.0]
        self.named = {"shift": 1.0}

    def forward(self, x):
        h = self.act(self.norm(self.conv(self.scales[0] * x + self.named["shift"])))
        return self.head(h.mean((2, 3))) / self.temperature


class TwoConvolutions(Net):
    def __init__(self):
        super().__init__()
        self.other, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.head(F.relu(self.norm2(self.other(self.body(x)))).mean((2, 3)))


class ControlFlow(Net):
    def forward(self, x):
        return super().forward(x if x.mean() > 0.5 else 1 - x)


class ConstantInForward(Net):
    def forward(self, x):
        return super().forward((x - torch.tensor([0.3])) / 0.5)


class PlainTensorAttribute(Net):
    def __init__(self):
        super().__init__()
        self.mu = torch.tensor([0.3]).view(1, 1, 1, 1)

    def forward(self, x):
        return super().forward(x - self.mu)


class SharedConvolution(TwoConvolutions):
    def forward(self, x):
        h = self.body(x)
        h = F.relu(self.norm(self.other(h))) + F.relu(self.norm2(self.other(2 * h)))
        return self.head(h.mean((2, 3)))


class HalfNormed(TwoConvolutions):
    def forward(self, x):
        h = self.body(x)
        return self.head((self.norm2(self.other(h)) + self.other(h)).mean((2, 3)))


class Repeated(TwoConvolutions):
    def forward(self, x):
        h = self.norm2(self.other(self.norm2(self.other(self.body(x)))))
        return self.head(h.mean((2, 3)))


class UsedTwice(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.head((self.norm(h) + h).mean((2, 3)))


class SharedNorm(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.head(self.norm(self.other(self.body(x))).mean((2, 3)))


class SharedActivation(TwoConvolutions):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x)))
        return self.head(self.relu(self.norm2(self.other(h)) + h).mean((2, 3)))


class BareParameter(Net):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((4, 1, 1), 1.7))

    def forward(self, x):
        return self.head((self.gain * self.body(x)).mean((2, 3)))


class WeightReadDirectly(Net):
    def forward(self, x):
        return super().forward(x) + self.conv.weight.sum() + self.head.bias


class StatisticsReadDirectly(Net):
    def forward(self, x):
        return super().forward(x) + self.norm.running_mean.sum()


class InstanceNormed(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(4, affine=True)


class NoAffine(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)


class NoRunningStatistics(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class CircularPadding(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")


class Geometry(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 8, 3, stride=2, padding="valid", dilation=2, groups=4, bias=False)
        self.norm2, self.head = nn.BatchNorm2d(8, eps=0.1), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.norm2(self.other(self.body(x))).mean((2, 3)))


class Keyword(Net):
    def forward(self, x, scale=2.0):
        return super().forward(scale * x)


class InPlace(Net):
    def forward(self, x):
        return self.head(F.relu_(self.norm(self.conv(x))).mul_(2).mean((2, 3)))


class WeightNormed(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)


class PreActivation(TwoConvolutions):
    def forward(self, x):
        h = self.conv(x)
        h = h + self.other(F.relu(self.norm(h)))
        return self.head(self.norm2(h).mean((2, 3)))


class PreActivationBlock(nn.Module):
    """As in wide residual networks: norm and activation before the convolution."""

    def __init__(self, norm):
        super().__init__()
        self.norm1, self.conv1 = norm(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2, self.conv2 = norm(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class WideResNet(nn.Module):
    """Its second block is registered and never used, as in networks of RobustBench."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv, self.block = nn.Conv2d(1, 4, 3, padding=1), PreActivationBlock(norm)
        self.unused, self.norm = PreActivationBlock(norm), norm(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(F.silu(self.norm(self.block(self.conv(x)))).mean((2, 3)))


class LookedUp(Net):
    def forward(self, x):
        return super().forward(x * {(6, 1, 8, 8): 2.0}[x.shape])


class AnyNumberOfInputs(Net):
    def forward(self, *xs):
        return super().forward(xs[0])


class RegisteredTwice(Net):
    def __init__(self):
        super().__init__()
        self.alias = self.conv


class TiedWeights(TwoConvolutions):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return super().forward(x.expand(-1, 4, -1, -1))


class Flattened(nn.Sequential):
    def __init__(self):
        conv, norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        super().__init__(conv, norm, nn.Flatten(), nn.Linear(256, 10))


class Viewed(TwoConvolutions):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        h = F.relu(self.norm2(self.other(self.body(x))))
        return self.head(h.view(x.shape[0], -1))


class NoModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(64, 10))

    def forward(self, x):
        return x.flatten(1) @ self.matrix


class NothingToLearn(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]


STRANGE = [
    NoModules, Net, TwoConvolutions, ControlFlow, ConstantInForward, PlainTensorAttribute,
    SharedConvolution,
    HalfNormed, Repeated, UsedTwice, SharedNorm, SharedActivation, BareParameter,
    WeightReadDirectly, StatisticsReadDirectly, InstanceNormed, NoAffine, NoRunningStatistics,
    CircularPadding, Geometry, Keyword, InPlace, WeightNormed, PreActivation, Flattened, Viewed,
    Configured, WideResNet, LookedUp, AnyNumberOfInputs, RegisteredTwice, TiedWeights,
]  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE, ids=lambda kind: kind.__name__)
def test_models_of_other_makes(kind, age, x, g):
    torch.manual_seed(0)
    net = age(kind())
    attributes = set(vars(net))
    w = weights.detached(layers(net))
    moved = weights.add(w, weights.sample(w, 0.3, g))
    f = as_function(net)
    for _ in range(2):
        for inputs in (x, x / 3):  # two sides of the control flow
            close(forward.freeze(net)(inputs), net(inputs))
            close(forward.freeze(net, moved)(inputs), f(moved, inputs))
            close(forward.fast(net)(moved, inputs), f(moved, inputs))
    assert set(vars(net)) == attributes


def test_ordinary_models_are_made_fast(age):
    assert all(planned(age(kind())) for kind in (Net, TwoConvolutions, SharedActivation, Flattened))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, ReBatchNorm])
def test_norms_without_a_convolution_before_them_are_made_fast(norm, age, x, g):
    """Logits and gradients for images and weights, under perturbed weights too."""
    torch.manual_seed(0)
    net = age(WideResNet(norm))
    assert planned(net) and not forward.plan_of(net).kept
    w = weights.detached(layers(net))
    moved = weights.add(w, weights.sample(w, 0.5, g))
    for v in (w, moved):
        found = []
        for function in (forward.fast(net), as_function(net)):
            point = x.clone().requires_grad_()
            given = {k: t.clone().requires_grad_() for k, t in v.items()}
            z = function(given, point)
            wanted = [point, *(t for k, t in given.items() if "unused" not in k)]
            found.append((z, *torch.autograd.grad(z.square().mean(), wanted)))
        for got, want in zip(*found):
            close(got, want)
        close(forward.freeze(net, v)(x), found[1][0])


def test_a_norm_alone_leaves_the_images_channels_last():
    x = torch.rand(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    y = torch.addcmul(torch.rand(4, 1, 1), x, torch.rand(4, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)


class FreshNoise(Net):
    def forward(self, x):
        return super().forward(x + torch.rand(1))


def test_a_network_without_weights(x):
    net = NothingToLearn().eval()
    assert torch.equal(forward.freeze(net)(x), net(x))
    assert torch.equal(forward.fast(net)({}, x), net(x))


def test_a_random_network_stays_random(age, x):
    f = forward.freeze(age(FreshNoise()))
    assert not torch.equal(f(x), f(x))


def test_numbers_that_another_thread_draws_are_not_the_networks(tiny, monkeypatch):
    """Those of a Dask worker draw while a network is traced; it is no less fast for that."""
    drawing, plain = [random.random, partial(np.random.rand, 1)], tracing._traced

    def disturbed(model):
        if drawing:
            thread = threading.Thread(target=drawing.pop())
            thread.start(), thread.join()
        return plain(model)

    monkeypatch.setattr(tracing, "_traced", disturbed)
    assert planned(tiny) and not drawing


def test_double_precision_stays_double(make, x):
    net = make(activation="silu").double()
    want = net(x.double())
    for f in (forward.freeze(net), lambda p: forward.fast(net)(layers(net), p)):
        torch.testing.assert_close(f(x.double()), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [None, ControlFlow], ids=["planned", "as it is"])
def test_bf16_gives_the_gradients_direction_in_the_images_type(make, age, x, kind):
    net = age(kind()) if kind else make(activation="silu")
    grads = []
    for f in (forward.freeze(net, precision="bf16"), net):
        point = x.clone().requires_grad_()
        z = f(point)
        assert z.dtype == torch.float32
        grads.append(torch.autograd.grad(z.square().sum(), point)[0])
    rounded, exact = grads
    assert torch.cosine_similarity(rounded.flatten(), exact.flatten(), 0) > 0.99
    assert not torch.allclose(rounded, exact, rtol=1e-4)


def test_an_unknown_precision_is_named(tiny):
    for make_fast in (forward.freeze, forward.fast):
        with pytest.raises(ValueError, match="precision='fp8'.*'bf16'"):
            make_fast(tiny, precision="fp8")


@pytest.mark.parametrize("rotated", [False, True], ids=["plain", "with rotations"])
def test_in_train_mode_everything_is_as_ever(make, x, rotated):
    """Logits, gradients for layers and for all other parameters, running statistics."""
    got, want = (WithRotations(make()) if rotated else make() for _ in range(2))
    want.load_state_dict(got.state_dict())
    results = []
    for net, function in ((got, forward.fast), (want, as_function)):
        net.train()
        point = x.clone().requires_grad_()
        z = function(net)(layers(net), point)
        z.square().mean().backward()
        results.append((z, point.grad, [p.grad for p in net.parameters()]))
    assert forward.plan_of(got).kept
    close(results[0][0], results[1][0]), close(results[0][1], results[1][1])
    for mine, theirs in zip(results[0][2], results[1][2]):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(got.buffers(), want.buffers()):
        torch.testing.assert_close(mine, theirs)


def test_the_modes_of_a_network_take_turns(tiny, x):
    for training in (True, False, True, False):
        tiny.train(training)
        other = copy.deepcopy(tiny)
        close(forward.fast(tiny)(layers(tiny), x), other(x))
        assert bool(forward.plan_of(tiny).kept) is training


def test_weights_of_a_working_norm_can_be_given_too(tiny, x):
    tiny.train()
    w = {k: 1.5 * v.detach() for k, v in tiny.named_parameters()}
    close(forward.fast(tiny)(w, x), as_function(copy.deepcopy(tiny))(w, x))


def test_frozen_networks_in_train_mode_take_no_gradient(tiny, x):
    tiny.train()
    forward.freeze(tiny)(x.clone().requires_grad_()).sum().backward()
    assert all(p.grad is None for p in tiny.parameters())


def test_strided_convolutions_of_one_pixel_read_what_they_need(g):
    """oneDNN's own gradient for the weights corrupts memory on some processors: see graphs."""
    net = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.Flatten(), nn.Linear(8 * 16, 10)).eval()
    x = torch.randn(40, 4, 8, 8, generator=g)
    (want,) = torch.autograd.grad(net(x).square().sum(), net[0].weight)
    for _ in range(60):
        z = forward.fast(net)(layers(net), x)
        (got,) = torch.autograd.grad(z.square().sum(), net[0].weight)
        close(got, want)


# ---- what a trace does not say: tests/test_zoo.py has the measures


@pytest.fixture
def pictures(g):
    return torch.rand(6, 3, 32, 32, generator=g)


def derivatives(f, w, x):
    """Logits, and gradients for images and weights, of f(w, x)."""
    w, point = {k: v.detach().requires_grad_() for k, v in w.items()}, x.clone().requires_grad_()
    z = f(w, point)
    grads = torch.autograd.grad(z.square().mean(), [point, *w.values()], materialize_grads=True)
    return [z, *grads]


def as_is(net, x):
    """The three ways to a network are that of a copy of it; x stays."""
    other, before = copy.deepcopy(net), x.clone()
    want = derivatives(as_function(other), layers(other), x)
    for got, one in zip(derivatives(forward.fast(net), layers(net), x), want):
        torch.testing.assert_close(got, one, rtol=1e-3, atol=1e-5)
    frozen = forward.freeze(net)
    for got, one in zip(derivatives(lambda _, point: frozen(point), {}, x), want):
        torch.testing.assert_close(got, one, rtol=1e-3, atol=1e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", [*FOLLOWED, WritesIntoItsInput], ids=lambda kind: kind.__name__)
def test_what_a_trace_follows_is_made_fast(kind, age, pictures):
    torch.manual_seed(0)
    net = age(kind())
    as_is(net, pictures)
    assert planned(net)


def test_images_that_lie_as_a_graph_wants_them_are_not_written_into(age, pictures):
    as_is(age(WritesIntoItsInput()), pictures.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_what_a_trace_loses_runs_as_it_is_and_says_so(kind, age, pictures):
    torch.manual_seed(0)
    net = age(kind())
    as_is(net, pictures)
    assert PLAIN[kind] in forward.why_plain(net)


class TiedToAuxiliary(nn.Module):
    """A weight shared with a branch that is no part of the network."""

    def __init__(self):
        super().__init__()
        self.side, self.inner = nn.Linear(64, 32), nn.Linear(64, 32)
        self.side.auxiliary, self.inner.weight = True, self.side.weight
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(torch.relu(self.inner(x.flatten(1))))


def test_a_weight_by_its_second_name(x, g):
    net = TiedToAuxiliary()
    assert list(layers(net)) == ["side.weight", "inner.bias", "head.weight", "head.bias"]
    moved = 2 * net.inner.weight.detach()
    want = net.head(torch.relu(F.linear(x.flatten(1), moved, net.inner.bias)))
    for name in ("side.weight", "inner.weight"):
        close(forward.freeze(net, {name: moved})(x), want)
        close(forward.fast(net)({name: moved}, x), want)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "change",
    [
        (Temperature, lambda net, patch: net.temperature.fill_(3.0)),
        (Switch, lambda net, patch: net.on.fill_(True)),
        (ListedBuffers, lambda net, patch: net.temperature.fill_(3.0)),
        (ReadsGlobal, lambda net, patch: patch.setattr(awkward, "SCALE", 0.5)),
        (ReadsObject, lambda net, patch: setattr(net.settings, "scale", 0.5)),
    ],
    ids=lambda change: change[0].__name__,
)
def test_what_python_reads_does_not_go_stale(change, age, pictures, monkeypatch, precision):
    kind, change = change
    net, tolerance = age(kind()), {"float32": 1e-4, "bf16": 5e-2}[precision]
    before = forward.freeze(net, precision=precision)(pictures)
    change(net, monkeypatch)
    after = forward.freeze(net, precision=precision)(pictures)
    torch.testing.assert_close(after, net(pictures), rtol=tolerance, atol=tolerance)
    assert (after - before).norm() > 0.2 * before.norm()


class OtherTypes(Net):
    """``what`` says what bf16 meets inside."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.register_buffer("order", torch.randperm(8))

    def forward(self, x):
        if self.what == "images":
            x = x.float()
        h = self.body(x[..., self.order] if self.what == "index" else x)
        return self.head((h.float() if self.what == "features" else h).mean((2, 3)))


@pytest.mark.parametrize("what", ["images", "index", "features"])
def test_bf16_meets_other_types(what, age, x):
    net = age(OtherTypes(what))
    z = forward.freeze(net, precision="bf16")(x)
    assert z.dtype == torch.float32 and not torch.equal(z, net(x))
    torch.testing.assert_close(z, net(x), rtol=5e-2, atol=5e-2)
    assert planned(net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_in_other_precisions_stay_in_them(make, x, dtype):
    net = make(activation="silu").to(dtype)
    z = forward.freeze(net)(x.to(dtype))
    assert z.dtype == dtype and planned(net)
    torch.testing.assert_close(z, net(x.to(dtype)), rtol=0.05, atol=0.05)


# ---- a plan is compared with the network before it is used


def spoiled(monkeypatch, plain_graph):
    """Plans whose graph is ``plain_graph(graph, x, tensors)``."""
    real = plans.traced

    def traced(model):
        graph, *rest = real(model)
        forward = graph.forward
        graph.forward = lambda x, tensors: plain_graph(forward, x, tensors)
        return graph, *rest

    monkeypatch.setattr(plans, "traced", traced)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("why", "wrong"),
    [
        ("outputs", lambda f, x, w: f(x, w) * (1 + 1e-4)),
        ("gradients for the images", lambda f, x, w: f(x.detach(), w)),
        (
            "gradients for classify.bias",
            lambda f, x, w: f(x, {k: v.detach() if k == "classify.bias" else v
                                  for k, v in w.items()}),
        ),
    ],
    ids=["outputs", "images", "weights"],
)  # fmt: skip
def test_a_graph_that_does_otherwise_is_not_used(make, x, monkeypatch, why, wrong, training):
    spoiled(monkeypatch, wrong)
    net = make(activation="silu").train(training)
    assert planned(net)  # not compared yet
    as_is(net, x)
    assert forward.why_plain(net).startswith(why)


def test_a_graph_that_fails_is_not_used(tiny, x, monkeypatch):
    spoiled(monkeypatch, lambda f, x, w: f(x, w).view(7))
    as_is(tiny, x)
    assert forward.why_plain(tiny).startswith("its graph fails (RuntimeError")


def test_a_plan_is_compared_once_in_every_mode(tiny, x, monkeypatch):
    compared, real = [], plans.difference
    monkeypatch.setattr(plans, "difference", lambda *how: compared.append(1) or real(*how))
    for training in (True, False, True, False):
        tiny.train(training)
        for _ in range(3):
            forward.freeze(tiny)(x), forward.fast(tiny)(layers(tiny), x)
    assert len(compared) == 2


def test_weights_without_a_finite_output_decide_nothing(tiny, x):
    w = {k: v.detach() * torch.inf for k, v in layers(tiny).items()}
    assert not forward.freeze(tiny, w)(x).isfinite().any()
    as_is(tiny, x)
    assert planned(tiny) and plans.plan_of(tiny).verdicts == {None: None}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [False, True])
def test_tracing_and_comparing_leave_no_trace(make, x, training, dropout):
    """Statistics, modes and the random states of all three libraries."""
    net = make(dropout=dropout).train(training)
    other = copy.deepcopy(net)

    def states():
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()

    torch.manual_seed(3)
    as_function(other)(layers(other), x)
    want = states()
    torch.manual_seed(3)
    forward.fast(net)(layers(net), x)
    assert states() == want and planned(net)
    assert [m.training for m in net.modules()] == [m.training for m in other.modules()]
    for mine, theirs in zip(net.buffers(), other.buffers()):
        if not (training and dropout):  # the mask depends on how images lie in memory
            torch.testing.assert_close(mine, theirs)


def test_the_mode_a_plan_was_made_in_is_the_one_it_is_compared_in(tiny, x):
    want, f = tiny(x), forward.freeze(tiny)
    tiny.train()
    close(f(x), want)
    assert all(m.training for m in tiny.modules())
    tiny.eval()
    assert planned(tiny)


def test_no_stand_in_stays_in_a_module_that_keeps_what_it_computes(age, pictures):
    net = age(Caching())
    forward.freeze(net)(pictures), forward.fast(net)(layers(net), pictures)
    assert net.latest is None or type(net.latest) is torch.Tensor
    assert type(getattr(net.head, "seen", torch.ones(1))) is torch.Tensor


@pytest.mark.parametrize("kind", [Caching, Counting, Temperature])
def test_measures_leave_a_model_as_it_was(kind, age, pictures):
    net, y = age(kind()).train(), torch.arange(6)
    before = [dict(vars(m)) for m in net.modules()]
    evaluate(net, pictures, y, PGD(steps=1))
    average_flatness(net, pictures, y, PGD(steps=1), n=1)
    eigenvalues(net, pictures, y, k=1)
    assert [dict(vars(m)) for m in net.modules()] == before
    assert pickle.loads(pickle.dumps(net)).training and copy.deepcopy(net).training


class BuildsItself(nn.Module):
    """Makes its layer when it sees the first images."""

    def forward(self, x):
        if not hasattr(self, "head"):
            self.head = nn.Linear(x[0].numel(), 10)
        return self.head(x.flatten(1))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize("kind", [BuildsItself, lazy])
def test_models_that_build_themselves_stay_built(kind, x):
    net, y = kind(), torch.arange(6)
    first = evaluate(net, x, y, PGD(steps=1)).loss
    assert torch.equal(evaluate(net, x, y, PGD(steps=1)).loss, first)


def test_reports_say_that_they_ran_unaccelerated(age, pictures):
    y, attack = torch.arange(6), PGD(steps=1)
    for kind, note in ((Net, ""), (StraightThrough, "autograd function")):
        net = age(awkward.Net() if kind is Net else kind())
        report = evaluate(net, pictures, y, attack, doubts=False)
        lines = str(report).splitlines()[1:]
        assert bool(lines) == bool(note) and all("unaccelerated: " in line for line in lines)
        flatness = average_flatness(net, pictures, y, attack, n=1)
        for said in (report.notes, flatness.notes):
            assert note in " ".join(said) and bool(said) == bool(note)


# torch.jit.script is deprecated, and models made with it are still about
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.jit.script])
def test_modules_that_keep_their_weights_to_themselves(wrap, x):
    net, y = Flattened().eval(), torch.arange(6)
    wrapped, attack = wrap(net), PGD(steps=2)
    want, got = (evaluate(m, x, y, attack, doubts=False) for m in (net, wrapped))
    torch.testing.assert_close(got.robust_loss, want.robust_loss, rtol=1e-4, atol=1e-4)
    forward.freeze(wrapped)(x.clone().requires_grad_()).sum().backward()
    assert all(p.grad is None and p.requires_grad for p in wrapped.parameters())
    measure = partial(average_flatness, x=x, y=y, attack=attack, n=1)
    if wrap is nn.DataParallel:  # only says how the network is run
        assert measure(wrapped).value == pytest.approx(measure(net).value, abs=1e-5)
    else:
        with pytest.raises(ValueError, match="^model: "):
            measure(wrapped)


# ---- CUDA graphs, recorded by a stand-in: tests/test_gpu.py records real ones


@pytest.fixture
def recordings(monkeypatch):
    """Replays write into one place, as those of CUDA graphs do; a list of the shapes recorded."""
    shapes = []

    def record(f, samples):
        shapes.append(samples[0].shape)
        place = f(*samples).detach().clone()
        return lambda image: place.copy_(f(image).detach())

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return shapes


def test_recorded_functions_of_several_weights_live_side_by_side(tiny, x, g, recordings):
    plan, w = forward.plan_of(tiny), weights.detached(layers(tiny))
    sets = [weights.add(w, weights.sample(w, 0.5, g)) for _ in range(2)]
    folded = [plan.fold({**weights.all_tensors(tiny), **weights.detached(v)}) for v in sets]
    run = plan.recorder(None)
    with torch.no_grad():
        got = [run(folded[k], x) for k in (0, 1, 0, 0)]
        for k, z in zip((0, 1, 0, 0), got):  # read after all replays: none has touched another's
            close(z, as_function(tiny)(sets[k], x))
    assert not torch.allclose(got[0], got[1])
    assert plan.recorder(None) is run and recordings == [x.shape]


def test_every_shape_is_recorded_once(tiny, x, recordings):
    plan = forward.plan_of(tiny)
    folded = plan.fold(weights.detached(weights.all_tensors(tiny)))
    for n in (6, 3, 6, 3):
        close(plan.recorder(None)(folded, x[:n]), tiny(x[:n]))
    assert [len(x[:n]) for n in (6, 3)] == [shape[0] for shape in recordings]


def test_recording_without_a_gpu_is_refused(tiny):
    with pytest.raises(ValueError, match="recorded=True.*GPU"):
        forward.freeze(tiny, recorded=True)


@pytest.mark.parametrize("strange", [None, "control flow", "train mode"])
def test_weights_are_laid_out_only_for_the_fast_form(tiny, age, strange):
    """A network's own strided convolutions would corrupt memory with weights channels-last."""
    net = age(ControlFlow()) if strange == "control flow" else tiny.train(strange == "train mode")
    w = weights.detached(layers(net))
    out = forward.laid_out(net, w)
    assert out.keys() == w.keys() and all(torch.equal(out[k], v) for k, v in w.items())
    assert any(out[k].stride() != v.stride() for k, v in w.items()) == (strange is None)


@pytest.mark.parametrize("strange", ["control flow", "train mode"])
def test_recording_what_cannot_be_recorded_is_refused(tiny, age, strange):
    net = age(ControlFlow()) if strange == "control flow" else tiny.train()
    with pytest.raises(ValueError, match="recorded=True.*eval mode"):
        forward.freeze(net, recorded=True)


# ---- reported numbers are float32 in full: tests/test_gpu.py looks at the numbers


@pytest.fixture
def tf32(monkeypatch):
    """TF32 as a user of a GPU may have allowed it; () -> what convolutions and products use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    yield lambda: (cudnn.allow_tf32, torch.get_float32_matmul_precision())
    cudnn.allow_tf32 = before
    torch.set_float32_matmul_precision("highest")


def test_tf32_is_off_inside_and_back_afterwards(tf32):
    with pytest.raises(ZeroDivisionError), forward.exact():
        assert tf32() == (False, "highest")
        raise ZeroDivisionError
    assert tf32() == (True, "medium")


def test_without_a_gpu_no_setting_is_touched(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.backends.cudnn.allow_tf32
    with forward.exact():
        assert torch.backends.cudnn.allow_tf32 == before


# ---- what nothing in a model tells


class Setting:
    flip = False


class ReadsASetting(nn.Module):
    """What it computes depends on the attribute of a class it does not hold."""

    extra = 1.0

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def forward(self, x):
        return self.extra * self.net(x.flip(3) if Setting.flip else x)


@pytest.mark.parametrize("change", ["setting", "class"])
def test_a_plan_is_forgotten_when_the_model_computes_something_else(change, monkeypatch):
    torch.manual_seed(0)
    net, x = ReadsASetting().eval(), torch.rand(16, 3, 8, 8)
    attack, y = PGD(eps=0.03, steps=5), torch.arange(16) % 10
    evaluate(net, x, y, attack, doubts=False)
    assert forward.why_plain(net) is None  # there is a plan
    if change == "setting":
        monkeypatch.setattr(Setting, "flip", True)
    else:
        monkeypatch.setattr(ReadsASetting, "extra", -3.0)
    found, want = (evaluate(m, x, y, attack, doubts=False) for m in (net, copy.deepcopy(net)))
    torch.testing.assert_close(found.robust_loss, want.robust_loss, rtol=1e-4, atol=1e-4)


class Merging(nn.Linear):
    """A low-rank part that is merged into the weights for eval mode."""

    def __init__(self):
        super().__init__(192, 10)
        self.a, self.b = nn.Parameter(torch.randn(2, 192)), nn.Parameter(torch.randn(10, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a)
            self.merged = not mode
        return self

    def forward(self, x):
        z = F.linear(x, self.weight, self.bias)
        return z if self.merged else z + x @ self.a.T @ self.b.T


class Counting(nn.Module):
    """Its buffer changes where versions do not tell."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(192, 10)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen.data.add_(1)
        return self.f(x.flatten(1))


@pytest.mark.parametrize("make_net", [lambda: nn.Sequential(nn.Flatten(), Merging()), Counting])
def test_weights_and_buffers_are_given_back_however_they_were_changed(make_net):
    net, x = make_net().train(), torch.rand(6, 3, 8, 8)
    before = copy.deepcopy(net.state_dict())
    evaluate(net, x, torch.arange(6), PGD(steps=2))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(m.training and not getattr(m, "merged", False) for m in net.modules())


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(192, 12), nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x):
        h = self.a(x.flatten(1))
        h = torch.utils.checkpoint.checkpoint(self.norm, h, use_reentrant=False)
        return self.b(h.tanh())


def test_activation_checkpointing_is_refused_by_name():
    """Weights that were lent are gone when activations are computed again."""
    net, x, y = Recomputing(), torch.rand(6, 3, 8, 8), torch.arange(6)
    for measure in (lambda: worst_flatness(net, x, y, clean=True, xi=0.5, restarts=1),
                    lambda: average_flatness(net, x, y, PGD(steps=1), n=1)):  # fmt: skip
        with pytest.raises(ValueError, match="^model: recomputes activations"):
            measure()
