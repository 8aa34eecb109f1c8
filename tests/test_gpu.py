"""What a GPU computes is what the CPU computes; it is never waited for inside an attack."""

import copy
from dataclasses import replace

import pytest
import torch

from flatlib import AT, PGD, average_flatness, eigenvalues, evaluate, fit, worst_flatness
from flatlib.data import Split
from flatlib.fast.forward import freeze
from flatlib.losses import cross_entropy
from flatlib.measures.flatness import robust_loss
from flatlib.streams import Streams
from flatlib.training.train import objective
from flatlib.weights import detached, layers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
EPS = 0.1


@pytest.fixture(autouse=True)
def full_precision():
    """TF32 off: equality is to float32 rounding."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def both(robust, digits):
    """(model, x, y) on the CPU and on the GPU."""
    here = robust, *digits.test.first(100)
    return here, (copy.deepcopy(robust).cuda(), here[1].cuda(), here[2].cuda())


def test_frozen_networks_agree(both):
    (model, x, _), (there, x_there, _) = both
    torch.testing.assert_close(freeze(there)(x_there).cpu(), freeze(model)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_recorded_networks_agree(both, precision):
    """Logits and image gradients, of two weight sets by turns and of two batch sizes."""
    _, (model, x, y) = both
    w = detached(layers(model))
    sets = [{k: v * scale for k, v in w.items()} for scale in (1.0, 0.9)]
    plain, recorded = ([freeze(model, v, precision, r) for v in sets] for r in (False, True))
    for k, n in ((0, 100), (1, 100), (0, 100), (1, 37)):
        found = []
        for f in (plain[k], recorded[k]):
            point = x[:n].clone().requires_grad_()
            z = f(point)
            found.append((z, *torch.autograd.grad(cross_entropy(z, y[:n]).sum(), point)))
        for here, there in zip(*found):
            torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_attacks_on_recorded_networks_agree(both):
    _, (model, x, y) = both
    attack = PGD(eps=EPS, steps=10, start="zero")
    losses = [
        cross_entropy(model(attack(freeze(model, recorded=r), x, y)), y).mean().item()
        for r in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_attacks_agree(both):
    """From the same start: generators differ between devices."""
    attack = PGD(eps=EPS, steps=10, start="zero")
    losses = [evaluate(m, x, y, attack, doubts=False).robust_loss.cpu() for m, x, y in both]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)


def test_flatness_agrees_to_sampling_error(both):
    """The draws differ, the means may not."""
    for measure in (
        lambda m, x, y: average_flatness(m, x, y, PGD(eps=EPS, steps=5), n=40),
        lambda m, x, y: worst_flatness(m, x, y, EPS, 0.01, 10, 10),
    ):
        here, there = (measure(*subject) for subject in both)
        spread = 4 * max(here.std, there.std) / 40**0.5
        assert there.value == pytest.approx(here.value, rel=0.1, abs=spread)


def test_eigenvalues_agree(both):
    here, there = (eigenvalues(*subject, k=2, tol=1e-4) for subject in both)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_one_training_step_agrees(both, monkeypatch):
    """Loss and every gradient of one step of AT from the same start."""
    method, found = replace(AT, attack=PGD(eps=EPS, start="zero")), []
    for model, x, y in both:
        net = copy.deepcopy(model).train()
        loss = objective(method, net, Split(x, y), 0.0, Streams(0, x.device), {})
        loss.backward()
        found.append([loss.detach().cpu(), *(p.grad.cpu() for p in net.parameters())])
    for here, there in zip(*found):
        torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-4)


def test_training_is_decided_by_its_seed(smoke):
    runs = [fit(AT, smoke, seed, device="cuda")[0].state_dict() for seed in (0, 0, 1)]
    for name, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][name], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(runs[0]["conv.weight"], runs[2]["conv.weight"])


def test_the_attack_loop_never_waits_for_the_gpu(both):
    _, (model, x, y) = both
    f, attack, g = freeze(model), PGD(eps=EPS, steps=5), torch.Generator("cuda").manual_seed(0)
    attack(f, x, y, g)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        attack(f, x, y, g)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_steps_find_as_strong_attacks(both):
    _, (model, x, y) = both
    exact, fast = (
        evaluate(model, x, y, PGD(eps=EPS, steps=10), doubts=False, precision=p).RLoss
        for p in ("float32", "bf16")
    )
    assert fast == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("how", ["older names", "newer names"])
def test_what_is_reported_is_float32_whatever_the_user_allows(both, how):
    """TF32 is for steps: without any, losses on a GPU are the CPU's to float32 rounding."""
    backends = torch.backends
    if how == "newer names" and not hasattr(backends.cudnn, "conv"):
        pytest.skip("this PyTorch knows the older names only")
    still = PGD(eps=EPS, steps=0, start="zero")
    (model, x, y), (there, x_there, y_there) = both
    w, moved = detached(layers(model)), detached(layers(there))
    here = [evaluate(model, x, y).loss, robust_loss(model, w, x, y, still, None)]
    parts = ()
    if how == "newer names":
        parts = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [part.fp32_precision for part in parts]
    try:
        if how == "older names":
            backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = True
        for part in parts:
            part.fp32_precision = "tf32"
        found = [evaluate(there, x_there, y_there).loss,
                 robust_loss(there, moved, x_there, y_there, still, None)]  # fmt: skip
    finally:
        for part, value in zip(parts, before):
            part.fp32_precision = value
    for a, b in zip(here, found):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-5)
