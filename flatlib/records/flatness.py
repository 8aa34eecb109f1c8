"""Flatness in weight space, average and worst case: at the protocol's radius, at others, at 0."""

from flatlib.measures.flatness import average_flatness, worst_flatness
from flatlib.records.measure import WEIGHT_STEP, Column, Measure, Size
from flatlib.records.subject import Subject


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
        s.generator("offset_worst"), norm=s.profile.norm, lr_w=p.worst_lr, protocol="paper",
        **given,
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
    step = {"norm": s.profile.norm, "lr_w": p.worst_lr}
    reference = None if matched else s.report.robust_loss
    robust = worst_flatness(
        *how, s.generator(f"worst/{xi}"), protocol=p.worst, reference=reference, **step
    )
    clean = worst_flatness(
        *how, s.generator(f"worst-clean/{xi}"), clean=True, reference=s.report.loss, **step
    )
    joint, paper = f"joint{p.steps}", f"joint{p.steps}-paper"
    found = [("worst_flatness_rloss", robust.value, joint if matched else paper, robust.std)]
    if matched:
        value = robust.value + robust.reference - s.report.RLoss
        found += [("worst_flatness_rloss_paper", value, paper, robust.std)]
    found += [("worst_flatness_loss", clean.value, f"weights{p.steps}", clean.std)]
    return [s.row(name, value, attack, std=std, **about) for name, value, attack, std in found]


def _worst_cost(s: Size) -> float:
    return s.joint(len(s.protocol.worst_xi) * s.protocol.worst_restarts)


def _offsets_cost(s: Size) -> float:
    p = s.protocol
    average = s.report + p.draws * s.pgd * s.flat
    return average + p.worst_restarts * WEIGHT_STEP * p.steps * s.flat


def _radii_cost(s: Size) -> float:
    p = s.protocol
    averages = len(set(p.radii) - {p.xi}) * p.radii_draws
    worsts = len(set(p.worst_radii) - set(p.worst_xi)) * p.radii_restarts
    return s.report + averages * s.pgd * s.flat + s.joint(worsts)


AVERAGE = Measure(
    "average",
    average,
    cost=lambda s: s.protocol.draws * s.pgd * s.flat,
    uses=("steps", "restarts", "xi", "draws", "flatness_images"),
    columns={
        "avg_flatness_rloss": Column(
            "average-case flatness in RLoss",
            how="average-case flatness at ξ = {xi:g}, {draws:.0f} draws, {attack}",
        ),
        "avg_flatness_loss": Column("average-case flatness in Loss"),
    },
)
WORST = Measure(
    "worst",
    worst,
    _worst_cost,
    uses=("steps", "restarts", "worst", "worst_xi", "worst_restarts", "worst_lr",
          "flatness_images"),
    columns={
        "worst_flatness_rloss": Column(
            "worst-case flatness in RLoss",
            how="worst-case flatness at ξ = {xi:g}, {draws:.0f} starts",
        ),
        "worst_flatness_rloss_paper": Column(
            "worst-case flatness in RLoss by the paper's protocol"
        ),
        "worst_flatness_loss": Column("worst-case flatness in Loss"),
    },
)  # fmt: skip
OFFSETS = Measure(
    "offsets",
    offsets,
    _offsets_cost,
    uses=("steps", "restarts", "draws", "worst_restarts", "worst_lr", "flatness_images"),
    columns={},
)
RADII = Measure(
    "radii",
    radii,
    _radii_cost,
    uses=("steps", "restarts", "xi", "worst", "worst_xi", "worst_lr", "radii", "worst_radii",
          "radii_draws", "radii_restarts", "flatness_images"),
    columns={name: Column(column.words, says=("xi",))
             for name, column in (AVERAGE.columns | WORST.columns).items()},
)  # fmt: skip
