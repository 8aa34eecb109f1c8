"""Err, RErr, Loss, RLoss; the contract of an attack; doubts; what is refused."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from flatlib import PGD, average_flatness, eigenvalues, evaluate, slices, worst_flatness
from flatlib.attacks.attack import Attack
from flatlib.losses import cross_entropy
from flatlib.measures.evaluate import robust_errors

pytestmark = pytest.mark.numerical

EPS = 0.1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_clean_measures_are_their_definitions(robust, digits):
    report = evaluate(robust, *digits.test)
    z = robust(digits.test.x).detach()
    p = z.double().softmax(1)[torch.arange(200), digits.test.y]
    assert report.Loss == pytest.approx(-p.log().mean().item(), rel=1e-5)
    assert report.Err == pytest.approx((z.argmax(1) != digits.test.y).double().mean().item())
    assert 0.02 < report.Err < 0.8
    assert report.RLoss == report.Loss and report.RErr == report.Err and report.doubts == ()


def test_robust_measures_take_the_worst_restart_of_every_example(robust, xy):
    """The loss of the worst start; an error if the image is wrong clean or after any start."""
    attack = PGD(eps=EPS, steps=3)
    report = evaluate(robust, *xy, replace(attack, restarts=4), seeded(), doubts=False)
    g, clean = seeded(), robust(xy.x)
    loss, wrong = [], [clean.argmax(1) != xy.y]
    for _ in range(4):
        z = robust(attack(robust, *xy, g)).detach()
        loss.append(cross_entropy(z, xy.y)), wrong.append(z.argmax(1) != xy.y)
    torch.testing.assert_close(report.robust_loss, torch.stack(loss).amax(0), atol=1e-4, rtol=1e-4)
    assert torch.equal(report.robust_wrong, torch.stack(wrong).any(0))
    assert report.RErr >= report.Err and report.RLoss >= report.Loss


def scripted(*logits):
    """A network whose k-th attacked forward pass is given: images carry their step in a pixel."""

    class Script(nn.Module):
        def forward(self, x):
            step = (x[:, 0, 0, 0] * 10).round().long()
            return torch.stack(logits)[step, torch.arange(len(x))]

    return Script()


@dataclass(frozen=True)
class Moves(Attack):
    """An attack that marks its images as the next step of the script."""

    restarts: int = 1
    count = [0]

    def __call__(self, f, x, y, g=None):
        self.count[0] += 1
        return x.clone().index_fill_(3, torch.tensor([0]), self.count[0] / 10)


def test_an_error_of_any_restart_counts_even_where_another_loses_more():
    """Restart 1 misclassifies with a small loss, restart 2 loses more but is still right."""
    clean = torch.tensor([[2.0, 0.0, 0.0]])
    flips = torch.tensor([[0.0, 0.1, -9.0]])  # wrong, CE about 0.74
    larger = torch.tensor([[0.0, -0.01, -0.01]])  # right, CE about 1.09
    Moves.count[0] = 0
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    report = evaluate(scripted(clean, flips, larger), x, y, Moves(restarts=2), doubts=False)
    assert (report.Err, report.RErr) == (0.0, 1.0)
    assert report.RLoss == pytest.approx(cross_entropy(larger, y).item())


def test_a_clean_error_counts_even_where_the_attack_repairs_it():
    wrong, repaired = torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    Moves.count[0] = 0
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    report = evaluate(scripted(wrong, repaired), x, y, Moves(), doubts=False)
    assert (report.Err, report.RErr) == (1.0, 1.0)
    assert report.RLoss == pytest.approx(cross_entropy(repaired, y).item())


def test_robust_errors_are_those_of_any_iterate_of_any_start(robust, digits):
    x, y = digits.test.first(120)
    attack = PGD(eps=EPS, steps=5, restarts=3)
    wrong = robust_errors(robust, x, y, attack, seeded(), batch=50)
    report = evaluate(robust, x, y, attack, seeded(), doubts=False)
    assert wrong.dtype == torch.bool and (wrong | ~report.wrong).all()
    assert report.RErr - 0.02 <= wrong.float().mean() <= report.RErr + 0.1
    clean = robust_errors(robust, x, y, replace(attack, eps=0.0), seeded())
    assert torch.equal(clean, report.wrong)
    assert robust_errors(robust, x, (robust(x).argmax(1) + 1) % 10, attack).all()


def test_the_split_is_by_the_clean_prediction(robust, digits):
    x, y = digits.test.first(100)
    report = evaluate(robust, x, y, PGD(eps=EPS, steps=3), seeded(), doubts=False)
    parts, n_wrong = report.split(), int(report.wrong.sum())
    assert 0 < n_wrong < 100 and parts["incorrect"] > parts["correct"]
    total = parts["incorrect"] * n_wrong + parts["correct"] * (100 - n_wrong)
    assert total / 100 == pytest.approx(report.RLoss, rel=1e-5)
    right = report.wrong.logical_not()
    assert math.isnan(evaluate(robust, x[right], y[right]).split()["incorrect"])


def test_results_do_not_depend_on_the_batch_without_randomness(robust, xy):
    attack = PGD(eps=EPS, steps=3, start="zero")
    one, many = (evaluate(robust, *xy, attack, batch=b, doubts=False) for b in (128, 5))
    torch.testing.assert_close(one.robust_loss, many.robust_loss, rtol=1e-4, atol=1e-5)
    assert len(one.loss) == len(many.loss) == 24  # the last partial batch too


def test_the_generator_decides_and_is_seed_0_by_default(robust, xy):
    attack = PGD(eps=EPS, steps=1)
    a, b, c, d = (evaluate(robust, *xy, attack, g, doubts=False).robust_loss
                  for g in (None, None, seeded(0), seeded(1)))  # fmt: skip
    assert torch.equal(a, b) and torch.equal(a, c) and not torch.equal(a, d)


def test_the_models_mode_statistics_and_gradients_are_left_alone(tiny, xy):
    tiny.train()
    tiny.blocks[0].eval()
    modes = [m.training for m in tiny.modules()]
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    report = evaluate(tiny, *xy, PGD(eps=EPS, steps=2), seeded())
    assert [m.training for m in tiny.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    assert all(p.grad is None for p in tiny.parameters())
    again = evaluate(tiny.eval(), *xy, PGD(eps=EPS, steps=2), seeded())
    assert torch.equal(report.robust_loss, again.robust_loss)


def test_a_report_reads_itself(robust, xy):
    report = evaluate(robust, *xy, PGD(eps=EPS, steps=3), doubts=False)
    values = f"Err {report.Err:.1%}  RErr {report.RErr:.1%}"
    assert str(report) == f"{values}  Loss {report.Loss:.3f}  RLoss {report.RLoss:.3f}  (n = 24)"


def test_a_report_without_an_attack_says_nothing_of_robustness(robust, xy):
    report = evaluate(robust, *xy)
    assert str(report) == f"Err {report.Err:.1%}  Loss {report.Loss:.3f}  (n = 24)"


# ---- the contract of an attack ---------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    what: str
    eps: float = EPS
    norm: str = "linf"

    def __call__(self, f, x, y, g=None):
        return {
            "eps": (x + 2 * EPS).clamp(0, 1),
            "l2": (x + 0.08).clamp(0, 1),  # fine in L-infinity, too long in L2
            "box": x - EPS / 2,
            "nan": torch.where(x > 0.5, float("nan"), x),
            "shape": x[:, :, 1:],
        }[self.what]


@pytest.mark.parametrize("what, said", [("eps", "eps = 0.1"), ("box", r"\[0, 1\]"),
                                        ("nan", "not finite"), ("shape", "returned")])  # fmt: skip
def test_an_attack_that_breaks_its_contract_is_refused(robust, xy, what, said):
    with pytest.raises(ValueError, match=f"Bad.*{said}"):
        evaluate(robust, *xy, Bad(what))


def test_the_contract_is_checked_in_the_attacks_own_norm(robust, xy):
    evaluate(robust, *xy, Bad("l2"), doubts=False)
    with pytest.raises(ValueError, match="more than eps = 0.1"):
        evaluate(robust, *xy, Bad("l2", norm="l2"), doubts=False)


# ---- doubts ----------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + torch.randn(len(x), 10)


class Quantised(nn.Module):
    """No gradient gets through rounding: masked, not robust."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x * 8).round() / 8)


def test_random_outputs_are_doubted(robust, xy):
    found = evaluate(Noisy(robust), *xy, PGD(eps=EPS, steps=2)).doubts
    assert any("random" in doubt and "EOT" in doubt for doubt in found)


def test_vanishing_gradients_are_doubted(robust, xy):
    report = evaluate(Quantised(robust), *xy, PGD(eps=EPS, steps=2, start="zero"))
    assert any("100%" in doubt and "zero gradient" in doubt for doubt in report.doubts)


def test_an_attack_beaten_by_noise_is_doubted(xy):
    class Lazy(PGD):
        def __call__(self, f, x, y, g=None):
            return x.clone()

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    y = net(xy.x).argmax(1)  # everything right, next to boundaries everywhere
    report = evaluate(net, xy.x, y, Lazy(eps=0.5))
    assert report.RErr == 0 and any("noise breaks" in doubt for doubt in report.doubts)


def test_a_sound_attack_is_not_doubted(robust, digits):
    assert evaluate(robust, *digits.test.first(100), PGD(eps=EPS, steps=20)).doubts == ()


# ---- what is refused before any work ---------------------------------------------------------


def wide_logits(robust):
    return nn.Sequential(robust, nn.Unflatten(1, (2, 5)))


MEASURES = {
    "evaluate": lambda m, x, y, **k: evaluate(m, x, y, PGD(eps=EPS, steps=1), **k),
    "average": lambda m, x, y, **k: average_flatness(m, x, y, PGD(eps=EPS, steps=1), n=1, **k),
    "worst": lambda m, x, y, **k: worst_flatness(m, x, y, EPS, steps=1, restarts=1, **k),
    "slices": lambda m, x, y, **k: slices(m, x, y, None, n=1, points=2, **k),
    "eigenvalues": lambda m, x, y, **k: eigenvalues(m, x, y, k=2),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
@pytest.mark.parametrize(
    "change, said",
    [
        (lambda m, x, y: (m, x + 0.5, y), r"pixels must lie in \[0, 1\].*1\.5"),
        (lambda m, x, y: (m, x * 255, y), r"\[0, 1\].*255"),
        (lambda m, x, y: (m, x.where(x < 0.9, float("nan")), y), "NaN"),
        (lambda m, x, y: (m, x.mul(255).to(torch.uint8), y), "float.*uint8"),
        (lambda m, x, y: (m, x[:, 0], y), r"\(N, C, H, W\).*\(24, 8, 8\)"),
        (lambda m, x, y: (m, x[:0], y[:0]), r"x: .*\(0, 1, 8, 8\)"),
        (lambda m, x, y: (m, x, y + 5), r"labels must lie in 0\.\.9, found 5 to 14"),
        (lambda m, x, y: (m, x, y - 1), r"found -1 to 8"),
        (lambda m, x, y: (m, x, y.float()), "integer labels.*float32"),
        (lambda m, x, y: (m, x, y[:5]), r"shape \(24,\).*\(5,\)"),
        (lambda m, x, y: (m, x, torch.eye(10)[y]), r"\(24, 10\)"),
        (lambda m, x, y: (wide_logits(m), x, y), r"logits.*\(2, 2, 5\)"),
    ],
    ids=["bright", "bytes", "nan", "dtype", "3d", "empty", "high", "low", "float", "short", "hot",
         "logits"],
)  # fmt: skip
def test_bad_input_is_refused_by_every_measure(robust, xy, measure, change, said):
    with pytest.raises(ValueError, match=said):
        measure(*change(robust, *xy))


@pytest.mark.parametrize("batch", [0, -1, 2.5, True])
def test_a_bad_batch_size_is_named(robust, xy, batch):
    with pytest.raises(ValueError, match=f"batch={batch!r}"):
        evaluate(robust, *xy, batch=batch)


@pytest.mark.parametrize("name", ["evaluate", "average", "worst", "slices"])
def test_a_generator_elsewhere_is_refused(robust, xy, name):
    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="generator on cuda, images on cpu"):
        MEASURES[name](robust, *xy, generator=Elsewhere())


# ---- what is reported is float32 in full: on a GPU TF32 is for steps only


class Watched(nn.Module):
    """Remembers for every forward pass whether convolutions were free to use TF32."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x):
        if x.sum() >= 0:  # a branch that tracing cannot follow: every pass comes here
            self.seen.append(torch.backends.cudnn.allow_tf32)
        return self.inner(x)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_the_last_pass_of_every_measure_is_without_tf32(make, xy, monkeypatch, measure):
    assert torch.backends.cudnn.allow_tf32  # PyTorch's default
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = Watched(make(activation="silu"))
    measure(model, *xy)
    assert not model.seen[-1] and torch.backends.cudnn.allow_tf32


def test_steps_of_an_attack_keep_the_users_setting(make, xy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = Watched(make())
    evaluate(model, *xy, PGD(eps=EPS, steps=2), doubts=False)
    # two images and one are tried, clean, PGD, attacked
    assert model.seen == [True, True, False, True, True, True, False]
