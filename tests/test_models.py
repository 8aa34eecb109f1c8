"""The networks: rebn, initialisation, activations, the rotation head."""

import pytest
import torch
from torch import nn

from flatlib import PGD, average_flatness, eigenvalues, layers, slices, worst_flatness
from flatlib.networks.parts import ACTIVATIONS, ReBatchNorm, WithRotations, initialise, scaled
from flatlib.networks.resnet import ResNet

pytestmark = pytest.mark.numerical


def test_rebn_is_batch_norm_with_gamma_one_plus_parameter(g):
    ours, theirs = ReBatchNorm(5), nn.BatchNorm2d(5)
    assert ours.weight.abs().sum() == 0 and ours.bias.abs().sum() == 0
    with torch.no_grad():
        ours.weight.normal_(0, 0.5, generator=g), ours.bias.normal_(0, 0.5, generator=g)
        theirs.weight.copy_(1 + ours.weight), theirs.bias.copy_(ours.bias)
    for _ in range(3):  # in train mode, the running statistics too
        x = 2 * torch.randn(8, 5, 3, 3, generator=g) + 1
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_weight_decay_pulls_gamma_to_one():
    norm = ReBatchNorm(1)
    nn.init.constant_(norm.weight, 0.5)
    optimiser = torch.optim.SGD(norm.parameters(), lr=0.1, weight_decay=1.0)
    norm(torch.rand(4, 1, 2, 2)).sum().mul(0).backward()
    optimiser.step()
    assert norm.weight.item() == pytest.approx(0.45)


def test_initialisation_has_the_stated_spread_in_every_layer(g):
    net = initialise(ResNet(blocks=(1, 1), width=32), g)
    for name, w in layers(net).items():
        if w.ndim == 1:
            assert w.abs().sum() == 0, name
            continue
        fan = w.shape[0] * w.shape[2] * w.shape[3] if w.ndim == 4 else w.shape[1]
        error = (2 / w.numel()) ** 0.5  # of a standard deviation, with a margin of five
        assert w.std().item() == pytest.approx((2 / fan) ** 0.5, rel=5 * error / 2 + 0.01), name
        assert abs(w.mean().item()) < 5 * (2 / fan / w.numel()) ** 0.5, name


def test_initialisation_is_decided_by_the_generator():
    nets = [
        initialise(ResNet((1,), 4), torch.Generator().manual_seed(seed)).state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
    assert not torch.equal(nets[0]["conv.weight"], nets[2]["conv.weight"])


def test_pixels_are_clamped_and_whitened_inside(make, g):
    net = make()
    x = torch.rand(4, 1, 8, 8, generator=g) * 3 - 1
    assert torch.equal(net(x), net(x.clamp(0, 1)))
    with_zero_mean = make()
    with_zero_mean.mean.zero_(), with_zero_mean.std.fill_(1)
    x = torch.rand(4, 1, 8, 8, generator=g) * 0.2 + 0.4
    torch.testing.assert_close(net(x), with_zero_mean((x - 0.3) / 0.4), rtol=1e-5, atol=1e-5)


def test_whitening_is_no_parameter(tiny):
    assert not {"mean", "std"} & set(dict(tiny.named_parameters()))
    assert {"mean", "std"} <= set(dict(tiny.named_buffers()))


@pytest.mark.parametrize(
    "name, formula",
    {
        "relu": lambda x: x * (x > 0),
        "silu": lambda x: x / (1 + torch.exp(-x)),
        "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    }.items(),
)
def test_activations_are_their_formulas(name, formula):
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), formula(x))


def test_the_activation_is_used_everywhere(make, xy):
    """Replacing the activation by the identity by hand in every place makes the network affine."""
    net = make(activation="mish")
    for module in (net, *net.blocks):
        assert module.act is ACTIVATIONS["mish"]
        module.act = lambda x: x
    a, b = xy.x[:1], xy.x[1:2]
    middle = net((a + b) / 2)
    torch.testing.assert_close(middle, (net(a) + net(b)) / 2, rtol=1e-4, atol=1e-4)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match=r"activation='swish'.*'silu'"):
        ResNet(activation="swish")


def test_dropout_acts_in_train_mode_only(make, xy):
    net, plain = make(dropout=0.5), make()
    assert torch.equal(net(xy.x), plain(xy.x))
    net.train()
    torch.manual_seed(0)
    assert not torch.equal(net(xy.x), net(xy.x))


def test_stages_halve_the_image_and_double_the_width():
    net, sizes = ResNet(), []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[1:])))
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2


def test_rotation_head_is_appended_and_marked(make, xy):
    base = make()
    net = WithRotations(base).eval()
    z = net(xy.x)
    assert z.shape == (24, 14) and net.outputs == 14
    assert torch.equal(z[:, :10], base(xy.x))
    assert net.head.auxiliary and not hasattr(base, "auxiliary")


def test_rotation_head_of_the_papers_size():
    net = WithRotations(ResNet())
    assert sum(p.numel() for p in net.head.parameters()) == 132_868


@pytest.mark.parametrize("s", [0.5, 2, 1])
def test_a_scaled_network_computes_the_same_from_other_weights(robust, xy, s):
    before = {k: v.clone() for k, v in robust.state_dict().items()}
    other = scaled(robust, s)
    with torch.no_grad():
        torch.testing.assert_close(other(xy.x), robust(xy.x), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in robust.state_dict().items())  # a copy
    for (name, module), (_, was) in zip(other.named_modules(), robust.named_modules()):
        factor = s if isinstance(module, nn.Conv2d) else 1
        for p, q in zip(module.parameters(recurse=False), was.parameters(recurse=False)):
            assert torch.equal(p, factor * q), name


def test_scaling_leaves_auxiliary_branches_alone(make):
    net = WithRotations(make()).eval()
    net.head.insert(0, nn.Identity())
    other = scaled(net, 2.0)
    for a, b in zip(net.head.state_dict().values(), other.head.state_dict().values()):
        assert torch.equal(a, b)
    assert torch.equal(2 * net.base.conv.weight, other.base.conv.weight)


@pytest.mark.parametrize("s", [0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_scales_nothing_is_named(tiny, s):
    with pytest.raises(ValueError, match=f"s={s!r}"):
        scaled(tiny, s)


def test_flatness_does_not_see_the_scale_and_the_hessian_does(robust, xy):
    """Sec. 10 of the paper's facts: lambda_max goes with 1/s^2, flatness and landscape stay."""
    small, large = scaled(robust, 0.5), scaled(robust, 2.0)
    top, quarter, four = (eigenvalues(m, *xy, k=1, tol=1e-4).item() for m in (robust, large, small))
    # the last layer is not scaled, so its part of the spectrum stays: a little less than 4 times
    assert four == pytest.approx(4 * top, rel=0.1) and quarter == pytest.approx(top / 4, rel=0.1)
    attack = PGD(eps=0.1, steps=5)
    for measure in (
        lambda m: average_flatness(m, *xy, attack, n=3).value,
        lambda m: worst_flatness(m, *xy, eps=0.1, xi=0.003, steps=5, restarts=2).value,
        lambda m: slices(m, *xy, attack, n=1, points=3).rloss.mean(),
    ):
        value = measure(robust)
        assert [measure(small), measure(large)] == pytest.approx([value] * 2, rel=0.02, abs=1e-3)
