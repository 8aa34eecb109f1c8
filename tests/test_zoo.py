"""Networks of many makes under every measure: the fast path gives the numbers of the plain one.

In float64, where a sign step of an attack does not turn on rounding.
"""

from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from awkward import FOLLOWED, PLAIN
from torch import nn

from flatlib import PGD, as_function, average_flatness, evaluate, layers, worst_flatness
from flatlib.fast import forward
from flatlib.measures.hessian import product
from flatlib.vision import models

pytestmark = pytest.mark.numerical


def vgg(dropout=0.5):
    features = models.vgg.make_layers([8, "M", 16, "M", 16], batch_norm=False)
    classify = nn.Sequential(nn.Linear(1024, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))
    return nn.Sequential(features, nn.Flatten(), classify)


def efficientnet():
    config = models.efficientnet.MBConvConfig
    stages = [config(1, 3, 1, 8, 8, 1, 1, 1), config(4, 3, 2, 8, 16, 2, 1, 1)]
    return models.EfficientNet(stages, dropout=0.2, num_classes=10, last_channel=32)


def convnext():
    stages = [models.convnext.CNBlockConfig(*sizes) for sizes in ((8, 16, 1), (16, None, 1))]
    return models.ConvNeXt(stages, num_classes=10)


def vit():
    return models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=10)


def swin():
    return models.SwinTransformer([4, 4], 8, [2, 1], [1, 2], [4, 4], num_classes=10)


def regnet():
    blocks = models.regnet.BlockParams.from_init_params(3, 8, 8.0, 2.0, 8)
    return models.RegNet(blocks, num_classes=10, stem_width=8)


def googlenet():
    """Its blocks side by side, joined."""
    parts = import_module("torchvision.models.googlenet")  # a function goes by this name too
    return nn.Sequential(
        parts.BasicConv2d(3, 8, kernel_size=3), nn.MaxPool2d(3, 2),
        parts.Inception(8, 4, 4, 8, 2, 4, 4), parts.Inception(20, 4, 4, 8, 2, 4, 4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10),
    )  # fmt: skip


PUBLISHED = {
    "resnet": partial(models.ResNet, models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "bottlenecks": partial(
        models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8
    ),
    "vgg": vgg,
    "densenet": partial(models.DenseNet, 4, (2, 2), 8, num_classes=10),
    "mobilenet v2": partial(models.mobilenet_v2, width_mult=0.25, num_classes=10),
    "mobilenet v3": partial(models.mobilenet_v3_small, width_mult=0.25, num_classes=10),
    "efficientnet": efficientnet,
    "convnext": convnext,
    "vit": vit,
    "swin": swin,
    "shufflenet": partial(models.ShuffleNetV2, [2, 2, 2], [8, 16, 32, 64, 64], num_classes=10),
    "mnasnet": partial(models.MNASNet, 0.25, num_classes=10),
    "squeezenet": partial(models.squeezenet1_1, num_classes=10),
    "googlenet": googlenet,
    "regnet": regnet,
}
HAND_MADE = {kind.__name__: kind for kind in (*FOLLOWED, *PLAIN)}
ZOO = PUBLISHED | HAND_MADE
RUN_PLAIN = {"convnext", "vit", "swin", *(kind.__name__ for kind in PLAIN)}
ROUGH = {"mobilenet v3"}  # no second derivative


@pytest.fixture(params=ZOO)
def network(request, age):
    torch.manual_seed(0)
    return request.param, age(ZOO[request.param]()).double()


@pytest.fixture
def xy(g):
    x = torch.rand(3, 3, 32, 32, generator=g, dtype=torch.float64)
    return x, torch.randint(10, (3,), generator=g)


@pytest.fixture
def plain(monkeypatch):
    """Run a measure on the model as it is."""

    def run(measure, *inputs):
        with monkeypatch.context() as patch:
            patch.setattr(forward, "plan_of", lambda model: "switched off")
            return measure(*inputs)

    return run


def numbers(model, x, y):
    """Per example: loss and robust loss, both kinds of flatness."""
    zero, attack = x.new_zeros(len(x)), PGD(eps=0.03, steps=2)
    how = {"reference": zero, "batch": 2}
    report = evaluate(model, x, y, attack, doubts=False)
    average = average_flatness(model, x, y, attack, 0.1, n=1, **how)
    how |= {"protocol": "paper", "steps": 2, "restarts": 1}
    worst = worst_flatness(model, x, y, 0.03, 0.01, **how)
    parts = report.loss, report.robust_loss, average.per_example, worst.per_example
    return torch.stack([part.double() for part in parts])


def derivatives(f, w, x, y):
    """Of the loss, for images and weights."""
    w, point = {k: v.detach().requires_grad_() for k, v in w.items()}, x.clone().requires_grad_()
    loss = F.cross_entropy(f(w, point), y)
    return torch.autograd.grad(loss, [point, *w.values()], materialize_grads=True)


def test_every_measure_is_that_of_the_model(network, xy, plain):
    name, model = network
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found, wanted = numbers(model, *xy), plain(numbers, model, *xy)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    w = layers(model)
    got, want = (derivatives(f(model), w, *xy) for f in (forward.fast, as_function))
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (forward.why_plain(model) is None) == (name not in RUN_PLAIN)  # after all this use


def hessian_times(model, x, y, v):
    """By double backward on the module itself, attention written out."""
    w = {k: t.detach().requires_grad_() for k, t in layers(model, biases=False).items()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = F.cross_entropy(torch.func.functional_call(model, w, (x.clone(),)), y)
        how = {"create_graph": True, "materialize_grads": True}
        grads = torch.autograd.grad(loss, w.values(), **how)
    along = torch.cat([one.flatten() for one in grads]) @ v
    products = torch.autograd.grad(along, w.values(), materialize_grads=True)
    return torch.cat([p.flatten() for p in products])


def gradient_difference(model, x, y, v, h=1e-5):
    """(gradient(w + h v) - gradient(w - h v)) / 2 h on the module itself."""
    w = {k: t.detach() for k, t in layers(model, biases=False).items()}
    parts = v.split([t.numel() for t in w.values()])

    def gradient(step):
        moved = {k: (t + step * p.view_as(t)).requires_grad_() for (k, t), p in zip(w.items(), parts)}
        loss = F.cross_entropy(torch.func.functional_call(model, moved, (x.clone(),)), y)
        grads = torch.autograd.grad(loss, moved.values(), materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    return (gradient(h) - gradient(-h)) / (2 * h)


def test_products_with_the_hessian_are_those_of_the_model(network, xy, g):
    name, model = network
    if name == "Fourier":
        with pytest.raises(ValueError, match="^model: complex"):
            product(model, *xy)
        return
    times, size = product(model, *xy)
    v = torch.randn(size, generator=g, dtype=torch.float64)
    if name in ROUGH:
        with pytest.raises(ValueError, match="model: .*second derivative.*hardsigmoid"):
            times(v)
        return
    by_differences = name == "WeightNormed"  # PyTorch's second derivative of it is wrong
    wanted = (gradient_difference if by_differences else hessian_times)(model, *xy, v)
    found, near = times(v), 1e-6 if by_differences else 1e-9
    assert wanted.abs().max() > 1e-6
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=near * float(wanted.abs().max()))
