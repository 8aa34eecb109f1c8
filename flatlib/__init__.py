"""flatlib: robust overfitting and flat minima, measured.

f, w = as_function(model), layers(model) turns any network into a function of its weights; attacks,
flatness measures, landscapes and training methods are written on top of it. Start with the book, or
with ``help(PGD)``.

What trains networks or reads tables is imported when it is first asked for: measuring a network of
one's own needs neither.
"""

from importlib import import_module

from flatlib.attacks.autoattack import AutoAttack
from flatlib.attacks.pgd import PGD
from flatlib.measures.evaluate import evaluate
from flatlib.measures.flatness import average_flatness, worst_flatness
from flatlib.measures.hessian import eigenvalues
from flatlib.measures.landscape import slices
from flatlib.weights import as_function, layers

__version__ = "0.1.0"
__all__ = [
    "AT", "CATALOGUE", "PGD", "AutoAttack", "Method", "as_function", "average_flatness",
    "eigenvalues", "evaluate", "fit", "layers", "runs", "slices", "worst_flatness",
]  # fmt: skip
_LATER = {"AT": "training.methods", "CATALOGUE": "catalogue", "Method": "training.methods",
          "fit": "training.train", "runs": "runs"}  # fmt: skip


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_LATER[name]}")
    except ModuleNotFoundError as error:
        error.msg += f"; flatlib.{name} wants more packages: pip install 'flatlib[training]'"
        raise
    return module if name == "runs" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
