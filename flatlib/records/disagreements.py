"""What a choice is worth where a paper, its released code and common practice measure differently.

The rows of this measure stand beside those of the protocol: the same quantity on the same model,
measured the other way.
"""

import torch
from torch import Tensor

from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import exact, freeze
from flatlib.losses import cross_entropy
from flatlib.measures.flatness import average_flatness, robust_loss, worst_flatness
from flatlib.modes import mode
from flatlib.records.measure import WEIGHT_STEP, Measure, Size
from flatlib.records.subject import Subject
from flatlib.weights import Weights, add, detached, layers, sample

AVERAGE = "choice/average"  # the random stream of all variants of the average case
BATCH = 128  # images that share one nu, as in the protocol
SMALL_XI = 0.00075  # the worst-case radius of the paper's Section 4
LONG_STEP = 0.01  # the relative weight step of the released code
MANY = 50  # draws of the clean loss in the released code
LENGTHS = {  # choice -> length of nu relative to the radius, for u uniform in [0, 1] and d numbers
    "choice_average_ball": lambda u, d: u ** (1 / d),  # uniform in the ball
    "choice_average_any": lambda u, d: u,  # every length up to the radius alike
}


def choices(s: Subject) -> list[dict]:
    """Rows "choice_<what>_<how>": value, and where it varies std."""
    few = s.first(s.protocol.flatness_images)
    return _average(few) + _worst(few) + _restarts(s)


def _average(s: Subject) -> list[dict]:
    """Average-case flatness: nu for each batch or for all images; on the sphere or inside it.

    Those inside are the same nu made shorter, so that only their length makes the difference.
    """
    p, rows = s.protocol, []
    for scope in ("batch", "dataset"):
        flat = average_flatness(
            s.model, s.x, s.y, s.pgd, p.xi, p.draws, s.generator(AVERAGE), scope=scope,
            reference=s.report.robust_loss,
        )  # fmt: skip
        about = {"std": flat.std, "xi": p.xi, "scope": scope, "draws": p.draws}
        rows.append(s.row(f"choice_average_{scope}", flat.value, f"pgd{p.steps}x1", **about))
    for name, length in LENGTHS.items():
        losses = _inside(s, length, s.generator(AVERAGE), s.generator(name))
        value, std = losses.mean() - s.report.RLoss, losses.std(unbiased=False)
        about = {"std": std.item(), "xi": p.xi, "scope": "batch", "draws": p.draws}
        rows.append(s.row(name, value.item(), f"pgd{p.steps}x1", **about))
    for draws in (p.draws, MANY):
        flat = average_flatness(
            s.model, s.x, s.y, None, p.xi, draws, s.generator(f"choice/clean/{draws}"),
            reference=s.report.loss,
        )  # fmt: skip
        about = {"std": flat.std, "xi": p.xi, "scope": "batch", "draws": draws}
        name = "choice_clean_many" if draws == MANY else "choice_clean_few"
        rows.append(s.row(name, flat.value, **about))
    return rows


def _inside(s: Subject, length, g: torch.Generator, lengths: torch.Generator) -> Tensor:
    """RLoss (draws,) under weights moved by xi ||w_l|| length(u, d) in every layer of d numbers.

    ``g`` is used as in `average_flatness`: without shortening both would give the same.
    """
    w, p = detached(layers(s.model)), s.protocol
    means = torch.zeros(p.draws, device=s.x.device)
    with mode(s.model, training=False):
        for x, y in zip(s.x.split(BATCH), s.y.split(BATCH)):
            for k in range(p.draws):
                moved = add(w, _shorter(sample(w, p.xi, g), length, lengths))
                means[k] += robust_loss(s.model, moved, x, y, s.pgd, g).sum() / len(s.x)
    return means


def _shorter(nu: Weights, length, g: torch.Generator) -> Weights:
    shares = {k: torch.rand((), generator=g, device=v.device).item() for k, v in nu.items()}
    return {k: v * length(shares[k], v.numel()) for k, v in nu.items()}


def _worst(s: Subject) -> list[dict]:
    """Worst-case flatness: the paper's way, the code's way, and one difference at a time."""
    p = s.protocol
    xi, lr = p.worst_xi[0], p.worst_lr
    ways = {
        "choice_worst_paper": ("batch", xi, lr),
        "choice_worst_dataset": ("dataset", xi, lr),
        "choice_worst_step": ("batch", xi, LONG_STEP),
        "choice_worst_code": ("dataset", xi, LONG_STEP),
        "choice_worst_radius": ("batch", SMALL_XI, lr),
    }
    rows = []
    for name, (scope, radius, step) in ways.items():
        flat = worst_flatness(
            s.model, s.x, s.y, s.profile.eps, radius, p.steps, p.worst_restarts, s.generator(name),
            norm=s.profile.norm, lr_w=step, scope=scope, protocol="paper",
            reference=s.report.robust_loss,
        )  # fmt: skip
        about = {"std": flat.std, "xi": radius, "scope": scope, "draws": p.worst_restarts}
        rows.append(s.row(name, flat.value, f"joint{p.steps}-paper", **about))
    return rows


def _restarts(s: Subject) -> list[dict]:
    """RLoss with the start of highest loss per image, and with that of the surest wrong class."""
    p, g = s.protocol, s.generator("choice/restarts")
    attack = s.pgd
    parts = [_starts(s, attack, x, y, g) for x, y in zip(s.x.split(BATCH), s.y.split(BATCH))]
    losses, wrong = (torch.cat(column, 1) for column in zip(*parts))  # (restarts, N) each
    chosen = {"loss": losses.argmax(0), "wrong": wrong.argmax(0)}
    how = f"pgd{p.steps}x{p.restarts}"
    return [
        s.row(f"choice_restarts_{name}", losses.gather(0, k[None]).mean().item(), how)
        for name, k in chosen.items()
    ]


def _starts(s: Subject, attack: PGD, x: Tensor, y: Tensor, g) -> tuple[Tensor, Tensor]:
    """Cross-entropy and largest probability of a wrong class: (restarts, n) each."""
    found = []
    with mode(s.model, training=False):
        for _ in range(s.protocol.restarts):
            x_adv = attack(freeze(s.model), x, y, g)
            with torch.no_grad(), exact():
                z = s.model(x_adv)
                others = z.softmax(1).scatter(1, y[:, None], 0)
                found.append((cross_entropy(z, y), others.amax(1)))
    return tuple(torch.stack(column) for column in zip(*found))


def cost(s: Size) -> float:
    """Four variants of the average case, two reports, five of the worst case."""
    p = s.protocol
    averages = 4 * p.draws * s.flat + 2 * p.restarts * s.n
    return averages * s.pgd + 5 * p.worst_restarts * WEIGHT_STEP * p.steps * s.flat


CHOICES = Measure(
    "choices", choices, cost,
    uses=("steps", "restarts", "xi", "draws", "worst_xi", "worst_restarts", "worst_lr",
          "flatness_images"),
    columns={},
)  # fmt: skip
