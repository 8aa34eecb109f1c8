"""What is measured of a trained network: a record for each measure, listed here once."""

from flatlib.records import disagreements, errors, flatness, hessian, lines

_LISTED = (
    errors.ROBUSTNESS,
    errors.AUTOATTACK,
    flatness.AVERAGE,
    flatness.WORST,
    flatness.OFFSETS,
    flatness.RADII,
    hessian.HESSIAN,
    lines.LINES,
    disagreements.CHOICES,
)
MEASURES = {measure.name: measure for measure in _LISTED}
