"""Profiles: one code path, several sizes. A profile is data and part of every key, so a number of
one profile can never stand in a table of another. Its name is not: what it trains is.

Of a profile and its protocol, what differs from the defaults below enters keys: these are never
changed (see ``keys``).
"""

from dataclasses import dataclass, replace

from flatlib import checks, data
from flatlib.attacks.attack import PAPER, Attack, Threat
from flatlib.attacks.autoattack import AutoAttack
from flatlib.data import Dataset
from flatlib.keys import settings
from flatlib.networks import NETWORKS
from flatlib.networks.parts import WithRotations, initialise
from flatlib.training.averages import EMA
from flatlib.training.methods import Method, differences
from flatlib.training.optimisers import EntropySGD
from flatlib.training.projections import Clip

CLEAN = Method(attack=None)  # trained without attacks: labels the images of a pool
PAPER_BATCH, PAPER_FEATURES, PAPER_STEPS = 128, 512, 391


@dataclass(frozen=True)
class Protocol:
    """How measures are taken; the defaults are the paper's."""

    steps: int = 20  # PGD of RLoss, RErr and flatness
    restarts: int = 10  # PGD of RLoss and RErr, the reference of flatness
    xi: float = 0.5  # average-case radius, relative to ||w_l||
    draws: int = 10
    worst: str = "matched"  # the reference of the worst case: "matched" or the "paper"'s
    worst_xi: tuple[float, ...] = (0.003,)
    worst_restarts: int = 10
    worst_lr: float = 0.001  # relative weight step of the joint ascent
    early_restarts: int = 5  # PGD-7 on the images that pick the early-stopped epoch
    autoattack: AutoAttack = AutoAttack()  # its radius is the profile's
    autoattack_images: int | None = None  # the first ones of a split; None: as many as for RErr
    flatness_images: int | None = None  # of every flatness, reference included; None: the same
    radii: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # average case of Fig. 14
    worst_radii: tuple[float, ...] = (0.00075, 0.001, 0.003, 0.005)  # worst case of Fig. 14
    radii_draws: int = 10  # of the average case at these radii
    radii_restarts: int = 10  # of the worst case at these radii
    hessian_images: int = 500  # the first ones of a split; as many as the released code takes
    hessian_k: int = 4  # eigenvalues, from both ends
    line_points: int = 51  # along [-1, 1]
    line_draws: int = 10  # random and adversarial directions each
    line_images: int = 128
    line_steps: int = 10  # PGD at every point, one start

    def __post_init__(self):
        counts = ("steps", "restarts", "draws", "worst_restarts", "early_restarts", "radii_draws",
                  "radii_restarts", "hessian_images", "hessian_k", "line_points", "line_draws",
                  "line_images", "line_steps")  # fmt: skip
        rules = dict.fromkeys(counts, checks.number)
        rules |= dict.fromkeys(("xi", "worst_lr"), checks.amount)
        rules |= dict.fromkeys(("radii", "worst_radii"), checks.some(checks.amount))
        rules |= {"worst_xi": checks.some(checks.amount, least=1)}
        checks.settings(self, rules | {"autoattack": checks.one_of(AutoAttack)})


@dataclass(frozen=True)
class Profile:
    """Data, network, length of training, radius, and the protocol of the measures."""

    name: str
    dataset: str
    train: int  # images trained on
    test: int  # images measured on; as many training images for the train side
    early: int  # images that pick the early-stopped epoch
    blocks: tuple[int, ...]
    width: int
    epochs: int
    batch: int
    eps: float  # radius of the threat model, in pixels of [0, 1]
    without: tuple[str, ...] = ()  # augmentations left out at this profile
    outer_lr: float = 0.05  # Entropy-SGD's step along w - mu
    log_every: int = 1  # epochs between points of the test curves
    log_images: int = 1280
    snapshot_every: int = 5  # epochs between the candidates for early stopping
    protocol: Protocol = Protocol()
    norm: str = "linf"  # of the threat model
    network: str = "resnet"  # of ``networks.NETWORKS``, built of ``blocks`` and ``width``

    def __post_init__(self):
        counts = ("train", "test", "early", "width", "epochs", "batch", "log_every", "log_images",
                  "snapshot_every")  # fmt: skip
        rules = dict.fromkeys(counts, checks.number)
        rules |= {"name": checks.text, "dataset": checks.text, "without": checks.some(checks.text)}
        rules |= {"blocks": checks.some(checks.number, least=1), "eps": checks.radius}
        rules |= {"outer_lr": checks.amount, "protocol": checks.one_of(Protocol)}
        checks.settings(self, rules)
        checks.choice("network", self.network, NETWORKS)
        Threat(self.eps, self.norm)  # refused where it is none

    @property
    def threat(self) -> Threat:
        """What attacks may do, the same in training and in every measure."""
        return Threat(self.eps, self.norm)

    def load(self) -> Dataset:
        return data.load(self.dataset, self.train, self.test, self.early)

    def training(self) -> dict[str, str]:
        """The settings that decide what is trained, the whole split included: part of every key."""
        return {k: v for k, v in settings(self).items() if k not in ("name", "protocol")}


# At 8 x 8 pixels whatever shifts, mirrors or covers a digit destroys it.
_SPATIAL = ("crop", "flip", "crop-mean", "cutout")
# Left out where AT is to overfit on a few hundred images, see book/protocol.md.
_MOVING = (*_SPATIAL, "shrink")

# About a twentieth of the standard ensemble's cost, and a fiftieth, see book/protocol.md.
_LIGHT = AutoAttack(attacks=("apgd-ce", "apgd-t"), iterations=50, targets=3)
_BRIEF = AutoAttack(attacks=("apgd-ce", "apgd-t"), iterations=20, targets=3)

DEFAULT = "fashion"  # real images that come with the project, minutes of a CPU
PROFILES = {
    "smoke": Profile(
        "smoke", "digits", train=64, test=40, early=32, blocks=(1, 1), width=4, epochs=5, batch=32,
        eps=0.15, without=_SPATIAL, outer_lr=1.0, log_images=32, snapshot_every=2,
        protocol=Protocol(
            steps=3, restarts=2, draws=2, worst_restarts=2, early_restarts=1,
            autoattack=AutoAttack(attacks=("apgd-ce",), iterations=5),
            radii=(0.25, 0.5), worst_radii=(0.001, 0.003), radii_draws=2, radii_restarts=2,
            hessian_images=20, hessian_k=2, line_points=5, line_draws=2, line_images=16,
            line_steps=2,
        ),
    ),
    "digits": Profile(
        "digits", "digits", train=200, test=400, early=200, blocks=(1, 1, 1), width=16, epochs=80,
        batch=50, eps=0.15, without=_SPATIAL, outer_lr=1.0, log_every=2, log_images=200,
        protocol=Protocol(
            restarts=5, worst="paper", worst_restarts=5, early_restarts=1, autoattack=_LIGHT,
            radii_draws=5, radii_restarts=2, hessian_images=400, line_points=25, line_draws=5,
        ),
    ),
    "fashion": Profile(
        "fashion", "fashion", train=500, test=2000, early=2000, blocks=(1, 1, 1), width=16,
        epochs=100, batch=50, eps=0.06, without=_MOVING, outer_lr=1.0, log_every=5, log_images=400,
        protocol=Protocol(
            restarts=1, draws=5, worst_restarts=2, early_restarts=1, autoattack=_BRIEF,
            autoattack_images=300, flatness_images=256, radii_draws=3, radii_restarts=2,
            hessian_images=256, line_points=17, line_draws=3, line_images=128,
        ),
    ),
    "cifar10-cpu": Profile(
        "cifar10-cpu", "cifar10", train=1000, test=1000, early=500, blocks=(1, 1, 1, 1), width=16,
        epochs=40, batch=32, eps=PAPER.eps, without=("crop", "flip", "crop-mean"), outer_lr=1.0,
        log_every=2, log_images=500, snapshot_every=4,
        protocol=Protocol(
            restarts=1, draws=5, worst_restarts=2, early_restarts=1, autoattack=_BRIEF,
            autoattack_images=500, flatness_images=256, radii_draws=3, radii_restarts=2,
            hessian_images=128, line_points=17, line_draws=3, line_images=64,
        ),
    ),
    "cifar10-smoke": Profile(
        "cifar10-smoke", "cifar10", train=500, test=100, early=100, blocks=(1, 1, 1, 1), width=8,
        epochs=10, batch=50, eps=PAPER.eps, log_images=100,
        protocol=Protocol(
            steps=10, restarts=2, draws=4, worst_restarts=2, early_restarts=1,
            autoattack=AutoAttack(attacks=("apgd-ce", "apgd-t"), iterations=20, targets=3),
            radii_draws=2, radii_restarts=2, hessian_images=50, hessian_k=2, line_points=11,
            line_draws=2, line_images=50, line_steps=5,
        ),
    ),
    "cifar10-small": Profile(
        "cifar10-small", "cifar10", train=1000, test=1000, early=500, blocks=(2, 2, 2, 2), width=16,
        epochs=80, batch=32, eps=PAPER.eps, without=("crop", "crop-mean"), log_every=2,
        log_images=1000, protocol=Protocol(autoattack=_LIGHT),
    ),
    "cifar10": Profile(
        "cifar10", "cifar10", train=50_000, test=1000, early=500, blocks=(2, 2, 2, 2), width=64,
        epochs=150, batch=128, eps=PAPER.eps,
    ),
}  # fmt: skip


def get(profile: str | Profile) -> Profile:
    """A profile by name; a Profile is passed through."""
    if isinstance(profile, Profile):
        return profile
    checks.choice("profile", profile, PROFILES)
    return PROFILES[profile]


def adapt(method: Method, profile: Profile) -> Method:
    """``method``, given in the paper's units, in those of ``profile``: the same rules for every
    method.

    attacks take the profile's threat model, batch sizes scale with its batch; augmentations that
    it rules out are dropped (mirroring changes the label of a digit); the averaging horizon is
    kept in epochs; the clipping bound grows as the features shrink, so that the logits keep their
    range; Entropy-SGD takes the profile's outer rate. At the paper's own profile nothing changes.
    """
    size = max(2, round(method.data.size * profile.batch / PAPER_BATCH))
    kept = tuple(a for a in method.data.augment if a not in profile.without)
    changes = {
        "data": replace(method.data, size=size, augment=kept),
        "attack": _attack(method.attack, profile.threat),
    }
    if isinstance(method.project, Clip):
        features = NETWORKS[profile.network].dimension(profile.blocks, profile.width)
        changes["project"] = Clip(method.project.w_max * PAPER_FEATURES / features)
    if isinstance(method.average, EMA):
        per_epoch = -(-profile.train // size)
        tau = method.average.tau ** (PAPER_STEPS / per_epoch)
        changes["average"] = replace(method.average, tau=tau)
    if isinstance(method.optimiser, EntropySGD):
        rate = method.optimiser.lr * (profile.outer_lr / EntropySGD.lr)
        changes["optimiser"] = replace(method.optimiser, lr=rate)
    return replace(method, **changes)


def epochs(method: Method, profile: Profile) -> int:
    """How many epochs ``method`` trains at ``profile``; Entropy-SGD's are longer and fewer."""
    return max(1, round(method.epochs * profile.epochs / method.optimiser.calls))


def teachers(method: Method, profile: Profile) -> dict[str, Method]:
    """What ``method`` learns from, to be trained first from the same seed, by name: "clean" labels
    the pool, if that does not come with its labels (``data.pool_file``).
    """
    file = data.pool_file(profile.dataset, profile.train)
    return {"clean": CLEAN} if method.data.unlabelled and file is None else {}


def origin(method: Method, profile: Profile, seed: int, device) -> dict:
    """What the state of a training belongs to, by name."""
    text = ", ".join(f"{slot}={part}" for slot, part in differences(method).items()) or "AT"
    of = {"method": text, "seed": str(seed), "device": device.type}
    return of | {f"profile.{name}": value for name, value in profile.training().items()}


def _attack(attack, threat: Threat):
    """A function of one's own knows its radius itself."""
    return attack.rescaled(threat) if isinstance(attack, Attack) else attack


def network(method: Method, profile: Profile, dataset: Dataset, g=None):
    """The untrained network a method trains; ``g`` draws its weights (zeros to be loaded into
    without one).
    """
    of = dataset.classes, dataset.mean, dataset.std, method.activation, method.dropout
    model = NETWORKS[profile.network](profile.blocks, profile.width, *of)
    net = WithRotations(model) if method.data.rotated else model
    return net if g is None else initialise(net, g)


def evaluated(net):
    """The part of a trained network that is evaluated: without its auxiliary head."""
    return net.base if isinstance(net, WithRotations) else net
