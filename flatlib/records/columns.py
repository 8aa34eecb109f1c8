"""The one vocabulary of wide tables: which column a tidy row belongs to, and the words for it.

A column is named after the quantity and what tells its rows apart: "rloss_test_pgd",
"rerr_early_stop_aa", "avg_flatness_rloss_train", "worst_flatness_loss@0.001". The images are those
of the test set, and the model the last one, where nothing else is said.
"""

import re

import numpy as np
import pandas as pd

from flatlib.records import MEASURES
from flatlib.records.measure import Column

TOLD = {  # what a column is named after besides its quantity, in words
    "test": "test", "train": "train", "early_stop": "early stopping",
    "pgd": "PGD", "aa": "AutoAttack", "over_draws": "std over draws",
}  # fmt: skip
DIFFERENCES = {  # column -> what it is the difference of, in words
    "rloss_overfitting": ("rloss_test_pgd", "rloss_early_stop_pgd", "RLoss, last minus stopped"),
    "rerr_overfitting": ("rerr_test_aa", "rerr_early_stop_aa", "RErr, last minus stopped"),
    "rloss_gap": ("rloss_test_pgd", "rloss_train_pgd", "RLoss, test minus train"),
}
ENDS = ("smallest", "largest")  # said of a radius


def of(row) -> str | None:
    """The wide column of a tidy row (asked, measure, which, split, attack, xi); None: it has
    none.
    """
    measure = MEASURES.get(row.asked)
    column = measure and measure.columns.get(row.measure)
    if not column:
        return None
    parts, early = [row.measure], row.which == "early_stopped"
    if row.split == "train" or ("split" in column.says and not early):
        parts.append(row.split)
    if early:
        parts.append("early_stop")
    if "attack" in column.says and row.attack != "none":
        parts.append(re.match("[a-z]+", row.attack)[0])
    return "_".join(parts) + (f"@{row.xi:g}" if "xi" in column.says else "")


def named(tidy: pd.DataFrame) -> pd.DataFrame:
    """The rows of a tidy table that have a wide column, with its name as "column"."""
    names = [of(row) for row in tidy.itertuples()]
    rows = tidy[np.array([name is not None for name in names], bool)]
    return rows.assign(column=pd.Series([n for n in names if n is not None], rows.index, "str"))


def radii(rows: pd.DataFrame) -> dict[str, float]:
    """xi by column of rows that ``named`` gave, where all of a column have the same."""
    found = rows.dropna(subset="xi").groupby("column")["xi"].unique()
    return {column: float(xi[0]) for column, xi in found.items() if len(xi) == 1}


def differences(wide: pd.DataFrame) -> pd.DataFrame:
    """A wide table with those of ``DIFFERENCES`` that it has both columns of."""
    pairs = {name: pair for name, (*pair, _) in DIFFERENCES.items() if {*pair} <= {*wide}}
    return wide.assign(**{name: wide[more] - wide[less] for name, (more, less) in pairs.items()})


def ends(wide: pd.DataFrame) -> pd.DataFrame:
    """A wide table with copies of its columns at the outermost radii: "<quantity>@smallest" and
    "@largest".
    """
    at = [name.split("@") for name in wide if "@" in name]
    found = {}
    for quantity in sorted({quantity for quantity, _ in at}):
        radii = sorted((radius for name, radius in at if name == quantity), key=float)
        for end, radius in zip(ENDS, (radii[0], radii[-1])):
            found[f"{quantity}@{end}"] = wide[f"{quantity}@{radius}"]
    return wide.assign(**found)


def quantities() -> dict[str, Column]:
    """All quantities with wide columns; those of several measures as the first one has them."""
    found: dict[str, Column] = {}
    for measure in MEASURES.values():
        found |= {name: column for name, column in measure.columns.items() if name not in found}
    return found


def words(column: str, xi: dict[str, float] | None = None) -> str:
    """What a wide column shows, for an axis: "RLoss (test, PGD)", "average-case flatness in RLoss,
    ξ = 0.5"; a name that is none stays as it is.

    ``xi``: the radius by column, as ``runs.wide`` keeps it in ``attrs["xi"]``.
    """
    if column in DIFFERENCES:
        return DIFFERENCES[column][-1]
    name, _, radius = column.partition("@")
    every = quantities()
    quantity = max((q for q in every if f"{name}_".startswith(f"{q}_")), key=len, default=column)
    told = re.findall("early_stop|over_draws|[^_]+", name.removeprefix(quantity))
    if quantity not in every or not {*told} <= {*TOLD}:
        return column
    if told and "split" in every[quantity].says and told[0] not in ("test", "train"):
        told = ["test", *told]
    found = every[quantity].words + (f" ({', '.join(map(TOLD.get, told))})" if told else "")
    radius = radius or (xi or {}).get(name.removesuffix("_over_draws"), "")
    if radius:
        found += f", {radius} ξ" if radius in ENDS else f", ξ = {radius}"
    return found
