"""The spectrum of the clean loss's Hessian at its ends."""

from flatlib.measures.hessian import eigenvalues
from flatlib.records.measure import Column, Measure
from flatlib.records.subject import Subject

LANCZOS, PRODUCT = 60, 4.0  # products with the Hessian for a few eigenvalues; one in attack steps


def hessian(s: Subject) -> list[dict]:
    """Both ends of the spectrum of the clean loss's Hessian; convexity is |low| / |high|."""
    p = s.protocol
    n = min(p.hessian_images, len(s.x))
    values = eigenvalues(s.model, s.x[:n], s.y[:n], p.hessian_k).tolist()
    low, high = values[0], values[-1]
    rows = {"lambda_max": high, "lambda_min": low, "convexity": abs(low) / abs(high)}
    return [s.row(measure, value, n=n) for measure, value in rows.items()]


HESSIAN = Measure(
    "hessian",
    hessian,
    cost=lambda s: LANCZOS * PRODUCT * s.few(s.protocol.hessian_images),
    uses=("hessian_images", "hessian_k"),
    columns={
        "lambda_max": Column("λ_max of the clean loss"),
        "lambda_min": Column("λ_min of the clean loss"),
        "convexity": Column("|λ_min| / |λ_max| of the clean loss"),
    },
)
