"""The record of a measure: how its rows are made, what it costs, what decides it, its columns."""

from collections.abc import Callable
from typing import NamedTuple

from flatlib.keys import settings
from flatlib.records.subject import Subject
from flatlib.training.profiles import Profile, Protocol

# Costs are counted in attack steps (a forward pass, a backward pass to the input) per image.
WEIGHT_STEP = 2.0  # a step with a gradient for the weights too, in attack steps
CLEAN_STEP = 0.8  # one without images, in those


class Size(NamedTuple):
    """What the cost of a measure depends on."""

    protocol: Protocol
    n: int  # images measured on

    def few(self, images: int | None) -> int:
        return min(images or self.n, self.n)

    @property
    def flat(self) -> int:
        """Images that flatness is taken on."""
        return self.few(self.protocol.flatness_images)

    @property
    def pgd(self) -> int:
        """One start on one image."""
        return self.protocol.steps + 1

    @property
    def report(self) -> int:
        """PGD with restarts on all images, the reference of robust flatness."""
        return self.protocol.restarts * self.pgd * self.n

    def joint(self, searches: int) -> float:
        """Searches for the worst weights, robust and clean; those of images alone where the
        reference is matched.
        """
        p = self.protocol
        alone = p.steps * self.flat if p.worst == "matched" else 0
        return searches * ((1 + CLEAN_STEP) * WEIGHT_STEP * p.steps * self.flat + alone)


class Column(NamedTuple):
    """What a quantity is called where models are rows, see ``columns``."""

    words: str  # on an axis: "RLoss"
    how: str = ""  # in a caption, filled in from a row of it: "RLoss by {attack}"
    says: tuple[str, ...] = ()  # what its column always names, of "split", "attack" and "xi"


class Measure(NamedTuple):
    """All there is to a measure.

    ``uses`` are the fields of the protocol that decide its rows, and ``version`` that of its code:
    raised when it measures something else than before, so that older rows no longer count.
    ``columns`` has the quantities (``measure`` of a row) that enter wide tables; none, if they are
    only read row by row.
    """

    name: str
    rows: Callable[[Subject], list[dict]]
    cost: Callable[[Size], float]
    uses: tuple[str, ...]
    columns: dict[str, Column]
    version: int = 1

    def protocol(self, profile: Profile) -> dict:
        """What says how a profile takes this measure, for a row to be known by."""
        uses = ("early_restarts", *self.uses)
        changed = {k: v for k, v in settings(profile.protocol).items() if k in uses}
        return {"test": profile.test, "version": self.version, "settings": changed}
