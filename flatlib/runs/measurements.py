"""The measures of a trained model as rows of a tidy table, by the profile's protocol; what each
costs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from flatlib.attacks.pgd import PGD
from flatlib.keys import settings
from flatlib.measures.evaluate import evaluate
from flatlib.measures.flatness import average_flatness, worst_flatness
from flatlib.measures.hessian import eigenvalues
from flatlib.measures.landscape import KINDS, slices
from flatlib.runs.disagreements import choices
from flatlib.runs.subject import Subject
from flatlib.training.profiles import Profile, Protocol


def robustness(s: Subject) -> list[dict]:
    """Err and Loss (all test images, as many training images); RErr and RLoss by PGD with restarts,
    RLoss also over clean-correct and -incorrect examples.
    """
    report, attack = s.report, f"pgd{s.protocol.steps}x{s.protocol.restarts}"
    n = len(s.whole)
    rows = [s.row("err", s.clean.Err, n=n), s.row("loss", s.clean.Loss, n=n)]
    rows += [s.row("rerr", report.RErr, attack), s.row("rloss", report.RLoss, attack)]
    return rows + [s.row(f"rloss_{k}", v, attack) for k, v in report.split().items()]


def autoattack(s: Subject) -> list[dict]:
    """RErr and RLoss on the outputs of AutoAttack, on as many images as the protocol says."""
    attack = replace(s.protocol.autoattack, eps=s.profile.eps)
    x, y = (part[: s.protocol.autoattack_images] for part in (s.x, s.y))
    n = len(x)
    report = evaluate(s.model, x, y, attack, batch=n, doubts=False)
    return [s.row("rerr", report.RErr, "aa", n=n), s.row("rloss", report.RLoss, "aa", n=n)]


def average(s: Subject) -> list[dict]:
    """Average-case flatness of the robust and of the clean loss."""
    return _average(s, s.protocol.xi, s.protocol.draws)


def worst(s: Subject) -> list[dict]:
    """Worst-case flatness of the robust and of the clean loss."""
    p = s.protocol
    return [row for xi in p.worst_xi for row in _worst(s, xi, p.worst_restarts)]


def offsets(s: Subject) -> list[dict]:
    """What the searches alone add to flatness, at radius 0: the average case, and the worst case by
    the paper's protocol. Both attack the unmoved network harder than the moved one.
    """
    s = s.first(s.protocol.flatness_images)
    p, given = s.protocol, {"reference": s.report.robust_loss}
    average = average_flatness(
        s.model, s.x, s.y, s.pgd, 0.0, p.draws, s.generator("offset_average"), **given
    )
    worst = worst_flatness(
        s.model, s.x, s.y, s.profile.eps, 0.0, p.steps, p.worst_restarts,
        s.generator("offset_worst"), lr_w=p.worst_lr, protocol="paper", **given,
    )  # fmt: skip
    found = {
        "offset_average": (average, f"pgd{p.steps}x1", p.draws),
        "offset_worst": (worst, f"joint{p.steps}-paper", p.worst_restarts),
    }
    return [
        s.row(name, flat.value, how, std=flat.std, xi=0.0, scope="batch", draws=draws)
        for name, (flat, how, draws) in found.items()
    ]


def radii(s: Subject) -> list[dict]:
    """Average- and worst-case flatness at the protocol's other radii."""
    p, rows = s.protocol, []
    for xi in p.radii:
        rows += [] if xi == p.xi else _average(s, xi, p.radii_draws, f"/{xi}")
    for xi in p.worst_radii:
        rows += [] if xi in p.worst_xi else _worst(s, xi, p.radii_restarts)
    return rows


def _average(s: Subject, xi: float, draws: int, stream: str = "") -> list[dict]:
    s, rows = s.first(s.protocol.flatness_images), []
    for measure, attack in (("avg_flatness_rloss", s.pgd), ("avg_flatness_loss", None)):
        reference = s.report.robust_loss if attack else s.report.loss
        flat = average_flatness(
            s.model, s.x, s.y, attack, xi, draws, s.generator(measure + stream), reference=reference
        )
        how = f"pgd{s.protocol.steps}x1" if attack else "none"
        about = {"std": flat.std, "xi": xi, "scope": "batch", "draws": draws}
        rows.append(s.row(measure, flat.value, how, **about))
    return rows


def _worst(s: Subject, xi: float, restarts: int) -> list[dict]:
    """Of RLoss by the protocol's reference, and beside a matched one by the paper's, which the same
    search gives; of Loss.
    """
    s = s.first(s.protocol.flatness_images)
    p, matched = s.protocol, s.protocol.worst == "matched"
    about = {"xi": xi, "scope": "batch", "draws": restarts}
    how = s.model, s.x, s.y, s.profile.eps, xi, p.steps, restarts
    reference = None if matched else s.report.robust_loss
    robust = worst_flatness(
        *how, s.generator(f"worst/{xi}"), lr_w=p.worst_lr, protocol=p.worst, reference=reference
    )
    clean = worst_flatness(
        *how, s.generator(f"worst-clean/{xi}"), lr_w=p.worst_lr, clean=True, reference=s.report.loss
    )
    joint, paper = f"joint{p.steps}", f"joint{p.steps}-paper"
    found = [("worst_flatness_rloss", robust.value, joint if matched else paper, robust.std)]
    if matched:
        value = robust.value + robust.reference - s.report.RLoss
        found += [("worst_flatness_rloss_paper", value, paper, robust.std)]
    found += [("worst_flatness_loss", clean.value, f"weights{p.steps}", clean.std)]
    return [s.row(name, value, attack, std=std, **about) for name, value, attack, std in found]


def hessian(s: Subject) -> list[dict]:
    """Both ends of the spectrum of the clean loss's Hessian; convexity is |low| / |high|."""
    p = s.protocol
    n = min(p.hessian_images, len(s.x))
    values = eigenvalues(s.model, s.x[:n], s.y[:n], p.hessian_k).tolist()
    low, high = values[0], values[-1]
    rows = {"lambda_max": high, "lambda_min": low, "convexity": abs(low) / abs(high)}
    return [s.row(measure, value, n=n) for measure, value in rows.items()]


# Row name: (kind of direction, normalised per, statistic over directions).
LINES = {
    "line_random": ("random", "layer", "mean"),
    "line_filter": ("random", "filter", "mean"),
    "line_adversarial": ("adversarial", "layer", "max"),
    "line_hessian": ("hessian", "layer", "mean"),
}


def lines(s: Subject) -> list[dict]:
    """RLoss at w + s nu along four kinds of directions nu; column ``at`` is s, ``xi`` the length of
    nu relative to the weights.
    """
    p, rows = s.protocol, []
    n = min(p.line_images, len(s.x))
    attack = PGD(eps=s.profile.eps, steps=p.line_steps)
    for measure, (kind, per, statistic) in LINES.items():
        table = slices(
            s.model, s.x[:n], s.y[:n], attack, kind, p.line_draws, p.line_points, per=per,
            generator=s.generator(measure),
        )  # fmt: skip
        about = {"n": n, "xi": KINDS[kind], "scope": per, "draws": table.direction.nunique()}
        for at, losses in table.groupby("s").rloss:
            more = {"at": round(at, 6), "std": losses.std(ddof=0)} | about
            rows.append(s.row(measure, losses.agg(statistic), f"pgd{p.line_steps}x1", **more))
    return rows


# ---- costs: attack steps (a forward pass, a backward pass to the input), counted per image


class Size(NamedTuple):
    """What the cost of a measure depends on."""

    protocol: Protocol
    n: int  # images measured on

    def few(self, images: int | None) -> int:
        return min(images or self.n, self.n)

    @property
    def flat(self) -> int:
        return self.few(self.protocol.flatness_images)

    @property
    def pgd(self) -> int:
        return self.protocol.steps + 1

    def joint(self, searches: int) -> float:
        """Searches for the worst weights, robust and clean; those of images alone where the
        reference is matched.
        """
        p = self.protocol
        alone = p.steps * self.flat if p.worst == "matched" else 0
        return searches * ((1 + CLEAN_STEP) * WEIGHT_STEP * p.steps * self.flat + alone)


WEIGHT_STEP = 2.0  # a step with a gradient for the weights too, in attack steps
CLEAN_STEP = 0.8  # one without images, in those
LANCZOS, HESSIAN_STEP = 60, 4.0  # products with the Hessian for a few eigenvalues; one in steps


def _robustness_cost(s: Size) -> float:
    return s.protocol.restarts * s.pgd * s.n


def _worst_cost(s: Size) -> float:
    return s.joint(len(s.protocol.worst_xi) * s.protocol.worst_restarts)


def _offsets_cost(s: Size) -> float:
    p = s.protocol
    average = _robustness_cost(s) + p.draws * s.pgd * s.flat
    return average + p.worst_restarts * WEIGHT_STEP * p.steps * s.flat


def _radii_cost(s: Size) -> float:
    p = s.protocol
    averages = len(set(p.radii) - {p.xi}) * p.radii_draws
    worsts = len(set(p.worst_radii) - set(p.worst_xi)) * p.radii_restarts
    return _robustness_cost(s) + averages * s.pgd * s.flat + s.joint(worsts)


def _lines_cost(s: Size) -> float:
    p = s.protocol
    return p.line_points * (3 * p.line_draws + 1) * (p.line_steps + 1) * s.few(p.line_images)


def _choices_cost(s: Size) -> float:
    p = s.protocol
    averages = 4 * p.draws * s.flat + 2 * p.restarts * s.n
    return averages * s.pgd + 5 * p.worst_restarts * WEIGHT_STEP * p.steps * s.flat


class Measure(NamedTuple):
    """All there is to a measure: how its rows are made, what it costs, the fields of the protocol
    that decide them, and the version of the code: to be raised when it measures something else than
    before, so that older rows no longer count.
    """

    rows: Callable[[Subject], list[dict]]
    cost: Callable[[Size], float]
    uses: tuple[str, ...]
    version: int = 1

    def protocol(self, profile: Profile) -> dict:
        """What says how a profile takes this measure, for a row to be known by."""
        uses = ("early_restarts", *self.uses)
        changed = {k: v for k, v in settings(profile.protocol).items() if k in uses}
        return {"test": profile.test, "version": self.version, "settings": changed}


MEASURES = {
    "robustness": Measure(robustness, _robustness_cost, ("steps", "restarts")),
    "autoattack": Measure(
        autoattack,
        lambda s: s.protocol.autoattack.steps_per_image * s.few(s.protocol.autoattack_images),
        ("autoattack", "autoattack_images"),
    ),
    "average": Measure(
        average, lambda s: s.protocol.draws * s.pgd * s.flat,
        ("steps", "restarts", "xi", "draws", "flatness_images"),
    ),
    "worst": Measure(
        worst, _worst_cost,
        ("steps", "restarts", "worst", "worst_xi", "worst_restarts", "worst_lr",
         "flatness_images"),
    ),
    "offsets": Measure(
        offsets, _offsets_cost,
        ("steps", "restarts", "draws", "worst_restarts", "worst_lr", "flatness_images"),
    ),
    "radii": Measure(
        radii, _radii_cost,
        ("steps", "restarts", "xi", "worst", "worst_xi", "worst_lr", "radii", "worst_radii",
         "radii_draws", "radii_restarts", "flatness_images"),
    ),
    "hessian": Measure(
        hessian, lambda s: LANCZOS * HESSIAN_STEP * s.few(s.protocol.hessian_images),
        ("hessian_images", "hessian_k"),
    ),
    "lines": Measure(
        lines, _lines_cost, ("line_points", "line_draws", "line_images", "line_steps"),
    ),
    "choices": Measure(
        choices, _choices_cost,
        ("steps", "restarts", "xi", "draws", "worst_xi", "worst_restarts", "worst_lr",
         "flatness_images"),
    ),
}  # fmt: skip
