"""How an epoch is cut into batches: shuffled, mixed with a pool, turned and augmented."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib import checks
from flatlib.data import Dataset, Split, augment, floats
from flatlib.losses import ROTATIONS


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut into batches (the ``data`` slot of a method).

    ``augment`` names augmentations, applied in order before the attack. ``unlabelled`` is the share
    of each batch drawn from the pseudo-labelled pool, ``rotated`` the share of training images
    turned by a random multiple of 90 degrees for self-supervision; both shares are drawn with
    replacement, and a mixed epoch has as many batches as a plain one.
    """

    size: int = 128
    augment: tuple[str, ...] = ("crop", "flip")
    unlabelled: float = 0.0
    rotated: float = 0.0

    def __post_init__(self):
        rules = dict.fromkeys(("unlabelled", "rotated"), checks.below_one)
        rules |= {"size": checks.number, "augment": checks.some(checks.text)}
        checks.settings(self, rules)
        unknown = [name for name in self.augment if name not in augment.AUGMENTATIONS]
        if unknown:
            raise ValueError(f"augment={unknown}: choose from {sorted(augment.AUGMENTATIONS)}")
        shares = self.unlabelled, self.rotated
        if sum(shares) >= 1:
            raise ValueError(f"unlabelled, rotated={shares}: shares of a batch, together below 1")

    def epoch(self, data: Dataset, random: Mapping[str, torch.Generator]) -> Iterator[Split]:
        """An epoch of augmented batches, by the streams "order", "augment" and "auxiliary"."""
        extra, aside = int(self.size * self.unlabelled), int(self.size * self.rotated)
        permutation = torch.randperm(
            len(data.train), generator=random["order"], device=data.train.x.device
        )
        plain = permutation.split(self.size - extra - aside)
        for chosen in plain[: -(-len(data.train) // self.size)]:
            x, y = data.train.x[chosen], data.train.y[chosen]
            if self.unlabelled and len(data.pool):
                x, y = _joined((x, y), _drawn(data.pool, extra, random["auxiliary"]))
            x = self.augmented(x, random["augment"])
            if self.rotated:
                turned = _drawn(data.train, aside, random["auxiliary"]).x
                turned = self.augmented(turned, random["augment"])
                x, y = _joined((x, y), rotations(turned, data.classes, random["auxiliary"]))
            yield Split(x, y)

    def augmented(self, x: Tensor, g: torch.Generator) -> Tensor:
        for name in self.augment:
            x = augment.AUGMENTATIONS[name](x, g)
        return x


def rotations(x: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image turned by its own random r quarters, and the labels classes + r (N,)."""
    r = torch.randint(ROTATIONS, (len(x),), generator=g, device=x.device)
    turned = torch.stack([torch.rot90(x, quarter, (2, 3)) for quarter in range(ROTATIONS)])
    return turned[r, torch.arange(len(x), device=x.device)], classes + r


def _drawn(split: Split, n: int, g: torch.Generator) -> Split:
    chosen = torch.randint(len(split), (n,), generator=g, device=split.x.device)
    return Split(floats(split.x[chosen]), split.y[chosen])


def _joined(a, b) -> tuple[Tensor, Tensor]:
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])
