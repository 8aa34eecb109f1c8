"""The catalogue: every entry trains, differs from AT, and does what it is named for; every slot has
a neutral setting under which training is AT's."""

import copy
import itertools
import math
from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
import torch

from flatbook import published
from flatlib import AT, CATALOGUE, PGD, Method, fit, runs
from flatlib.attacks.pgd import PerTask
from flatlib.catalogue.stutz2021 import MAIN, TABLE1
from flatlib.data import Split
from flatlib.data.batches import Batches
from flatlib.files import paths
from flatlib.keys import describe
from flatlib.losses import Adversarial, Mart, Rotation, Trades
from flatlib.networks.parts import ACTIVATIONS, WithRotations
from flatlib.networks.resnet import ResNet
from flatlib.streams import Streams
from flatlib.training import profiles
from flatlib.training.averages import EMA
from flatlib.training.methods import Exact, Noise, Smooth, differences
from flatlib.training.optimisers import SGD, EntropySGD
from flatlib.training.perturbations import AWP, SAM, Unperturbed
from flatlib.training.projections import Clip
from flatlib.training.schedules import Constant, Cyclic, Steps
from flatlib.training.train import Training, objective

SMOKE = replace(profiles.get("smoke"), epochs=3, log_every=3, outer_lr=EntropySGD.lr)


@cache
def trained(method: Method, seed: int = 0):
    """The state and history of a method after three epochs, six steps for most."""
    model, history = fit(method, SMOKE, seed)
    return model.state_dict(), history


def same(a, b, parameters_only=False):
    names = [k for k in a if not parameters_only or "running" not in k]
    return all(torch.equal(a[k], b[k]) for k in names)


# ---- the record and its derived names --------------------------------------------------------


def test_table1_is_in_the_catalogue_under_the_published_names():
    assert set(MAIN) <= set(TABLE1) and len(set(MAIN)) == 10
    assert set(TABLE1) <= set(CATALOGUE) and len(TABLE1) == len(set(TABLE1)) == 19
    assert set(CATALOGUE) >= set(published.names()["method"]) and len(published.names()) == 74
    assert set(TABLE1) == set(published.table1().index)


def test_no_two_entries_are_equal_or_described_alike():
    for (a, method), (b, other) in itertools.combinations(CATALOGUE.items(), 2):
        assert method != other and differences(method) != differences(other), (a, b)


def test_differences_are_the_slots_that_changed():
    assert differences(AT) == {}
    for method in CATALOGUE.values():
        changed = {f.name for f in fields(Method)
                   if getattr(method, f.name) != getattr(AT, f.name)}  # fmt: skip
        assert set(differences(method)) == changed
    assert differences(CATALOGUE["noise0.3"]) == {"labels": "Noise()"}
    assert differences(replace(AT, labels=Noise(0.4))) == {"labels": "Noise(tau=0.4)"}
    assert differences(CATALOGUE["mish"]) == {"activation": "'mish'"}


def test_descriptions_nest():
    assert describe(PGD()) == "PGD()"
    assert describe(PerTask(PGD(steps=3), clean=0.1)) == "PerTask(attack=PGD(steps=3), clean=0.1)"


def test_an_unknown_name_answers_with_the_nearest():
    with pytest.raises(KeyError, match="no method 'awp0.1'.*'awp0.01'"):
        CATALOGUE["awp0.1"]
    with pytest.raises(KeyError, match="no method 'zzz'.*'at'"):
        CATALOGUE["zzz"]


@pytest.mark.parametrize(
    "slot, value", [("activation", "tanh"), ("attack_mode", "both"), ("epochs", 0.0),
                    ("epochs", math.nan), ("epochs", math.inf), ("dropout", 1.0),
                    ("dropout", -0.1)],
)  # fmt: skip
def test_bad_slots_are_named_with_their_value(slot, value):
    with pytest.raises(ValueError, match=f"{slot}={value!r}"):
        replace(AT, **{slot: value})


@pytest.mark.parametrize("part", [Smooth, Noise])
@pytest.mark.parametrize("tau", [-0.1, 1.1, math.nan, "0.3"])
def test_bad_rates_of_labels_are_named(part, tau):
    with pytest.raises(ValueError, match=f"tau={tau!r}"):
        part(tau)


@pytest.mark.parametrize(
    "slots, said",
    [
        ({"loss": Rotation(2.0)}, r"loss=Rotation.*rotated=0\.0"),
        ({"data": Batches(rotated=0.5)}, r"loss=Adversarial.*rotated=0\.5"),
        ({"attack": PerTask(PGD())}, "attack=PerTask.*data.rotated"),
        ({"loss": Rotation(), "data": Batches(rotated=0.5), "labels": Noise(0.1)},
         "labels=Noise.*true labels only"),
    ],
    ids=["no rotated images", "no loss for them", "attack alone", "labels unheard"],
)  # fmt: skip
def test_parts_that_do_not_fit_together_are_refused(slots, said):
    with pytest.raises(ValueError, match=said):
        replace(AT, **slots)


def test_a_part_without_a_description_of_its_own_has_no_key():
    """The repr of a function holds its address: another key in every process."""

    @dataclass
    class Thawed:
        rate: float = 0.1

        def __call__(self, f, x, y, g):
            return x

    for part in (lambda f, batch: batch.x, Thawed(), PerTask(lambda f, x, y, g: x)):
        method = replace(CATALOGUE["ssl4"], attack=part)
        with pytest.raises(ValueError, match="frozen dataclass with __call__"):
            differences(method)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"augment=\['mixup'\].*'cutout'"):
        Batches(augment=("crop", "mixup"))


# ---- neutral settings ------------------------------------------------------------------------

NEUTRAL = {
    "labels smoothed by 0": replace(AT, labels=Smooth(0.0)),
    "labels noisy at rate 0": replace(AT, labels=Noise(0.0)),
    "ascent of 0": replace(AT, perturbation=AWP(0.0)),
    "sam of 0": replace(AT, perturbation=SAM(0.0)),
    "no walk": replace(AT, optimiser=EntropySGD(walk=0, momentum=0.9)),
    "clipping at infinity": replace(AT, project=Clip(math.inf)),
    "no projection": replace(AT, project=None),
    "average over no past": replace(AT, average=EMA(0.0)),
    "nothing unlabelled": replace(AT, data=Batches(unlabelled=0.001)),
    "no dropout": replace(AT, dropout=0.0),
    "one restart": replace(AT, attack=PGD(restarts=1)),
    "no milestones that matter": replace(AT, schedule=Steps(at=(0.4, 0.6, 0.8, 1.5))),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_part_trains_as_at_to_the_last_bit(name):
    got, history = trained(NEUTRAL[name])
    want, usual = trained(AT)
    assert same(got, want)
    columns = [c for c in usual if c != "seconds"]
    assert history[columns].equals(usual[columns])


def test_trades_without_its_second_term_is_clean_training():
    """On clean images as x_adv: the same gradients; only the statistics see each batch twice."""
    got, _ = trained(replace(AT, attack=None, loss=Trades(0.0)))
    want, _ = trained(replace(AT, attack=None))
    for k, v in want.items():
        if "running" not in k:
            torch.testing.assert_close(got[k], v, rtol=1e-5, atol=1e-6)


def test_no_steps_of_schedule_is_a_constant_rate():
    got, _ = trained(replace(AT, schedule=Steps(at=())))
    want, _ = trained(replace(AT, schedule=Constant()))
    assert same(got, want) and not same(got, trained(AT)[0])


# ---- every entry -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_method_trains_and_is_decided_by_method_and_seed(name):
    method = CATALOGUE[name]
    state, history = trained(method)
    assert all(torch.isfinite(v).all() for v in state.values())
    curves = history.drop(columns=[c for c in history if "correct" in c])  # these may be empty
    assert not curves.iloc[-1].isna().any() and history.train_loss.notna().all()
    assert same(state, fit(method, SMOKE, 0)[0].state_dict())
    bound = getattr(profiles.adapt(method, SMOKE).project, "w_max", math.inf)
    reached = bound < 1.5  # weights of so small a network stay below the largest bound
    if method != AT and (reached or bound == math.inf):
        assert not same(state, trained(AT)[0])


def test_another_seed_is_another_run():
    assert not same(trained(AT, seed=1)[0], trained(AT)[0])
    assert len({float(trained(AT, s)[0]["conv.weight"].sum()) for s in range(3)}) == 3


def test_every_method_starts_from_the_same_weights_and_sees_the_same_order():
    """Common random numbers: methods are compared on the same batches from the same start."""
    starts = {name: Training(m, SMOKE, 0) for name, m in CATALOGUE.items() if name != "unlabeled"}
    reference = starts["at"]
    for name, training in starts.items():
        net = profiles.evaluated(training.net)
        assert torch.equal(net.conv.weight, reference.net.conv.weight), name
        assert torch.equal(training.random["order"].get_state(),
                           reference.random["order"].get_state()), name  # fmt: skip


# ---- what each is named for ------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_papers_own_profile_changes_nothing(name):
    method = CATALOGUE[name]
    adapted = profiles.adapt(method, profiles.get("cifar10"))
    given, used = (getattr(m.attack, "attack", m.attack) for m in (method, adapted))
    assert type(adapted.attack) is type(method.attack)
    assert (used.eps, used.step) == pytest.approx((given.eps, given.step))
    assert replace(adapted, attack=None) == replace(method, attack=None)


@pytest.mark.parametrize("profile", ["smoke", "digits", "cifar10-small"])
def test_other_profiles_scale_every_method_by_the_same_rules(profile):
    profile = profiles.get(profile)
    at = profiles.adapt(AT, profile)
    assert at.attack.eps == pytest.approx(profile.eps) and at.data.size == profile.batch
    assert at.attack.step / at.attack.eps == pytest.approx(0.007 / (8 / 255))
    assert not set(at.data.augment) & set(profile.without)
    larger = profiles.adapt(CATALOGUE["eps9"], profile).attack
    assert larger.eps == pytest.approx(9 / 8 * profile.eps)
    assert larger.step == pytest.approx(at.attack.step)
    tau = profiles.adapt(CATALOGUE["ema0.9975"], profile).average.tau
    steps = math.ceil(profile.train / profile.batch)  # a weight's share left after one epoch
    assert tau**steps == pytest.approx(0.9975**391)


def test_slots_hold_what_the_names_say():
    c = CATALOGUE
    assert c["at"] == AT == Method(
        PGD(8 / 255, 7), Exact(), Adversarial(), Unperturbed(), SGD(0.05, 0.9, 5e-4),
        Steps((0.4, 0.6, 0.8), 0.1), Clip(math.inf), None, Batches(128, ("crop", "flip"), 0, 0),
    )  # fmt: skip
    assert c["wd0.05"].optimiser.decay == 0.05 and c["clip0.005"].project.w_max == 0.005
    assert c["smooth0.3"].labels == Smooth(0.3) and c["noise0.3"].labels == Noise(0.3)
    assert c["ema0.9975"].average == EMA(0.9975) and c["awp0.01"].perturbation == AWP(0.01)
    assert c["entropy1"].optimiser == EntropySGD(walk=1) and c["entropy1"].schedule == Constant()
    assert c["trades6"].loss == Trades(6.0) and c["trades6"].attack.maximise == "kl"
    assert c["mart6"].loss == Mart(6.0) and c["ssl4"].loss == Rotation(4.0)
    assert (c["ssl4"].data.rotated, c["ssl4"].attack.clean) == (0.5, 0.5)
    assert c["unlabeled"].data.unlabelled == 0.5
    assert c["cyclic2"].schedule == Cyclic(cycles=2)
    assert c["cyclic2"].epochs * 150 == pytest.approx(60)
    assert c["eps9"].attack.eps == 9 / 255 and c["eps9"].attack.step == 0.007
    assert {c[a].activation for a in ("mish", "silu", "gelu")} == {"mish", "silu", "gelu"}


@pytest.mark.parametrize("name", ["mish", "silu", "gelu"])
def test_the_activation_reaches_the_trained_network(name):
    net = Training(CATALOGUE[name], SMOKE, 0).model()
    assert all(module.act is ACTIVATIONS[name] for module in (net, *net.blocks))


def test_clipping_holds_for_every_trained_parameter():
    bound = profiles.adapt(CATALOGUE["clip0.005"], SMOKE).project.w_max
    sizes = {}
    for name in ("at", "clip0.005"):
        model, _ = fit(CATALOGUE[name], SMOKE, 0)
        sizes[name] = max(p.abs().max().item() for p in model.parameters())
    assert sizes["clip0.005"] == pytest.approx(bound) and sizes["at"] > bound


def test_rates_of_the_schedules(smoke):
    profile = replace(smoke, train=32, epochs=150, batch=32, log_every=1000)
    short = replace(profile, epochs=30)  # milestones at 12, 18, 24; at 28 and 29 when late
    _, at = fit(replace(AT, attack=None), short, 0)
    drops = at.lr.ne(at.lr.shift()).to_numpy().nonzero()[0].tolist()
    assert drops == [0, 12, 18, 24]
    assert at.lr[[0, 12, 18, 24]].tolist() == pytest.approx([0.05, 5e-3, 5e-4, 5e-5])
    _, late = fit(replace(CATALOGUE["late"], attack=None), short, 0)
    assert late.lr.ne(late.lr.shift()).to_numpy().nonzero()[0].tolist() == [0, 28, 29]
    _, cyclic = fit(replace(CATALOGUE["cyclic2"], attack=None), short, 0)
    triangle = [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3] * 2  # 12 of 30 epochs, two cycles, 0 to 0.2
    assert cyclic.lr.tolist() == pytest.approx([0.2 * h for h in triangle], abs=1e-9)


def test_the_average_is_evaluated_in_place_of_the_weights():
    training = Training(CATALOGUE["ema0.9975"], SMOKE, 0)
    tau = profiles.adapt(CATALOGUE["ema0.9975"], SMOKE).average.tau
    by_hand = training.named()

    inner = training.optimiser.step

    def step(closure):
        inner(closure)
        for k, p in training.net.named_parameters():
            by_hand[k] = tau * by_hand[k] + (1 - tau) * p.detach()

    training.optimiser.step = step
    training.run_epoch()
    model = training.model()
    for k, p in model.named_parameters():
        torch.testing.assert_close(p, by_hand[k], rtol=0, atol=0)
        assert not torch.equal(p, training.net.get_parameter(k))
    for k, b in model.named_buffers():  # statistics are the current model's
        assert torch.equal(b, training.net.get_buffer(k))


def test_pseudo_labels_come_from_a_teacher_never_from_the_truth(monkeypatch):
    training = Training(CATALOGUE["unlabeled"], SMOKE, 0)
    data = SMOKE.load()
    teacher, _ = fit(replace(AT, attack=None), SMOKE, 0)
    with torch.no_grad():
        assert torch.equal(training.data.pool.y, teacher(data.pool.x).argmax(1))
    assert torch.equal(training.data.pool.x, data.pool.x)
    poisoned = replace(data, pool=Split(data.pool.x, (data.pool.y + 1) % 10))
    monkeypatch.setattr(profiles.Profile, "load", lambda profile: poisoned)
    assert same(fit(CATALOGUE["unlabeled"], SMOKE, 0)[0].state_dict(),
                trained(CATALOGUE["unlabeled"])[0])  # fmt: skip


def test_unlabelled_images_fill_their_share_of_every_batch():
    training = Training(CATALOGUE["unlabeled"], SMOKE, 0)
    own = {tuple(v.flatten().tolist()) for v in training.data.train.x}
    for x, _ in training.method.data.epoch(training.data, Streams(0)):
        drawn = [tuple(v.flatten().tolist()) not in own for v in x]
        assert sum(drawn) == len(x) // 2 == 16


def test_no_pool_no_unlabelled_training():
    everything = replace(SMOKE, train=1797 - 72)
    with pytest.raises(ValueError, match="no unlabelled ones"):
        Training(CATALOGUE["unlabeled"], everything, 0)


def test_self_supervision_trains_a_head_that_is_dropped():
    training = Training(CATALOGUE["ssl4"], SMOKE, 0)
    assert isinstance(training.net, WithRotations) and isinstance(training.model(), ResNet)
    before = {k: v.clone() for k, v in training.net.head.state_dict().items()}
    training.run_epoch()
    after = training.net.head.state_dict()
    assert all(not torch.equal(after[k], v) for k, v in before.items())
    assert training.model()(training.data.test.x[:2]).shape == (2, 10)


def test_autoaugment_changes_the_images_by_its_policy():
    training = Training(CATALOGUE["autoaugment"], SMOKE, 0)
    assert training.method.data.augment == ("autoaugment",)
    own = {tuple(v.flatten().tolist()) for v in training.data.train.x}
    (batch, *_) = training.method.data.epoch(training.data, Streams(0))
    assert sum(tuple(v.flatten().tolist()) not in own for v in batch.x) > 16


@pytest.mark.parametrize("name", ["ignore-incorrect", "no-leaking"])
def test_what_the_network_predicts_is_asked_in_train_mode_and_counted(name):
    """The attack gets the classes of a train-mode forward pass, and batch norm counts that pass."""
    training = Training(CATALOGUE[name], SMOKE, 0)
    batch, seen, given = training.data.train.first(16), {}, []

    class Spy(type(training.method.attack)):
        def __call__(self, f, x, y, g=None, predicted=None):
            given.append(predicted)
            return super().__call__(f, x, y, g, predicted)

    net, twin = training.net.train(), copy.deepcopy(training.net).train()
    method = replace(training.method, attack=Spy(training.method.attack.attack))
    objective(method, net, batch, 0.0, Streams(0), seen)
    with torch.no_grad():
        predicted = twin(batch.x).argmax(1)
        twin(seen["batch"].x_adv)
    assert torch.equal(given[0], predicted) and (predicted != batch.y).any()
    for a, b in zip(net.buffers(), twin.buffers()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["trades6", "mart6", "ssl4"])
def test_training_curves_are_those_of_the_attacked_images(name):
    """Whatever else a loss looks at: what is recorded are the logits on x_adv."""
    training, seen = Training(CATALOGUE[name], SMOKE, 0), {}
    (batch, *_) = training.method.data.epoch(training.data, Streams(0))
    net = training.net.train()
    twin = copy.deepcopy(net)
    objective(training.method, net, batch, 0.0, Streams(0), seen)
    with torch.no_grad():
        clean, attacked = twin(seen["batch"].x), twin(seen["batch"].x_adv)
    torch.testing.assert_close(seen["logits"], attacked, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(clean, attacked, rtol=1e-2, atol=1e-2)


def test_dropout_and_attack_mode_are_slots_that_act():
    for method in (replace(AT, dropout=0.3), replace(AT, attack_mode="train")):
        state, _ = trained(method)
        assert not same(state, trained(AT)[0])


def test_dropout_training_is_decided_by_the_seed():
    """nn.Dropout draws from torch's global generator: the result must not depend on its state."""
    torch.manual_seed(1)
    one = fit(replace(AT, dropout=0.3), SMOKE, 0)[0].state_dict()
    torch.manual_seed(2)
    assert same(one, fit(replace(AT, dropout=0.3), SMOKE, 0)[0].state_dict())


# ---- other threat models ---------------------------------------------------------------------

L2 = replace(SMOKE, norm="l2", eps=0.8)


def test_a_profile_takes_its_threat_model_everywhere(monkeypatch, tmp_path):
    """Every ball that any attack searches while a method is trained and measured."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    searched, inner = set(), PGD.project

    def project(self, delta, x):
        searched.add((self.norm, round(self.eps, 6)))
        return inner(self, delta, x)

    monkeypatch.setattr(PGD, "project", project)
    run = runs.get("trades6", L2, progress=False)
    table = run.measure(("default", "radii", "offsets", "lines", "choices"))
    assert searched == {("l2", 0.8)} and len(table)
    assert run.key != runs.select("trades6", SMOKE)[0].key


def test_an_attack_in_another_norm_than_the_papers_is_refused():
    with pytest.raises(ValueError, match="attack.norm='l2': methods are given for 'linf'"):
        profiles.adapt(replace(AT, attack=PGD(norm="l2")), SMOKE)
    with pytest.raises(ValueError, match="network='vgg'"):
        replace(SMOKE, network="vgg")
