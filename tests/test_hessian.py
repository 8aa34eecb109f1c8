"""Eigenvalues of the Hessian against dense matrices."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from flatlib import eigenvalues, layers
from flatlib.hessian import product, top_eigenvector
from flatlib.models import ResNet, initialise

pytestmark = pytest.mark.numerical


@pytest.fixture
def problem(age, g):
    """A smooth network of 138 weights in matrices, in float64, with images and labels."""
    net = ResNet((1,), 2, 3, (0.3,), (0.4,), "silu")
    net = age(initialise(net, g)).double()
    x = torch.rand(9, 1, 4, 4, generator=g, dtype=torch.float64)
    return net, x, torch.randint(3, (9,), generator=g)


def dense(net, x, y):
    """The Hessian of the mean loss, matrix by matrix, by torch.func.hessian."""
    w = {k: v.detach() for k, v in layers(net, biases=False).items()}
    shapes, sizes = [v.shape for v in w.values()], [v.numel() for v in w.values()]

    def loss(flat):
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes)]
        z = functional_call(net, dict(zip(w, parts)), (x,))
        return nn.functional.cross_entropy(z, y)

    return torch.func.hessian(loss)(torch.cat([v.flatten() for v in w.values()]))


def test_products_are_the_dense_matrix_times_vectors(problem, g):
    net, x, y = problem
    times, size = product(net, x, y)
    h = dense(net, x, y)
    assert h.shape == (size, size) == (96, 96) and h.abs().max() > 1e-2
    v = torch.randn(size, generator=g, dtype=torch.float64)
    torch.testing.assert_close(times(v), h @ v, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "how",
    [{"stride": 2}, {"padding": 2}, {"dilation": 2}, {"groups": 2}, {"stride": (2, 1)}],
    ids=str,
)
def test_products_hold_for_every_geometry_of_a_convolution(g, how):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3, **how), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double().eval()  # fmt: skip
    x = torch.rand(5, 1, 8, 8, generator=g, dtype=torch.float64)
    y = torch.randint(3, (5,), generator=g)
    times, size = product(net, x, y)
    v = torch.randn(size, generator=g, dtype=torch.float64)
    torch.testing.assert_close(times(v), dense(net, x, y) @ v, rtol=1e-6, atol=1e-8)


def test_one_eigenvalue_is_the_largest(problem):
    net, x, y = problem
    largest = torch.linalg.eigvalsh(dense(net, x, y))[-1:]
    torch.testing.assert_close(eigenvalues(net, x, y, k=1, tol=1e-10), largest)


@pytest.mark.parametrize("batch", [1, 4, 9, 128])
def test_products_do_not_depend_on_the_batch(problem, g, batch):
    net, x, y = problem
    times, size = product(net, x, y, batch)
    v = torch.randn(size, generator=g, dtype=torch.float64)
    torch.testing.assert_close(times(v), dense(net, x, y) @ v, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_eigenvalues_are_both_ends_of_the_dense_spectrum(problem, k):
    net, x, y = problem
    exact = torch.linalg.eigvalsh(dense(net, x, y))
    got = eigenvalues(net, x, y, k=k, tol=1e-10)
    assert got.shape == (k,) and got.dtype == torch.float64
    want = torch.cat([exact[: k // 2], exact[-(k // 2) :]])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    assert got[0] < 0 < got[-1] and (got.diff() >= 0).all()


def test_default_tolerance_and_single_precision_suffice(problem):
    net, x, y = problem
    exact = torch.linalg.eigvalsh(dense(net, x, y))
    got = eigenvalues(net.float(), x.float(), y, k=2)
    assert got[-1].item() == pytest.approx(exact[-1].item(), rel=0.02)


def test_the_same_call_gives_the_same_values(problem):
    net, x, y = problem
    before = np.random.get_state()[1].tolist()
    assert torch.equal(eigenvalues(net, x, y, k=2), eigenvalues(net, x, y, k=2))
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_rescaling_every_layer_scales_eigenvalues_with_one_over_s_squared(problem, s):
    """Convolutions times s with their statistics leave the function as it is: curvature is no
    invariant measure of flatness (Stutz et al. 2021, Table 2)."""
    net, x, y = problem
    net.norm.eps = net.blocks[0].norm1.eps = net.blocks[0].norm2.eps = 0.0
    net.classify.weight.requires_grad_(False)
    one, z = eigenvalues(net, x, y, k=4, tol=1e-10), net(x)
    with torch.no_grad():
        for conv, norm in ((net.conv, net.norm), (net.blocks[0].conv1, net.blocks[0].norm1),
                           (net.blocks[0].conv2, net.blocks[0].norm2)):  # fmt: skip
            conv.weight.mul_(s)
            if conv.bias is not None:
                conv.bias.mul_(s)
            norm.running_mean.mul_(s), norm.running_var.mul_(s * s)
    torch.testing.assert_close(net(x), z)
    torch.testing.assert_close(eigenvalues(net, x, y, k=4, tol=1e-10), one / s**2, rtol=1e-6,
                               atol=1e-9)  # fmt: skip


def test_the_model_is_left_as_it_was(problem):
    net, x, y = problem
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    in_train = eigenvalues(net, x, y, k=2)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        assert torch.equal(eigenvalues(net.eval(), x, y, k=2), in_train)


@pytest.mark.parametrize("k", [0, -2, 2.0, True])
def test_a_bad_number_of_eigenvalues_is_named(problem, k):
    with pytest.raises(ValueError, match=f"k={k!r}"):
        eigenvalues(*problem, k=k)


@pytest.mark.parametrize("k", [96, 97, 1000])
def test_more_eigenvalues_than_there_can_be(problem, k):
    with pytest.raises(ValueError, match=f"k={k}.*96 weights"):
        eigenvalues(*problem, k=k)


def test_the_top_eigenvector_is_that_of_the_dense_matrix(problem):
    net, x, y = problem
    v = top_eigenvector(net, x, y, tol=1e-8)
    assert list(v) == list(layers(net, biases=False))
    assert all(v[k].shape == w.shape for k, w in layers(net, biases=False).items())
    flat, h = torch.cat([part.flatten() for part in v.values()]), dense(net, x, y)
    top = torch.linalg.eigvalsh(h)[-1]
    assert flat.norm().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(h @ flat, top * flat, rtol=1e-5, atol=1e-6)


class WithUnused(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.unused = inner, nn.Conv2d(1, 2, 3).double()

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("batch", [4, 128])
def test_weights_that_take_no_part_have_no_curvature(problem, g, batch):
    net, x, y = problem
    inside, own = product(net, x, y, batch)
    times, size = product(WithUnused(net), x, y, batch)
    assert size == own + 18
    v = torch.randn(size, generator=g, dtype=torch.float64)
    want = torch.cat([inside(v[:own]), torch.zeros(18, dtype=torch.float64)])
    torch.testing.assert_close(times(v), want)
