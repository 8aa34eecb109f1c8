"""Training: named random streams, the one step that executes every method, an epoch loop that
resumes.
"""

import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.attacks.attack import Attack
from flatlib.attacks.pgd import PGD
from flatlib.data import PSEUDO_LABELLED, Dataset, Split, floats, labelled_pool, pool_file
from flatlib.fast.forward import fast, freeze
from flatlib.files import checkpoints, clock
from flatlib.files.paths import DATASETS
from flatlib.files.progress import bar
from flatlib.losses import cross_entropy
from flatlib.measures.evaluate import evaluate
from flatlib.modes import mode, no_statistics
from flatlib.streams import Streams
from flatlib.training import profiles, states
from flatlib.training.methods import Batch, Method
from flatlib.training.profiles import Profile
from flatlib.weights import add, layers


def objective(
    method: Method, net: nn.Module, split: Split, t: float, random: Streams, seen: dict
) -> Tensor:
    """The scalar a method descends on one batch: attack, label, perturb, loss at w + nu.

    Its gradient is taken at w + nu, with respect to w. ``seen`` receives the batch and its logits
    on x_adv at w, for the training curves: those of the first pass, which a weight perturbation
    makes at w.
    """
    f, w = fast(net), layers(net)
    x, y = split
    given = {}
    if isinstance(method.attack, Attack) and method.attack.predicts:
        with torch.no_grad():  # a train-mode pass that batch norm counts, as released
            given["predicted"] = net(x).argmax(1)
    with mode(net, training=method.attack_mode == "train"), no_statistics(net):
        attack = method.attack or _untouched
        x_adv = attack(freeze(net), x, y, random["attack"], **given)
    batch = Batch(x, x_adv, y, method.labels(y, net.outputs, random["labels"]), t)

    def forward(v, inputs: Tensor) -> Tensor:
        z = f(v, inputs)
        if inputs is x_adv and not seen:
            seen.update(batch=batch, logits=z.detach())
        return z

    def loss(v) -> Tensor:
        return method.loss(partial(forward, v), batch).mean()

    with no_statistics(net):
        nu = method.perturbation(loss, w)
    return loss(add(w, nu))


def _untouched(f, x: Tensor, y: Tensor, g) -> Tensor:
    return x


class Diverged(RuntimeError):
    """Training has led to weights that are not finite."""


class Training:
    """A run in progress: everything that changes from step to step, which ``states`` saves."""

    def __init__(self, method: Method, profile: Profile, seed: int, device="cpu", teachers=None):
        self.method, self.profile = profiles.adapt(method, profile), profile
        self.device, self.seed = torch.device(device), seed
        self.begun = profiles.origin(method, profile, seed, self.device)
        self.random = Streams(seed, device)
        self.images = profile.load().to(device)
        self.given = teachers  # trained models by name; None: they are trained here
        self.wanted = profiles.teachers(method, profile)
        if "clean" in self.wanted and not len(self.images.pool):
            raise ValueError(
                f"profile={profile.name!r} trains on all images: no unlabelled ones are left for "
                f"the pool. Put the pseudo-labelled images of Carmon et al. into {DATASETS}, as "
                f"{PSEUDO_LABELLED[0]}"
            )
        self.net = profiles.network(method, profile, self.images).to(device)
        profiles.initialise(self.net, self.random["weights"])
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = self.method.optimiser.build(self.parameters, self.random["walk"])
        self.average = self.named() if self.method.average else {}
        self.averaged = 0
        self.epoch = 0
        self.epochs = profiles.epochs(method, profile)
        self.history: list[dict] = []

    @cached_property
    def teachers(self) -> dict[str, nn.Module]:
        """The models that the method learns from, by name; those not given are trained now."""
        if self.given is not None:
            return self.given
        how = {"profile": self.profile, "seed": self.seed, "device": self.device}
        with torch.enable_grad():
            return {name: fit(method, **how)[0] for name, method in self.wanted.items()}

    @cached_property
    def data(self) -> Dataset:
        """What is trained on; a pool gets its labels on first use."""
        if not self.method.data.unlabelled:
            return self.images
        return replace(self.images, pool=pseudo_labelled(self))

    def named(self) -> dict[str, Tensor]:
        return {k: p.detach().clone() for k, p in self.net.named_parameters()}

    def run_epoch(self) -> None:
        """One epoch of steps, its row of the history, and an average taken per epoch."""
        started = time.perf_counter()
        steps = -(-len(self.data.train) // self.method.data.size)
        batches = self._batches()
        curves = _Curves(self.data.classes)
        with mode(self.net, training=True), self._dropout():
            for step in range(steps):
                t = (self.epoch + step / steps) / self.epochs
                lr = self._step(batches, t, curves)
        self.epoch += 1
        self._average("epoch")
        self._check_finite()
        row = {"epoch": self.epoch - 1, "progress": self.epoch / self.epochs, "lr": lr}
        row |= curves.means()
        if self.epoch % self.profile.log_every == 0 or self.epoch == self.epochs:
            row |= self._test_curves()
        self.history.append(row | {"seconds": time.perf_counter() - started})

    def _check_finite(self) -> None:
        """``Diverged`` at the end of an epoch after which nothing that is trained has a meaning."""
        now = {**self.net.state_dict(), **{f"average of {k}": v for k, v in self.average.items()}}
        wrong = [name for name, v in now.items() if not bool(torch.isfinite(v).all())]
        if wrong:
            raise Diverged(
                f"training diverged in epoch {self.epoch - 1} of {self.epochs} (counted from 0): "
                f"{wrong[0]} is not finite. Nothing of this epoch is kept; a smaller learning rate "
                f"than that of {self.method.optimiser} may help"
            )

    @contextmanager
    def _dropout(self):
        """Dropout draws from torch's global generator: seeded from its stream, then given back."""
        seed = int(torch.randint(2**31, (1,), generator=self.random["dropout"], device=self.device))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _batches(self):
        while True:  # Entropy-SGD goes through the data several times in one epoch of steps
            yield from self.method.data.epoch(self.data, self.random)

    def _step(self, batches, t: float, curves: "_Curves") -> float:
        """One optimiser step; returns the learning rate it took."""
        setting = self.method.schedule(t)
        (group,) = self.optimiser.param_groups
        group["lr"] = self.method.optimiser.lr * setting["lr"]
        if "momentum" in setting and "momentum" in group:
            group["momentum"] = setting["momentum"]

        def closure() -> Tensor:
            seen: dict = {}
            self.optimiser.zero_grad()
            loss = objective(self.method, self.net, next(batches), t, self.random, seen)
            loss.backward()
            curves.add(loss.detach(), **seen)
            return loss

        self.optimiser.step(closure)
        if self.method.project is not None:
            self.method.project(self.parameters)
        self._average("step")
        return group["lr"]

    def _average(self, moment: str) -> None:
        part = self.method.average
        if part is not None and part.every == moment:
            now = {k: p.detach() for k, p in self.net.named_parameters()}
            self.average, self.averaged = part(
                self.average, now, self.averaged, self.epoch / self.epochs
            )

    def model(self) -> nn.Module:
        """The network as it is evaluated now: without auxiliary head, with averaged weights if
        there are any.

        Batch norm's statistics are the current ones, or where the average says ``calibrate``
        estimated anew by one clean pass over the training images.
        """
        net = deepcopy(self.net)
        if self.average:
            net.load_state_dict(self.average, strict=False)
        if self.averaged and self.method.average.calibrate:
            _estimate_statistics(net, self.images.train.x, self.method.data.size)
        return profiles.evaluated(net).eval()

    def _test_curves(self) -> dict[str, float]:
        """RLoss and RErr under PGD-7, one start, on the first test images."""
        attack = PGD().within(self.profile.threat)
        x, y = self.images.test.first(self.profile.log_images)
        model = self.model() if self.average else profiles.evaluated(self.net)  # no copy, no trace
        report = evaluate(model, x, y, attack, self.random["log"], batch=256, doubts=False)
        found = {"test_rloss": report.RLoss, "test_rerr": report.RErr, "test_err": report.Err}
        return found | {f"test_rloss_{k}": v for k, v in report.split().items()}


class _Curves:
    """Running means over an epoch's mini-batches: the loss descended, and plain CE and error on
    x_adv.
    """

    def __init__(self, classes: int):
        self.classes, self.rows = classes, []

    def add(self, loss: Tensor, batch: Batch, logits: Tensor) -> None:
        upright = batch.y < self.classes
        z, y = logits[upright, : self.classes], batch.y[upright]
        self.rows.append(
            torch.stack([loss, cross_entropy(z, y).mean(), (z.argmax(1) != y).float().mean()])
        )

    def means(self) -> dict[str, float]:
        names = ("train_loss", "train_rloss", "train_rerr")
        return dict(zip(names, torch.stack(self.rows).mean(0).tolist()))


@torch.no_grad()
def _estimate_statistics(net: nn.Module, x: Tensor, size: int) -> None:
    """Batch norm's running statistics as the plain average over the batches of one pass."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.reset_running_stats()
    with mode(net, training=True):
        for count, batch in enumerate(x.split(size)):
            for module in norms:
                module.momentum = 1 / (count + 1)
            net(batch)


@torch.no_grad()
def pseudo_labelled(training: Training) -> Split:
    """The pool with the labels a cleanly trained model of the same seed gives it; true labels are
    not looked at. The file of pseudo-labelled images brings its own labels (``data.pool_file``).
    """
    profile, x = training.profile, training.images.pool.x
    if "clean" not in training.wanted:
        return labelled_pool(pool_file(profile.dataset, profile.train)).to(training.device)
    clean = training.teachers["clean"]
    return Split(x, torch.cat([clean(floats(part)).argmax(1) for part in x.split(256)]))


def fit(
    method: Method, profile: str | Profile, seed: int = 0, folder: Path | None = None, device="cpu",
    progress: bool = False, until: float | None = None, teachers: dict | None = None,
) -> tuple[nn.Module, pd.DataFrame]:  # fmt: skip
    """Train ``method`` at ``profile``; the model in eval mode and its history, a row per epoch.

    With a ``folder`` the state is saved after every epoch (``state.safetensors``) and a further
    call goes on from there, bit-identical to a run that was never interrupted on the same machine
    with as many threads; the candidates for early stopping are kept as ``epoch-NNN.safetensors``.
    A folder of another training is refused. ``teachers`` are the trained models that the method
    learns from (``profiles.teachers``); without them they are trained first. Raises ``TimeIsUp``
    before the first epoch that would begin after ``until`` (``time.time()``), and ``Diverged`` at
    the end of the epoch in which weights cease to be finite: nothing of that epoch is kept.
    """
    training = Training(method, profiles.get(profile), seed, device, teachers)
    state = folder and Path(folder) / "state.safetensors"
    if state and state.exists():
        states.resume(training, state)
    epochs = bar(total=training.epochs, initial=training.epoch, unit="epoch", show=progress)
    with epochs:
        while training.epoch < training.epochs:
            clock.check(until)
            training.run_epoch()
            if folder:
                _keep(training, Path(folder))
                states.save(training, state)
            epochs.update()
            epochs.set_postfix(train_rloss=f"{training.history[-1]['train_rloss']:.2f}")
    return training.model(), pd.DataFrame(training.history)


def _keep(training: Training, folder: Path) -> None:
    """Keep the models of epochs 0, s, 2s, ... and of the last; epochs count from 0."""
    epoch = training.epoch - 1
    if epoch % training.profile.snapshot_every == 0 or training.epoch == training.epochs:
        path = folder / f"epoch-{epoch:03d}.safetensors"
        checkpoints.save(path, training.model().state_dict(), {"epoch": epoch})
