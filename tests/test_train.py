"""The training step against ten plain lines, the random streams, and runs that are interrupted."""

import copy
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from first_step import double

from flatlib import AT, CATALOGUE, PGD, evaluate, fit, runs
from flatlib.data import Split
from flatlib.data.batches import Batches
from flatlib.files import checkpoints, paths
from flatlib.files.checkpoints import Damaged
from flatlib.losses import cross_entropy
from flatlib.streams import STREAMS, Streams
from flatlib.training import profiles, train
from flatlib.training.averages import EMA, SWA
from flatlib.training.methods import Noise
from flatlib.training.optimisers import Adam, EntropySGD
from flatlib.training.perturbations import AWP, SAM
from flatlib.training.schedules import Constant
from flatlib.training.train import Training, objective

SMOKE = profiles.get("smoke")

OTHERS = {
    "adam": replace(AT, optimiser=Adam()),
    "entropy3": replace(AT, optimiser=EntropySGD(walk=3, momentum=0.5), epochs=2.0),
    "swa": replace(AT, average=SWA(after=0.5)),
    "sam": replace(AT, perturbation=SAM()),
    "bn-train-attack": replace(AT, attack_mode="train"),
    "dropped-out": replace(AT, dropout=0.3),
    "all-at-once": replace(
        AT, labels=Noise(0.3), perturbation=AWP(), average=EMA(), data=Batches(unlabelled=0.3)
    ),
}
METHODS = {**CATALOGUE, **OTHERS}
RESUMED = (
    "at", "unlabeled", "autoaugment", "cyclic2", "noise0.3", "ema0.9975", "clip0.005", "awp0.01",
    "entropy1", "trades6", "mart6", "ssl4", "pgd-tau1", "no-leaking", *OTHERS,
)  # fmt: skip


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def without_seconds(history):
    return history.drop(columns="seconds")


# ---- one step --------------------------------------------------------------------------------


@pytest.mark.numerical
def test_adversarial_training_is_ten_plain_lines(monkeypatch):
    """PyTorch's own loop: eval-mode attack, train-mode forward, rate down at 2/5, 3/5, 4/5.

    In double precision and without folding: PGD's signs would amplify rounding.
    """
    network, load = profiles.network, profiles.Profile.load
    monkeypatch.setattr(profiles, "network", lambda *given: network(*given).double())
    monkeypatch.setattr(profiles.Profile, "load", lambda self: double(load(self)))
    monkeypatch.setattr(train, "freeze", lambda net: net)
    got, history = fit(AT, SMOKE, 0)
    random, data = Streams(0), SMOKE.load()
    net = profiles.network(AT, SMOKE, data, random["weights"])
    sgd = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    milestones = [4, 6, 8]  # of 5 epochs of 2 steps
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, milestones)
    attack = PGD(eps=SMOKE.eps, steps=7)
    curves = []
    for _ in range(5):
        losses = []
        for chosen in torch.randperm(64, generator=random["order"]).split(32):
            x, y = data.train.x[chosen], data.train.y[chosen]
            x_adv = attack(net.eval(), x, y, random["attack"])
            loss = cross_entropy(net.train()(x_adv), y).mean()
            sgd.zero_grad(), loss.backward(), sgd.step(), schedule.step()
            losses.append(loss.item())
        curves.append(sum(losses) / 2)
    for (k, p), q in zip(got.named_parameters(), net.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9, msg=k)
    assert history.train_rloss.tolist() == pytest.approx(curves, rel=1e-7)


@pytest.mark.numerical
def test_attack_and_perturbation_leave_statistics_alone(make, xy):
    """Only the descent's own forward pass counts, in every mode of attacking."""
    for method in (AT, replace(AT, attack_mode="train"), replace(AT, perturbation=AWP(1e-9)),
                   replace(AT, perturbation=SAM(1e-9))):  # fmt: skip
        net = make().train()
        twin = copy.deepcopy(net)
        seen = {}
        objective(method, net, xy, 0.0, Streams(0), seen)
        twin(seen["batch"].x_adv)
        for (k, a), b in zip(net.named_buffers(), twin.buffers()):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=k)
        assert all(m.training for m in net.modules())


@pytest.mark.numerical
def test_the_objective_sees_labels_only_through_the_target(make, xy):
    net = make().train()
    seen = {}
    value = objective(replace(AT, labels=Noise(1.0)), net, xy, 0.25, Streams(0), seen)
    batch = seen["batch"]
    want = cross_entropy(seen["logits"], batch.target).mean()
    torch.testing.assert_close(value.detach(), want)
    assert torch.equal(batch.y, xy.y) and batch.t == 0.25
    assert (batch.target.argmax(1) != xy.y).sum() > 12


@pytest.mark.parametrize("part", [AWP(0.1), SAM(0.5)], ids=["AWP", "SAM"])
def test_curves_are_those_without_adversarial_weights(make, xy, part):
    """What is logged is the network at w, though the gradient is taken at w + nu."""
    found = {}
    for name, method in {"at": AT, "moved": replace(AT, perturbation=part)}.items():
        seen = {}
        loss = objective(method, make().train(), xy, 0.0, Streams(0), seen)
        found[name] = (cross_entropy(seen["logits"], xy.y).mean(), loss.detach())
    torch.testing.assert_close(found["moved"][0], found["at"][0])
    assert found["moved"][1] > 1.02 * found["at"][1]  # what is descended is the loss at w + nu


@pytest.mark.numerical
def test_the_gradient_is_that_of_the_live_parameters(make, xy):
    """In double precision: in single precision what is zero, as a bias before a norm has for its
    gradient, is a rounding error of up to 1e-6."""
    xy = Split(xy.x.double(), xy.y)
    net, twin, seen = make().double().train(), make().double().train(), {}
    objective(AT, net, xy, 0.0, Streams(0), seen).backward()
    cross_entropy(twin(seen["batch"].x_adv), xy.y).mean().backward()
    got, want = ([p.grad for p in model.parameters()] for model in (net, twin))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    with pytest.raises(AssertionError):  # as it would for a factor in the loss
        torch.testing.assert_close(got, [1.01 * g for g in want], rtol=1e-9, atol=1e-12)


# ---- streams ---------------------------------------------------------------------------------


def test_streams_differ_from_each_other_and_between_seeds():
    draws = {(s, n): torch.rand(4, generator=Streams(s)[n]) for s in (0, 1) for n in STREAMS}
    values = [tuple(v.tolist()) for v in draws.values()]
    assert len(set(values)) == 2 * len(STREAMS)
    assert torch.equal(draws[0, "order"], torch.rand(4, generator=Streams(0)["order"]))


def test_streams_can_be_restored():
    random = Streams(0)
    torch.rand(5, generator=random["attack"])
    state = random.state()
    want = [torch.rand(3, generator=random[n]) for n in STREAMS]
    other = Streams(99)
    other.restore(state)
    assert all(torch.equal(torch.rand(3, generator=other[n]), w) for n, w in zip(STREAMS, want))


def test_a_part_draws_from_its_own_stream_only():
    """Label noise and Entropy-SGD's walk leave order and attack starts as they were."""

    def after(method):
        training = Training(method, SMOKE, 0)
        training.run_epoch()
        return training.random.state()

    plain = after(AT)
    noisy, walking = after(CATALOGUE["noise0.3"]), after(CATALOGUE["entropy1"])
    assert {k for k in STREAMS if not torch.equal(plain[k], noisy[k])} == {"labels"}
    assert {k for k in STREAMS if not torch.equal(plain[k], walking[k])} == {"walk"}


def test_training_leaves_the_global_generator_alone():
    training = Training(CATALOGUE["autoaugment"], SMOKE, 0)
    before = torch.get_rng_state()
    training.run_epoch()
    assert torch.equal(torch.get_rng_state(), before)


# ---- history ---------------------------------------------------------------------------------


def test_history_has_the_agreed_columns():
    _, history = fit(AT, replace(SMOKE, log_every=2), 0)
    assert set(history) >= {
        "epoch", "progress", "lr", "train_loss", "train_rerr", "train_rloss", "test_rloss",
        "test_rerr", "test_rloss_correct", "test_rloss_incorrect", "seconds",
    }  # fmt: skip
    assert history.epoch.tolist() == [0, 1, 2, 3, 4]
    assert history.progress.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert history.test_rloss.notna().tolist() == [False, True, False, True, True]
    assert history.train_loss.tolist() == history.train_rloss.tolist()  # AT descends plain CE
    assert history.train_rerr.between(0, 1).all()


def test_curves_are_plain_cross_entropy_whatever_is_descended():
    for name in ("smooth0.3", "trades6", "mart6", "ssl4"):
        _, history = fit(CATALOGUE[name], SMOKE, 0)
        assert (history.train_loss - history.train_rloss).abs().min() > 1e-3, name
        assert history.train_rloss.between(0, 10).all()


@pytest.mark.numerical
def test_the_last_point_of_the_curves_is_an_evaluation_of_the_last_model():
    model, history = fit(AT, SMOKE, 0)
    x, y = SMOKE.load().test.first(SMOKE.log_images)
    clean = evaluate(model, x, y)
    assert history.test_err.iloc[-1] == pytest.approx(clean.Err)
    assert history.test_rloss.iloc[-1] > clean.Loss


@pytest.mark.numerical
@pytest.mark.parametrize("average, count", [(SWA(after=0.5), 3), (EMA(0.9, calibrate=True), 10)])
def test_statistics_of_an_average_estimated_anew(average, count):
    """Over epochs 3, 4, 5 of 5, which lie at or behind half of training, or over all steps."""
    training = Training(replace(AT, average=average), SMOKE, 0)
    for _ in range(5):
        training.run_epoch()
    model, batches = training.model(), training.data.train.x.split(32)
    inputs = {m: [] for m in model.modules() if hasattr(m, "running_mean")}
    for m, seen in inputs.items():
        m.register_forward_pre_hook(lambda m, i, seen=seen: seen.append(i[0].detach()))
    want = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    for batch in batches:
        model(batch)
    names = {m: k for k, m in model.named_modules()}
    for m, seen in inputs.items():
        mean = torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0)
        var = torch.stack([s.transpose(0, 1).flatten(1).var(1) for s in seen]).mean(0)
        torch.testing.assert_close(want[f"{names[m]}.running_mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(want[f"{names[m]}.running_var"], var, rtol=1e-4, atol=1e-5)
    assert training.averaged == count


# ---- interruption ----------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_after(monkeypatch, steps):
    """Let ``steps`` optimiser steps pass, then raise."""
    inner, done = Training._step, []

    def step(self, *arguments):
        if self.method.attack is not None:  # the teacher of pseudo-labels may finish
            done.append(1)
            if len(done) > steps:
                raise Stop
        return inner(self, *arguments)

    monkeypatch.setattr(Training, "_step", step)


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.glob("*.safetensors") if "state" not in f.name}


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_run_ends_as_if_it_had_not_been(name, tmp_path, monkeypatch):
    method = METHODS[name]
    want, usual = fit(method, SMOKE, 3, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, 3)  # in the middle of the second epoch
        fit(method, SMOKE, 3, tmp_path / "parts")
    assert "epoch-000.safetensors" in contents(tmp_path / "parts")
    got, history = fit(method, SMOKE, 3, tmp_path / "parts")
    assert same(got.state_dict(), want.state_dict())
    pd.testing.assert_frame_equal(without_seconds(history), without_seconds(usual), rtol=0, atol=0)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def counted(monkeypatch):
    """The methods whose epochs were run, one entry per epoch: of the teacher and of the method."""
    inner, done = Training.run_epoch, []

    def run_epoch(self):
        done.append("teacher" if self.method.attack is None else "method")
        return inner(self)

    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    return done


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_a_teacher_is_a_run_trained_once_however_often_it_is_stopped(
    tmp_path, monkeypatch, stop
):
    """Before an epoch of the teacher, between the two, and before an epoch of the method."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    method = CATALOGUE["unlabeled"]
    want, _ = fit(method, SMOKE, 3)
    epochs = counted(monkeypatch)
    Training(method, SMOKE, 3)
    assert not epochs  # nothing is trained before it is asked for
    (run,) = runs.select("unlabeled", "smoke", 3)
    monkeypatch.setattr(train.clock.time, "time", lambda: float(len(epochs)))
    with pytest.raises(train.clock.TimeIsUp):
        run.train(until=stop)
    assert len(epochs) == stop
    got = run.train().model()
    assert epochs == ["teacher"] * 5 + ["method"] * 5 and same(got.state_dict(), want.state_dict())
    runs.select(replace(method, epochs=0.4), "smoke", 3)[0].train()  # has the same teacher
    assert epochs.count("teacher") == 5 and len(epochs) == 12
    assert run.teachers["clean"].key != runs.select("unlabeled", "smoke", 4)[0].teachers["clean"].key


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    want, usual = fit(AT, SMOKE, 0, tmp_path)
    stop_after(monkeypatch, 0)
    got, history = fit(AT, SMOKE, 0, tmp_path)
    assert same(got.state_dict(), want.state_dict()) and history.equals(usual)


def test_candidates_for_early_stopping_are_kept(tmp_path):
    fit(AT, SMOKE, 0, tmp_path)
    names = sorted(contents(tmp_path))
    assert names == [f"epoch-00{e}.safetensors" for e in (0, 2, 4)]
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


KILLED = """
import json, os, signal, sys
from pathlib import Path
from flatlib import fit
sys.path.insert(0, sys.argv[1])
from test_train import METHODS, SMOKE

for number, name in enumerate(sys.argv[3:]):
    if os.fork() == 0:
        count, sync = 0, os.fsync
        def killing(handle):  # in the middle of writing a file, another one for every method
            global count
            count += 1
            if count == 3 + number % 4:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)
        os.fsync = killing
        fit(METHODS[name], SMOKE, 3, Path(sys.argv[2]) / name)
        os._exit(0)
    print(json.dumps([name, os.wait()[1]]), flush=True)
"""


def test_killed_while_writing_a_run_ends_as_if_it_had_not_been(tmp_path):
    names = ["at", "ema0.9975", "adam", "entropy1", "unlabeled", "ssl4", "swa"]
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED, here, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ends = dict(json.loads(line) for line in done.stdout.splitlines())
    assert ends == dict.fromkeys(names, signal.SIGKILL)
    for name in names:
        want, usual = fit(METHODS[name], SMOKE, 3)
        half = list((tmp_path / name).rglob(".*.safetensors.*"))
        assert half, "killed between writes, not within"
        got, history = fit(METHODS[name], SMOKE, 3, tmp_path / name)
        assert same(got.state_dict(), want.state_dict()), name
        pd.testing.assert_frame_equal(
            without_seconds(history), without_seconds(usual), rtol=0, atol=0
        )


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[::-1]])
def test_a_damaged_state_is_named_and_left_alone(tmp_path, damage, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, 3)
        fit(AT, SMOKE, 0, tmp_path)
    state = tmp_path / "state.safetensors"
    state.write_bytes(damage(state.read_bytes()))
    before = {f: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(Damaged, match="state.safetensors"):
        fit(AT, SMOKE, 0, tmp_path)
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == before


@pytest.mark.parametrize("other, said", [
    ({"method": CATALOGUE["trades6"]}, "method=AT, not attack=.*Trades"),
    ({"seed": 7}, "seed=0, not 7"),
    ({"profile": replace(SMOKE, epochs=6)}, "profile.epochs=5, not 6"),
])  # fmt: skip
def test_a_folder_of_another_training_is_refused(tmp_path, other, said):
    what = {"method": AT, "profile": SMOKE, "seed": 0}
    fit(**what, folder=tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"{tmp_path} holds another training, begun with {said}"):
        fit(**what | other, folder=tmp_path)
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_a_state_of_another_device_is_refused_and_one_that_does_not_say_is_taken(tmp_path):
    want, _ = fit(AT, SMOKE, 0, tmp_path)
    path = tmp_path / "state.safetensors"
    tensors, about = checkpoints.load(path)
    there = about | {"begun": about["begun"] | {"device": "cuda"}}
    checkpoints.save(path, tensors, there)
    with pytest.raises(ValueError, match="begun with device=cuda, not cpu"):
        fit(AT, SMOKE, 0, tmp_path)
    old = {k: v for k, v in about.items() if k != "begun"}
    checkpoints.save(path, tensors, old)
    assert same(fit(AT, SMOKE, 0, tmp_path)[0].state_dict(), want.state_dict())
    small = {k: v[:16] if k.startswith("random/") else v for k, v in tensors.items()}
    checkpoints.save(path, small, old)  # as large as a generator's state on a GPU
    with pytest.raises(ValueError, match="begun on another kind of device than cpu"):
        fit(AT, SMOKE, 0, tmp_path)


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="profile='digit'.*'digits'"):
        fit(AT, "digit")


def test_method_without_milestones_uses_its_full_rate():
    _, history = fit(replace(AT, attack=None, schedule=Constant()), SMOKE, 0)
    assert history.lr.tolist() == [0.05] * 5 and math.isfinite(history.train_loss.iloc[-1])
