"""The robust loss along lines through weight space: rows by step, no column of a wide table."""

from flatlib.measures.landscape import KINDS, slices
from flatlib.records.measure import Measure, Size
from flatlib.records.subject import Subject

# Row name: (kind of direction, normalised per, statistic over directions).
DIRECTIONS = {
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
    attack = s.attack(p.line_steps)
    for measure, (kind, per, statistic) in DIRECTIONS.items():
        table = slices(
            s.model, s.x[:n], s.y[:n], attack, kind, p.line_draws, p.line_points, per=per,
            generator=s.generator(measure),
        )  # fmt: skip
        about = {"n": n, "xi": KINDS[kind], "scope": per, "draws": table.direction.nunique()}
        for at, losses in table.groupby("s").rloss:
            more = {"at": round(at, 6), "std": losses.std(ddof=0)} | about
            rows.append(s.row(measure, losses.agg(statistic), f"pgd{p.line_steps}x1", **more))
    return rows


def cost(s: Size) -> float:
    """Three kinds of several directions, one of the Hessian's."""
    p = s.protocol
    return p.line_points * (3 * p.line_draws + 1) * (p.line_steps + 1) * s.few(p.line_images)


LINES = Measure(
    "lines", lines, cost, uses=("line_points", "line_draws", "line_images", "line_steps"),
    columns={},
)  # fmt: skip
