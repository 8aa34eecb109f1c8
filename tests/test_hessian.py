"""Eigenvalues of the Hessian against dense matrices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence
from torch import nn
from torch.func import functional_call

from flatlib import eigenvalues, layers
from flatlib.measures import hessian
from flatlib.measures.hessian import product, top_eigenvector
from flatlib.networks.parts import initialise
from flatlib.networks.resnet import ResNet

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


# ---- networks and numbers that ask for care


class Attention(nn.Module):
    """One layer of attention, fused or written out."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.mix, self.head = fused, nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        t = x.squeeze(1)
        q, k, v = self.mix(t).chunk(3, -1)
        if self.fused:
            q, k, v = (part.unsqueeze(1) for part in (q, k, v))
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))
        return self.head(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).mean(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_attention_has_the_eigenvalues_of_attention_written_out(problem, dtype):
    _, x, y = problem
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        found.append(eigenvalues(Attention(fused).to(dtype), x.to(dtype), y, k=4, tol=1e-6))
    assert found[1][-1] > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_pytorchs_own_transformer_layer(problem, g):
    _, x, y = problem
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    net = nn.Sequential(nn.Flatten(1, 2), encoder, nn.Flatten(), nn.Linear(16, 3)).double().eval()
    times, size = product(net, x, y)
    v = torch.randn(size, generator=g, dtype=torch.float64)
    w = {k: p.detach().requires_grad_() for k, p in layers(net, biases=False).items()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = nn.functional.cross_entropy(functional_call(net, w, (x,)), y)
        grads = torch.autograd.grad(loss, w.values(), create_graph=True)
    along = torch.cat([one.flatten() for one in grads]) @ v
    want = torch.cat([one.flatten() for one in torch.autograd.grad(along, w.values())])
    torch.testing.assert_close(times(v), want, rtol=1e-6, atol=1e-9)


class Once(torch.autograd.Function):
    """Differentiable once."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g


class OnlyOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.tanh(Once.apply(self.head.weight).sum() * x.flatten(1)))


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Hardsigmoid(), nn.Linear(8, 3)),
         "hardsigmoid_backward"),
        (OnlyOnce, ""),
    ],
    ids=["hardsigmoid", "once"],
)  # fmt: skip
def test_operations_without_a_second_derivative_are_named(problem, net, named):
    _, x, y = problem
    with pytest.raises(ValueError, match=f"^model: .*second derivative.*{named}"):
        eigenvalues(net(), x.float(), y)


def sure(x):
    """A network so sure of class 0 that loss and Hessian vanish."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].bias.zero_()[0] = 1e4
    return net, torch.zeros(len(x), dtype=torch.long)


class NoWeight(nn.Module):
    """Its weights take no part."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(16, 3)

    def forward(self, x):
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_hessian_that_is_zero_has_zeros_for_eigenvalues(problem, k):
    _, x, y = problem
    net, zeros = sure(x)
    values = eigenvalues(net, x.float(), zeros, k=k)
    assert torch.equal(values, torch.zeros(k, dtype=torch.float64))
    with pytest.raises(ValueError, match="^model: no gradient reaches the weights"):
        eigenvalues(NoWeight(), x.float(), y, k=k)  # as of one that hides its weights
    assert sum(v.square().sum() for v in top_eigenvector(net, x.float(), zeros).values()) > 0.99


def test_a_product_that_is_not_finite_is_refused(problem):
    net, x, y = problem
    with torch.no_grad():
        net.classify.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="^model: .*not finite"):
        eigenvalues(net, x, y)


@pytest.mark.parametrize("tol", [-1e-3, float("nan"), float("inf"), "small"])
def test_a_tolerance_that_is_none_is_refused(problem, tol):
    with pytest.raises(ValueError, match="^tol="):
        eigenvalues(*problem, tol=tol)


@pytest.mark.parametrize("k", [94, 95])
def test_all_but_one_eigenvalue(problem, k):
    net, x, y = problem
    exact = torch.linalg.eigvalsh(dense(net, x, y))
    low = k // 2
    want = torch.cat([exact[:low], exact[low - k :]])
    torch.testing.assert_close(eigenvalues(net, x, y, k=k, tol=1e-8), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("k", [96, 97, 500])
def test_as_many_eigenvalues_as_weights_are_refused(problem, k):
    with pytest.raises(ValueError, match=f"^k={k}: fewer than the 96"):
        eigenvalues(*problem, k=k)


def test_lanczos_that_does_not_converge_says_so(problem, monkeypatch):
    def stopped(*given, **how):
        raise ArpackNoConvergence("no convergence", np.ones(1), np.ones((96, 1)))

    monkeypatch.setattr("scipy.sparse.linalg.eigsh", stopped)
    with pytest.raises(ValueError, match="^tol=0.01: Lanczos found 1 of k=4.*larger tol"):
        eigenvalues(*problem)


class NormedByHand(nn.Linear):
    def __init__(self, given):
        super().__init__(16, 6)
        self.load_state_dict(given.state_dict())
        self.g = nn.Parameter(self.weight.detach().norm(dim=1, keepdim=True))

    def forward(self, x):
        length = self.weight.norm(dim=1, keepdim=True)
        return F.linear(x, self.g * self.weight / length, self.bias)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore")
def test_weight_norm_has_the_eigenvalues_of_its_formula(problem, norm):
    """PyTorch's own second derivative of it is wrong."""
    _, x, y = problem
    torch.manual_seed(0)
    plain, last = nn.Linear(16, 6), nn.Linear(6, 3)
    by_hand = nn.Sequential(nn.Flatten(), NormedByHand(plain), nn.Tanh(), last)
    net = nn.Sequential(nn.Flatten(), norm(plain), nn.Tanh(), last)
    values = (eigenvalues(m, x.float(), y, k=1, tol=1e-6) for m in (net, by_hand))
    assert next(values).item() == pytest.approx(next(values).item(), rel=1e-4)


def test_compiled_parts_and_hessians_that_are_not_symmetric_are_refused(problem):
    net, x, y = problem
    part = nn.Sequential(nn.Flatten(), torch.compile(nn.Linear(16, 3), backend="eager"))
    with pytest.raises(ValueError, match="^model: 1 is compiled"):
        eigenvalues(part, x.float(), y)
    skew, v, u = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([1.0, 1.0]), np.array([1.0, 2.0])
    with pytest.raises(ValueError, match="^model: its Hessian is not symmetric"):
        hessian._symmetric((v, skew @ v), (u, skew @ u))
    hessian._symmetric(*((w, (skew + skew.T) @ w) for w in (v, u)))
