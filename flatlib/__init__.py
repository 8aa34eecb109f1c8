"""flatlib: robust overfitting and flat minima, measured.

f, w = as_function(model), layers(model) turns any network into a function of its weights; attacks,
flatness measures, landscapes and training methods are written on top of it. Start with the book, or
with ``help(PGD)``.
"""

from . import runs
from .attacks import PGD
from .autoattack import AutoAttack
from .evaluate import evaluate
from .flatness import average_flatness, worst_flatness
from .hessian import eigenvalues
from .landscape import slices
from .methods import AT, CATALOGUE, Method
from .train import fit
from .weights import as_function, layers

__version__ = "0.1.0"
__all__ = [
    "AT", "CATALOGUE", "PGD", "AutoAttack", "Method", "as_function", "average_flatness",
    "eigenvalues", "evaluate", "fit", "layers", "runs", "slices", "worst_flatness",
]  # fmt: skip
