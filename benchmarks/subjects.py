"""The two networks that are timed, with images, and how much work is done."""

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib import AT, fit
from flatlib.attacks.pgd import PAPER_STEP
from flatlib.networks.parts import initialise
from flatlib.networks.resnet import ResNet
from flatlib.training import profiles

from . import plain

TITLES = {
    "small": "ResNet 16-32-64 on digits, 1 × 8 × 8",
    "resnet18": "ResNet-18, 3 × 32 × 32",
}


@dataclass(frozen=True)
class Size:
    """How much work; of pairs the first is for the small network, the second for ResNet-18."""

    batch: tuple[int, int] = (128, 32)
    repeats: tuple[int, int] = (11, 3)
    draws: tuple[int, int] = (10, 1)  # of average-case flatness
    steps: int = 20
    training_steps: int = 7
    stacked: tuple[int, int] = (4, 2)  # networks at once
    products: int = 5  # with the Hessian of ResNet-18
    prepared: tuple[int, int] = (10, 10)  # epochs, steps of training before anything is timed
    epochs: int = 10  # of a zoo model
    restarts: int = 5  # of a zoo model's PGD and worst-case flatness
    measured: int = 128  # images a zoo model is measured on
    zoo_repeats: int = 3
    floor_repeats: int = 7
    tiny: bool = False  # toy networks in place of both
    device: str = "cpu"


SIZES = {
    "default": Size(),
    "quick": Size(batch=(128, 8), repeats=(3, 3), epochs=3, zoo_repeats=1, floor_repeats=3),
    "gpu": Size(batch=(400, 128), repeats=(11, 11), draws=(10, 10)),
    "toy": Size(
        batch=(8, 4), repeats=(2, 1), draws=(2, 1), stacked=(2, 2), steps=3, training_steps=2,
        products=2,
        prepared=(1, 1), epochs=1, restarts=1, measured=16, zoo_repeats=1, floor_repeats=1,
        tiny=True,
    ),
}  # fmt: skip


def probing(size: Size) -> Size:
    """The same at a batch of 128 with so few steps that the peak of memory has just been reached.

    The networks stay untrained.
    """
    batch = size.batch if size.tiny else (128, 128)
    return replace(
        size, batch=batch, draws=(1, 1), steps=2, training_steps=2, products=2, prepared=(0, 0),
        epochs=1,
    )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, a batch of images in [0, 1] and their classes, and the attack."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float

    @property
    def step(self) -> float:
        return PAPER_STEP * self.eps

    def of(self, pair):
        """The entry of a pair in ``Size`` that is meant for this network."""
        return pair[0] if self.name == "small" else pair[1]

    def copy(self) -> nn.Module:
        return copy.deepcopy(self.model)


def profile(size: Size) -> profiles.Profile:
    """The profile of the quick zoo with the benchmark's number of epochs."""
    tiny = {"blocks": (1, 1), "width": 4, "train": 50} if size.tiny else {}
    return replace(profiles.get("digits"), epochs=max(size.epochs, 1), **tiny)


def small(size: Size) -> Subject:
    """The network of the profile "digits", adversarially trained for a few epochs."""
    chosen, epochs = profile(size), size.prepared[0]
    data = chosen.load().to(size.device)
    if epochs:
        model, _ = fit(AT, replace(chosen, epochs=epochs), device=size.device)
    else:
        model = profiles.network(AT, chosen, data, torch.Generator().manual_seed(0))
    x, y = data.test.first(size.batch[0])
    return Subject("small", model.to(size.device).eval(), x, y, chosen.eps)


def resnet18(size: Size) -> Subject:
    """ResNet-18 after a few steps of adversarial training on coarse random patterns, ten classes.

    The images stand in for CIFAR-10, which a benchmark should not need.
    """
    model = ResNet((1, 1), 4) if size.tiny else ResNet()
    model = initialise(model, torch.Generator().manual_seed(0)).to(size.device)
    g = torch.Generator(size.device).manual_seed(0)
    coarse = torch.rand(10, 3, 4, 4, generator=g, device=size.device)
    patterns = F.interpolate(coarse, size=32)
    subject = Subject("resnet18", model, *_noisy(patterns, size.batch[1], g), eps=8 / 255)
    optimiser = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for _ in range(size.prepared[1]):
        x, y = _noisy(patterns, size.batch[1], g)
        plain.training_step(model, optimiser, x, y, subject.eps, subject.step, 1, g)
    model.eval()
    return subject


def _noisy(patterns: Tensor, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.randint(len(patterns), (n,), generator=g, device=patterns.device)
    noise = 0.2 * torch.randn(n, 3, 32, 32, generator=g, device=patterns.device)
    return (patterns[y] + noise).clamp(0, 1), y


SUBJECTS = {"small": small, "resnet18": resnet18}
