"""Ordinary models, images, labels and numbers are taken, or refused by name before any work."""

import copy
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flatlib import (
    AT,
    PGD,
    AutoAttack,
    as_function,
    average_flatness,
    eigenvalues,
    evaluate,
    layers,
    runs,
    slices,
    worst_flatness,
)  # fmt: skip
from flatlib.inputs import examples
from flatlib.measures.evaluate import robust_errors
from flatlib.measures.hessian import top_eigenvector
from flatlib.measures.landscape import plane
from flatlib.training.methods import differences

EPS = 0.1
STEPS = PGD(eps=EPS, steps=2)
SQUARE = AutoAttack(eps=EPS, attacks=("square",))

MEASURES = {
    "evaluate": lambda *a, **k: evaluate(*a, attack=STEPS, doubts=False, **k).robust_loss,
    "errors": lambda *a, **k: robust_errors(*a, attack=STEPS, **k).float(),
    "average": lambda *a, **k: average_flatness(*a, attack=STEPS, n=1, **k).per_example,
    "worst": lambda *a, **k: worst_flatness(*a, eps=EPS, steps=2, restarts=1, **k).per_example,
    "slices": lambda *a, **k: torch.tensor(slices(*a, attack=STEPS, n=1, points=2, **k).rloss),
    "plane": lambda *a, **k: torch.tensor(plane(*a, attack=None, points=2, **k).rloss),
    "eigenvalues": lambda *a, **k: eigenvalues(*a, k=2, tol=1e-4),
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())


@pytest.fixture
def smooth(make):
    return make(activation="silu")


@pytest.fixture
def few(digits):
    return digits.test.first(9)


# ---- images and labels -----------------------------------------------------------------------


SAME = {
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "list of labels": lambda x, y: (x, y.tolist()),
    "list of images": lambda x, y: (list(x), list(y)),
    "Series": lambda x, y: (x, pd.Series(y.numpy(), index=range(5, 14))),
    "int8": lambda x, y: (x, y.to(torch.int8)),
    "int32": lambda x, y: (x, y.int()),
    "uint8": lambda x, y: (x, y.to(torch.uint8)),
    "uint16": lambda x, y: (x, y.numpy().astype(np.uint16)),
    "big endian": lambda x, y: (x.numpy().astype(">f4"), y.numpy().astype(">i4")),
    "float64": lambda x, y: (x.double(), y),  # digits are sixteenths
    "float16": lambda x, y: (x.half(), y),
    "bfloat16": lambda x, y: (x.bfloat16(), y),
    "gradient": lambda x, y: (x.clone().requires_grad_(), y),
    "sparse": lambda x, y: (x.to_sparse(), y),
    "backwards": lambda x, y: (x.numpy()[::-1][::-1], y.numpy()[::-1].copy()[::-1]),
    "loader": lambda x, y: (DataLoader(TensorDataset(x, y), 4),),
    "data set": lambda x, y: (TensorDataset(x, y),),
    "batches": lambda x, y: ([(x[:5].numpy(), y[:5]), [x[5:].numpy(), y[5:]]],),
    "one batch": lambda x, y: ((x, y),),
}  # fmt: skip


@pytest.mark.parametrize("form", SAME.values(), ids=SAME.keys())
@every_measure
def test_the_same_images_and_labels_give_the_same_numbers(smooth, few, measure, form):
    want = measure(smooth, *few)
    assert torch.equal(measure(smooth, *form(*few)), want) and want.isfinite().all()


@every_measure
def test_inference_tensors_and_the_mode_itself(smooth, few, measure):
    want = measure(smooth, *few)
    with torch.inference_mode():
        x, y, model = few.x.clone(), few.y.clone(), copy.deepcopy(smooth)
        assert torch.equal(measure(smooth, x, y), want)
    assert torch.equal(measure(smooth, x, y), want)
    torch.testing.assert_close(measure(model, x, y), want)


def test_images_in_any_layout(smooth, few):
    want = evaluate(smooth, *few, STEPS).robust_loss
    turned = few.x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    for x in (few.x.to(memory_format=torch.channels_last), turned):
        torch.testing.assert_close(evaluate(smooth, x, few.y, STEPS).robust_loss, want)
    same = few.x[:1].expand(9, -1, -1, -1)
    loss = evaluate(smooth, same, few.y[:1].expand(9), PGD(eps=EPS, start="zero")).robust_loss
    torch.testing.assert_close(loss, loss[:1].expand(9))


REFUSED = {
    "bytes": (lambda x, y: ((x * 255).byte(), y), r"x: .*uint8: x / 255"),
    "units": (lambda x, y: (x * 255, y), r"x: .*0 to 255 .*divide by 255"),
    "normalised": (lambda x, y: (x - 0.5, y), "x: .*into the model"),
    "no channel": (lambda x, y: (x[:, 0], y), r"x: .*x\[:, None\]"),
    "text": (lambda x, y: ("images", y), "x: .*got str"),
    "none": (lambda x, y: (None, y), "x: "),
    "dict": (lambda x, y: ({"x": x},), "x: .*got dict"),
    "ragged": (lambda x, y: ([[1.0], [2.0, 3.0]], y), "x: .*got list"),
    "no labels": (lambda x, y: (x,), "y=None"),
    "column": (lambda x, y: (x, y[:, None]), r"y: .*\(9, 1\).*y.flatten\(\)"),
    "one-hot": (lambda x, y: (x, torch.eye(10, dtype=int)[y]), r"y: .*y.argmax\(1\)"),
    "float labels": (lambda x, y: (x, y.float()), r"y: .*float32: y.long\(\)"),
    "bool labels": (lambda x, y: (x, y > 4), "y: .*bool"),
    "names": (lambda x, y: (x, ["cat"] * 9), "y: .*got list"),
    "ignored": (lambda x, y: (x, y.index_fill(0, torch.tensor(0), -100)), "y: .*found -100 to 8"),
    "generator": (lambda x, y: ((b for b in [(x, y)]),), "x: generator can be read only once"),
    "shuffled": (lambda x, y: (DataLoader(TensorDataset(x, y), 4, shuffle=True),),
                 "x: the loader shuffles"),
    "no pairs": (lambda x, y: (DataLoader(TensorDataset(x), 4),), "x: a pair.*batch 0 is a .* of 1"),
    "dicts": (lambda x, y: ([{"x": x, "y": y}],), "x: a pair.*is a dict"),
    "no batches": (lambda x, y: ([],), "x: the loader has no batches"),
    "sizes": (lambda x, y: ([(x, y), (x[..., :4], y)],), "x: batches of one shape"),
    "labels twice": (lambda x, y: (DataLoader(TensorDataset(x, y), 4), y), "y=Tensor: labels of a loader"),
    "attack second": (lambda x, y: ([(x, y)], STEPS), "y=PGD: labels of a loader.*attack="),
    "bad batch": (lambda x, y: ([(x * 2, y)],), r"x: pixels must lie in \[0, 1\]"),
}  # fmt: skip


@pytest.mark.parametrize("form, said", REFUSED.values(), ids=REFUSED.keys())
@every_measure
def test_what_will_not_do_is_refused_with_what_would(smooth, few, measure, form, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        measure(smooth, *form(*few))


class Augmenting:
    """Batches that are others every time."""

    def __init__(self, x, y):
        self.pair = x, y

    def __iter__(self):
        x, y = self.pair
        yield (x.flip(3) if np.random.rand() < 0.5 else x), y
        yield (x * torch.rand(())), y


def test_a_loader_must_give_the_same_batches_again(tiny, few):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match="^x: the loader gave other batches the second time"):
        evaluate(tiny, Augmenting(*few), attack=STEPS)
    g = torch.Generator().manual_seed(3)
    before = g.get_state()
    evaluate(tiny, DataLoader(TensorDataset(*few), 2, generator=g))
    assert torch.equal(g.get_state(), before) and torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


@every_measure
def test_the_callers_tensors_stay_as_they_are(smooth, few, measure):
    x = few.x.clone().requires_grad_()
    y = few.y.clone()
    measure(smooth, x, y)
    assert torch.equal(x, few.x) and torch.equal(y, few.y) and x.requires_grad and x.grad is None


@pytest.mark.parametrize("name", ["evaluate", "errors", "average", "slices", "eigenvalues"])
def test_the_users_default_type_does_not_matter(smooth, few, name):
    measure = MEASURES[name]
    want = measure(smooth, *few)
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(measure(smooth, *few).float(), want.float())
    finally:
        torch.set_default_dtype(torch.float32)


# ---- models ----------------------------------------------------------------------------------


class Normalising(nn.Module):
    """Subtracts and divides, in place or not."""

    def __init__(self, inner, inplace, how="method"):
        super().__init__()
        self.inner, self.inplace, self.how = inner, inplace, how

    def forward(self, x):
        if not self.inplace:
            return self.inner((x - 0.5) / 0.25)
        if self.how == "slice":
            x[:] = (x - 0.5) / 0.25
            return self.inner(x)
        return self.inner(x.sub_(0.5).div_(0.25))


@pytest.mark.parametrize("how", ["method", "slice"])
@every_measure
def test_a_model_that_writes_into_its_images_gets_copies(smooth, few, measure, how):
    """Its numbers are those of one that does not, and the caller's images do not change."""
    x = few.x.clone()
    want = measure(Normalising(smooth, False).eval(), few.x, few.y)
    model = Normalising(smooth, True, how).eval()
    torch.testing.assert_close(measure(model, x, few.y), want, rtol=2e-3, atol=1e-4)
    assert torch.equal(x, few.x) and not model._forward_pre_hooks
    assert "copies" in str(evaluate(model, x, few.y))


@every_measure
def test_data_parallel_is_the_network_inside(smooth, few, measure):
    assert torch.equal(measure(nn.DataParallel(smooth), *few), measure(smooth, *few))
    assert list(layers(nn.DataParallel(smooth))) == list(layers(smooth))
    w = layers(smooth)
    torch.testing.assert_close(as_function(nn.DataParallel(smooth))(w, few.x), smooth(few.x))


FORMS = {
    "function": lambda m: lambda x: m(x),
    "method": lambda m: m.forward,
    "scripted": torch.jit.script,
    "frozen": lambda m: torch.jit.freeze(torch.jit.script(m)),
    "script inside": lambda m: nn.Sequential(nn.Identity(), torch.jit.script(m)),
}


@pytest.fixture
def plain():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    return net.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_functions_and_scripted_modules_are_evaluated(plain, few, form):
    model = form(plain)
    want = evaluate(plain, *few, STEPS).robust_loss
    torch.testing.assert_close(evaluate(model, *few, STEPS).robust_loss, want, rtol=1e-3, atol=1e-4)
    assert robust_errors(model, *few, STEPS).shape == (9,)
    for name in ("average", "worst", "slices", "plane", "eigenvalues"):
        with pytest.raises(ValueError, match="^model: the weights of a function or a scripted"):
            MEASURES[name](model, *few)


def test_the_network_in_a_function_is_put_into_eval_mode(plain, few):
    plain.train()
    before = copy.deepcopy(plain.state_dict())
    report = evaluate(lambda x: plain(x), *few, STEPS)
    assert plain.training and all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())
    torch.testing.assert_close(report.loss, evaluate(plain, *few).loss)


@pytest.mark.parametrize("dtype, kind", [(torch.float64, "float64"), (torch.float16, "float16"),
                                         (torch.bfloat16, "bfloat16")])  # fmt: skip
@pytest.mark.parametrize("images", [torch.float32, None], ids=["float32", "own"])
@pytest.mark.parametrize("name", MEASURES)
def test_models_of_other_precision(smooth, few, name, dtype, kind, images):
    """Measured in float32, in float64 where the model is; what the model is stays."""
    measure = MEASURES[name]
    model = copy.deepcopy(smooth).to(dtype)
    x = few.x.to(images or dtype)
    want = measure(copy.deepcopy(model).float(), few.x, few.y)
    got = measure(model, x, few.y)
    torch.testing.assert_close(got.float(), want.float(), rtol=0.02, atol=0.02)
    assert all(p.dtype == dtype for p in model.parameters())
    assert f"note: measured in {kind}" in (said := str(evaluate(model, x, few.y))) or (
        f"note: model of {kind}: measured in float32" in said
    )


def test_a_model_that_halves_its_images_itself_is_left_as_it_is(few):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 10).bfloat16()

        def forward(self, x):
            return self.inner(x.flatten(1).bfloat16())

    model = Halves()
    report = evaluate(model, *few, STEPS)
    assert report.loss.dtype == torch.float32 and "weights of bfloat16" in str(report)
    torch.testing.assert_close(
        report.loss, nn.functional.cross_entropy(model(few.x).float(), few.y, reduction="none")
    )


class OnNumPy(nn.Module):
    """No gradient passes NumPy."""

    def __init__(self, inner, detach=True):
        super().__init__()
        self.inner, self.detach = inner, detach

    def forward(self, x):
        x = (x.detach() if self.detach else x).numpy()
        return self.inner(torch.from_numpy((x * 16).round() / 16).float())


def quantised(model):
    with pytest.warns(DeprecationWarning):
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


BLIND = {
    "detached": OnNumPy, "on NumPy": lambda m: OnNumPy(m, False), "int8": quantised
}  # fmt: skip


@pytest.mark.parametrize("blind", BLIND.values(), ids=BLIND.keys())
def test_a_model_without_gradients(few, blind):
    """Square works to its end; what follows gradients is refused at once."""
    torch.manual_seed(0)
    model = blind(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval())
    y = model(few.x).argmax(1)
    assert evaluate(model, few.x, y, SQUARE).RErr > 0
    for attack in (STEPS, AutoAttack(eps=EPS)):
        with pytest.raises(ValueError, match=r"^model: no gradient .*AutoAttack\(attacks=\('squ"):
            evaluate(model, few.x, y, attack)
    with pytest.raises(ValueError, match="^model: no gradient reaches the images"):
        STEPS(lambda x: model(x.detach()), *few)
    own = evaluate(model, few.x, y, lambda f, x, y, g: (x + EPS / 2).clamp(0, 1))
    assert any("no gradient" in doubt for doubt in own.doubts)


def test_weights_without_a_gradient_are_refused(few):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x):
            return self.inner(x.flatten(1)).detach()

    average_flatness(Cut(), *few, None, n=1)
    for name in ("worst", "eigenvalues"):
        with pytest.raises(ValueError, match="^model: no gradient reaches the"):
            MEASURES[name](Cut(), *few)


class Gives(nn.Module):
    """The logits in some other form."""

    def __init__(self, inner, form):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, x):
        return self.form(self.inner(x))


@pytest.mark.parametrize(
    "form, said",
    [
        (lambda z: (z, z), "model: logits .* got tuple"),
        (lambda z: {"logits": z}, "model: logits .* got dict"),
        (lambda z: z[:, :, None, None], r"model: logits .* \(2, 10, 1, 1\)"),
        (lambda z: z.argmax(1), r"model: logits .* \(2,\)"),
        (lambda z: z.long(), "model: float logits.*int64"),
        (lambda z: z * float("nan"), "model: logits that are not finite"),
        (lambda z: z @ torch.zeros(3, 3), "model: no logits for images"),
    ],
    ids=["tuple", "dict", "dimensions", "classes", "integers", "nan", "error"],
)
@every_measure
def test_other_outputs_are_refused(smooth, few, measure, form, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        measure(Gives(smooth, form), *few)


@pytest.mark.parametrize("model", [None, "resnet", nn.Linear, {}], ids=str)
@every_measure
def test_what_is_no_model_is_refused(few, measure, model):
    with pytest.raises(ValueError, match="^model="):
        measure(model, *few)


@every_measure
def test_images_on_another_device_than_the_model(smooth, few, measure):
    with pytest.raises(ValueError, match="^model on meta, x on cpu"):
        measure(copy.deepcopy(smooth).to("meta"), *few)


@every_measure
def test_weights_that_are_not_numbers_are_named(smooth, few, measure):
    with torch.no_grad():
        smooth.conv.weight[0] = float("nan")
    with pytest.raises(ValueError, match="^model: logits that are not finite: weights conv.weight"):
        measure(smooth, *few)


def test_logits_that_are_not_numbers_never_count_as_correct(smooth, few):
    """``argmax`` takes NaN for the largest: class 0 would be right."""

    class Breaks(nn.Module):
        def forward(self, x):
            return smooth(x).where(torch.arange(len(x))[:, None] < 3, float("nan"))

    report = evaluate(Breaks(), few.x, torch.zeros(9, dtype=int), STEPS, doubts=False)
    assert report.wrong[3:].all() and report.robust_wrong[3:].all()
    assert "note: the loss of 6 images is not finite: they count as wrong" in str(report)
    ruled_out = Gives(smooth, lambda z: z.index_fill(1, torch.tensor([9]), -torch.inf))
    assert evaluate(ruled_out, few.x, smooth(few.x)[:, :9].argmax(1)).RErr == 0


@pytest.mark.parametrize("batch", [4, 8, 128])
def test_a_last_batch_of_one(smooth, few, batch):
    squeezing = Gives(smooth, lambda z: z.squeeze())
    attack = PGD(eps=EPS, steps=2, start="zero")
    want = evaluate(smooth, *few, attack)
    got = evaluate(squeezing, *few, attack, batch=batch)
    torch.testing.assert_close(got.robust_loss, want.robust_loss, rtol=1e-3, atol=1e-4)
    one = evaluate(squeezing, few.x[:1], few.y[:1], attack)
    torch.testing.assert_close(one.loss, want.loss[:1])
    assert torch.equal(
        robust_errors(squeezing, *few, attack, batch=batch), robust_errors(smooth, *few, attack)
    )


@every_measure
def test_a_model_in_train_mode_is_measured_in_eval_mode(smooth, few, measure):
    want = measure(smooth, *few)
    smooth.train()
    assert torch.equal(measure(smooth, *few), want) and smooth.training


def test_trying_a_model_draws_no_random_numbers(plain, few):
    noisy = Gives(plain, lambda z: z + torch.randn_like(z) + np.random.rand())
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    examples(noisy, *few, attack=STEPS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_ordinary_models_and_images_pass_the_door_as_they_are(tiny, few):
    model, x, y, notes = examples(tiny, *few, attack=STEPS)
    assert model is tiny and x.data_ptr() == few.x.data_ptr() and y.data_ptr() == few.y.data_ptr()
    assert notes == () and "note" not in str(evaluate(tiny, *few, STEPS))


def test_the_eigenvector_goes_by_the_models_own_names(smooth, few):
    model = Normalising(smooth, True)
    assert list(top_eigenvector(model, *few)) == list(layers(model, biases=False))


# ---- numbers and settings --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor],
                         ids=["int64", "uint8", "array", "tensor"])  # fmt: skip
def test_whole_numbers_of_any_kind(tiny, few, kind):
    attack = PGD(eps=EPS, steps=kind(3), restarts=kind(2), tau=kind(1))
    assert repr(attack) == repr(PGD(eps=EPS, steps=3, restarts=2, tau=1))
    assert repr(AutoAttack(iterations=kind(3), seed=kind(1))) == repr(
        AutoAttack(iterations=3, seed=1)
    )
    want = average_flatness(tiny, *few, STEPS, n=2, batch=4).value
    assert average_flatness(tiny, *few, STEPS, n=kind(2), batch=kind(4)).value == want
    assert torch.equal(eigenvalues(tiny, *few, k=kind(2)), eigenvalues(tiny, *few, k=2))
    assert len(slices(tiny, *few, None, n=kind(1), points=kind(2))) == 2


@pytest.mark.parametrize("kind", [np.float64, np.array, torch.tensor],
                         ids=["float64", "array", "tensor"])  # fmt: skip
def test_real_numbers_of_any_kind(tiny, few, kind):
    attack = PGD(eps=kind(0.25), lr=kind(0.125))
    assert repr(attack) == repr(PGD(eps=0.25, lr=0.125)) and type(attack.eps) is float
    assert average_flatness(tiny, *few, None, xi=kind(0.5), n=1).value == (
        average_flatness(tiny, *few, None, xi=0.5, n=1).value
    )


def test_keys_of_runs_do_not_tell_numpys_numbers_from_pythons():
    method = replace(AT, attack=PGD(eps=np.float64(0.25)), optimiser=replace(AT.optimiser, lr=0.5))
    other = replace(
        AT, attack=PGD(eps=0.25), optimiser=replace(AT.optimiser, lr=np.float32(0.5))
    )  # fmt: skip
    assert differences(method) == differences(other) and "np." not in str(differences(other))
    want = [run.seed for run in runs.select("at", "smoke", (0, 1))]
    assert [run.seed for run in runs.select("at", "smoke", np.arange(2))] == want
    (one,) = runs.select("at", "smoke", np.int64(1))
    assert type(one.seed) is int and one.seed == 1
    with pytest.raises(ValueError, match="seeds="):
        runs.select("at", "smoke", np.array([True]))


@pytest.mark.parametrize(
    "settings",
    [{"eps": True}, {"steps": True}, {"restarts": np.True_}, {"eps": torch.tensor(True)},
     {"lr": "0.1"}, {"steps": np.float64(2)}, {"eps": np.array([0.1])}, {"norm": ["linf"]},
     {"eps": 8}, {"eps": 1.5}, {"eps": None}, {"tau": False}],
    ids=str,
)  # fmt: skip
def test_settings_that_are_no_numbers_of_the_kind(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        PGD(**settings)
    if name in ("eps", "norm"):
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
            AutoAttack(**settings)


def test_a_radius_in_other_units_is_a_slip(tiny, few):
    for asked in (lambda: PGD(eps=8), lambda: AutoAttack(eps=8),
                  lambda: worst_flatness(tiny, *few, eps=8)):  # fmt: skip
        with pytest.raises(ValueError, match="eps=8: .*eps=8/255"):
            asked()
    PGD(eps=1), PGD(eps=8, norm="l2"), AutoAttack(eps=2, norm="l2")


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda *a: evaluate(*a, attack="pgd"), "attack='pgd': PGD"),
        (lambda *a: evaluate(*a, attack=PGD), "attack=.*PGD"),
        (lambda *a: average_flatness(*a), "attack: PGD"),
        (lambda *a: slices(*a), "attack: PGD"),
        (lambda *a: slices(*a, attack="pgd"), "attack='pgd'"),
        (lambda *a: robust_errors(*a, attack=None), "attack=None: PGD"),
        (lambda *a: robust_errors(*a, attack=SQUARE), "attack=AutoAttack.*: PGD"),
        (lambda *a: evaluate(*a, generator=0), "generator=0: torch.Generator"),
        (lambda *a: worst_flatness(*a, generator=0), "generator=0"),
        (lambda *a: evaluate(*a, generator=torch.tensor(0)), r"generator=tensor\(0\)"),
        (lambda *a: slices(*a, attack=None, generator=0), "generator=0"),
        (lambda *a: average_flatness(*a, attack=None, clean="no"), "clean='no': True or False"),
        (lambda *a: worst_flatness(*a, clean=1), "clean=1: True or False"),
        (lambda *a: evaluate(*a, doubts="no"), "doubts='no': True or False"),
        (lambda *a: evaluate(*a, precision="fp16"), "precision='fp16': choose"),
        (lambda *a: worst_flatness(*a, precision="fp16"), "precision='fp16': choose"),
        (lambda *a: average_flatness(*a, attack=None, n=True), "n=True: a whole number"),
        (lambda *a: average_flatness(*a, attack=None, scope=["batch"]), r"scope=\['batch'\]"),
        (lambda *a: average_flatness(*a, attack=None, batch=0), "batch=0"),
        (lambda *a: average_flatness(*a, attack=None, xi=True), "xi=True"),
        (lambda *a: eigenvalues(*a, batch=2.5), "batch=2.5"),
        (lambda *a: eigenvalues(*a, tol=float("nan")), "tol=nan"),
        (lambda *a: eigenvalues(*a, tol=-1), "tol=-1"),
        (lambda *a: eigenvalues(*a, seed=2**32), "seed=4294967296"),
        (lambda *a: slices(*a, attack=None, points=np.float64(3)), "points="),
        (lambda *a: average_flatness(*a, attack=None, reference=np.zeros(3)), "reference: .*9"),
    ],
)
def test_settings_are_refused_before_any_work(smooth, few, call, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        call(smooth, *few)


def test_a_reference_may_be_an_array(tiny, few):
    reference = evaluate(tiny, *few).loss
    want = average_flatness(tiny, *few, None, n=1, reference=reference).per_example
    for form in (reference.numpy(), reference.tolist()):
        got = average_flatness(tiny, *few, None, n=1, reference=form).per_example
        assert torch.equal(got, want)


@pytest.mark.parametrize("what", ["f", "layers"])
def test_functions_of_weights_want_a_module(what):
    with pytest.raises(ValueError, match="^model='net': a torch.nn.Module"):
        as_function("net") if what == "f" else layers("net")


# ---- attacks called by themselves ------------------------------------------------------------


@pytest.mark.parametrize("attack", [PGD(eps=EPS, steps=2, restarts=2),
                                    AutoAttack(eps=EPS, attacks=("apgd-ce",), iterations=2)],
                         ids=["PGD", "AutoAttack"])  # fmt: skip
def test_attacks_take_what_measures_take(plain, few, attack):
    want = attack(plain, *few, torch.Generator().manual_seed(0))
    for form in (SAME["arrays"], SAME["int32"], SAME["gradient"], SAME["list of labels"]):
        assert torch.equal(attack(plain, *form(*few), torch.Generator().manual_seed(0)), want)
    with torch.inference_mode():
        x = few.x.clone()
        assert torch.equal(attack(plain, x, few.y, torch.Generator().manual_seed(0)), want)
    half = attack(copy.deepcopy(plain).double(), few.x.double(), few.y)
    assert half.dtype == torch.float64 and (half - few.x).abs().max() <= EPS + 1e-6
    with pytest.raises(ValueError, match="^y: integer labels"):
        attack(plain, few.x, few.y[:3])
    with pytest.raises(ValueError, match="^x: images"):
        attack(plain, few.x[0], few.y)


def test_autoattack_refuses_a_function_that_would_move_the_images(plain, few):
    x = few.x.clone()
    with pytest.raises(ValueError, match=r"^model: it writes into its images: .*x.clone\(\)"):
        SQUARE(lambda p: plain(p.mul_(0.5)), x, few.y)
    assert torch.equal(x, few.x)


def test_what_cannot_be_copied_or_switched_is_refused(plain, few):
    half = copy.deepcopy(plain).half()
    with pytest.raises(ValueError, match="^model: .* cannot be copied in float32"):
        evaluate(lambda x: half(x), *few)
    exported = torch.export.export(plain, (few.x,)).module()
    with pytest.raises(ValueError, match="^model: cannot be put into eval mode"):
        evaluate(exported, *few)


def test_what_a_users_attack_returns_is_looked_at(tiny, few):
    with pytest.raises(ValueError, match="function returned ndarray"):
        evaluate(tiny, *few, lambda f, x, y, g: x.numpy())
    with pytest.raises(ValueError, match="function returned .*float64"):
        evaluate(tiny, *few, lambda f, x, y, g: x.double())
