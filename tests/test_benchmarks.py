"""The straightforward implementation is right, and the benchmark runs."""

import csv
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from flatlib import AT, PGD, average_flatness, weights, worst_flatness
from flatlib.data import Split
from flatlib.files import paths
from flatlib.measures import hessian
from flatlib.streams import Streams
from flatlib.training.train import objective

sys.path.insert(0, str(paths.ROOT))  # also for a bare "pytest"

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import floor, items, peers, plain, race, report, subjects  # noqa: E402

EPS = 0.15
STEP = PGD(eps=EPS).step


def seeded():
    return torch.Generator().manual_seed(1)


def test_pgd(make, xy):
    net = make()
    x_adv = plain.pgd(net, *xy, EPS, STEP, 5, seeded())
    torch.testing.assert_close(x_adv, PGD(eps=EPS, steps=5)(net, *xy, seeded()))
    loss = plain.robust_loss(net, *xy, EPS, STEP, 5, seeded(), restarts=2)
    assert (loss >= F.cross_entropy(net(x_adv), xy[1], reduction="none") - 1e-6).all()


def test_layers(make):
    net = make()
    assert [p.shape for p in plain.layers(net)] == [p.shape for p in weights.layers(net).values()]


def test_average_flatness(make, xy):
    net, zero = make(), torch.zeros(len(xy[0]))
    flat = average_flatness(net, *xy, PGD(eps=EPS, steps=4), 0.5, 3, seeded(), reference=zero)
    found = plain.average_flatness(net, *xy, zero, EPS, STEP, 4, 0.5, 3, seeded())
    assert found == pytest.approx(flat.value, rel=1e-4)


@pytest.mark.parametrize("restarts", [1, 3])
def test_worst_flatness(make, xy, restarts):
    net, zero = make(), torch.zeros(len(xy[0]))
    inside = (0.2 + 0.6 * xy[0], xy[1])  # the box never binds at the start
    given = {"protocol": "paper", "reference": zero}
    flat = worst_flatness(net, *inside, EPS, 0.01, 4, restarts, seeded(), **given)
    how = (zero, EPS, STEP, 4, 0.01, restarts, seeded())
    assert plain.worst_flatness(net, *inside, *how) == pytest.approx(flat.value, rel=1e-4)


def test_training_step(make, xy):
    one, other, random = make(), make(), Streams(0)
    random["attack"] = seeded()
    a, b = (AT.optimiser.build(list(net.parameters()), seeded()) for net in (one, other))
    found = plain.training_step(one, a, *xy, 8 / 255, PGD().step, 7, seeded())
    other.train()
    loss = objective(AT, other, Split(*xy), 0.0, random, {})
    loss.backward()
    b.step()
    assert found == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(one.state_dict().values(), other.state_dict().values()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_hessian_product(make, xy):
    net = make(width=2)
    times, size = plain.hessian_product(net, *xy)
    fast, same = hessian.product(net, *xy)
    v = torch.randn(size, generator=seeded())
    assert size == same
    torch.testing.assert_close(times(v), fast(v), rtol=1e-3, atol=1e-4 * fast(v).abs().max())
    top = plain.extreme_eigenvalues(times, size).max()
    assert plain.power_iteration(times, size, 40) == pytest.approx(top, rel=0.05)


def test_work_is_counted():
    conv = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)
    x = torch.rand(5, 2, 4, 4, requires_grad=True)
    once = 2 * 5 * 4 * 4 * 3 * 2 * 9
    with floor.Work() as work:
        loss = F.cross_entropy(conv(x).mean((2, 3)), torch.zeros(5, dtype=torch.long))
        loss.backward()
    assert (work.flops, work.losses, work.gradients) == (3 * once, 1, 1)
    with floor.Work() as work:
        torch.autograd.grad(conv(x).sum(), x)
    assert work.flops == 2 * once


def test_unequal_work_is_shown():
    def run(steps: int) -> float:
        return float(steps)

    item = items.Item(
        "toy", "toy", "RLoss", {"base": lambda: run(100), "other": lambda: run(102)}, float, None,
        lambda result, work: int(result),
    )  # fmt: skip
    base, other = race.race(item, "small", repeats=3)
    assert base.doubts == () and len(base.seconds) == 3
    assert other.doubts == ("102 gradient steps instead of 100", "RLoss +2.0%")


def test_peak_memory_is_that_of_the_process_itself():
    """Not that of the process that started it, which Linux hands on to ``getrusage``."""
    hog = torch.ones(300_000_000)  # 1.2 GB
    code = "from benchmarks import race; print(race.own_peak())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.ROOT
    )
    assert hog.sum() > 0 and 50 < float(done.stdout) < 1000 < race.own_peak()


def test_missing_peers_are_named(monkeypatch):
    monkeypatch.setattr(peers, "version", lambda name: None)
    size = subjects.SIZES["toy"]
    (base, *_) = race.race(items.pgd(subjects.small(size), size), "small", 1)
    assert "foolbox not installed" in report.speeds("small", [base])


def test_the_command(tmp_path, capsys):
    page, out = tmp_path / "all.md", tmp_path / "this-machine"
    how = ["--size", "toy", "--threads", "1", "--no-memory", "--out", str(out)]
    assert command.main([*how, "--page", str(page)]) == 0
    with open(out / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["item"] for row in rows} == set(command.CHOICES)
    assert all(float(row["median_seconds"]) > 0 for row in rows)
    ours = [row for row in rows if row["contestant"] == "flatlib" and row["item"] != "zoo"]
    assert not any("instead of" in row["doubts"] for row in ours)
    assert all(title in page.read_text() for title in subjects.TITLES.values())
    assert command.main([*how, "--probe", "small", "pgd", "flatlib"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) > 10


def test_a_gpu_that_is_not_there_is_told_at_once(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["--device", "cuda"])
    assert "PyTorch finds no GPU" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_command_on_a_gpu(tmp_path):
    out, page = tmp_path / "gpu", tmp_path / "all.md"
    how = ["--size", "toy", "--device", "cuda", "--out", str(out), "--page", str(page)]
    assert command.main(how) == 0
    with open(out / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["item"] for row in rows} == set(items.ON_GPU)
    assert "TFLOP/s in bf16" in page.read_text() and "a PGD-7 epoch" in page.read_text()


def test_what_the_timings_amount_to():
    """391 training steps are an epoch; 10 draws of 1000 images from one draw of 8."""
    size = subjects.SIZES["quick"]
    rows = [
        race.Result("resnet18", item, item, "flatlib", "", "", 0.0, 1, 1.0, seconds=[2.0])
        for item in ("training", "average")
    ]
    epoch, flatness = report.whole(rows, size)
    assert epoch == "ResNet-18, a PGD-7 epoch of 50 000 images: 1.25e+04 s flatlib"
    assert flatness.endswith("10 draws: 2.5e+03 s flatlib")
