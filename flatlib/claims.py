"""The ledger: quantitative statements of the papers, each with a predicate over a wide table.

A predicate is a small record of one kind of statement. It has `columns`, and called with a table
(one row per method, fractions) gives a Verdict, or None where rows it needs were not measured.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from flatlib.published import by_method, correlation

ENOUGH = 10  # methods below which a statement "across methods" is left open
KINK = math.log(10)  # cross entropy of guessing among 10 classes, 2.30
TABLE1 = ("at", "unlabeled", "cyclic2", "autoaugment", "awp0.01", "noise0.3", "clip0.005",
          "trades6", "ssl4", "wd0.05", "entropy1", "mish", "late", "silu", "ema0.9975", "eps9",
          "mart6", "gelu", "smooth0.3")  # fmt: skip


class Verdict(NamedTuple):
    """Whether a claim holds on one table, the number that decides, and that number in words."""

    holds: bool
    value: float
    shown: str


@dataclass(frozen=True)
class Claim:
    """One statement: where it is made, in our words, and what decides it."""

    id: str
    paper: str
    place: str
    statement: str
    columns: tuple
    predicate: Callable


@dataclass(frozen=True)
class Correlates:
    """Correlation of x with y (or with y - minus) over methods is at least `least`."""

    x: str
    y: str
    least: float
    kind: str = "pearson"  # or "spearman"
    minus: str | None = None

    @property
    def columns(self):
        return (self.x, self.y) + ((self.minus,) if self.minus else ())

    def __call__(self, df):
        df = df[list(self.columns)].dropna()
        if self.minus:
            df = df.assign(**{self.y: df[self.y] - df[self.minus]})
        if not _varied(df):
            return None
        found = correlation(df, self.x, self.y)
        value = getattr(found, self.kind)
        between = f" [{found.low:.2f}, {found.high:.2f}]" if self.kind == "pearson" else ""
        return Verdict(value >= self.least, value, f"{value:.2f}{between}, n = {found.n}")


@dataclass(frozen=True)
class CorrelatesLess:
    """Pearson of `weak` with y is at least `margin` below that of `strong`, on the same methods."""

    weak: str
    strong: str
    y: str
    margin: float = 0.1

    @property
    def columns(self):
        return (self.weak, self.strong, self.y)

    def __call__(self, df):
        df = df[list(self.columns)].dropna()
        if not _varied(df):
            return None
        weak, strong = (correlation(df, x, self.y).pearson for x in (self.weak, self.strong))
        shown = f"{weak:.2f} against {strong:.2f}, n = {len(df)}"
        return Verdict(strong - weak >= self.margin, strong - weak, shown)


@dataclass(frozen=True)
class Ordered:
    """Means of `column` ascend over methods good, average, poor in `by` (percentiles 30, 70)."""

    column: str
    by: str
    methods: tuple

    @property
    def columns(self):
        return (self.column, self.by)

    def __call__(self, df):
        df = df.reindex(list(self.methods))[list(self.columns)].dropna()
        if len(df) < ENOUGH:
            return None
        good, poor = df[self.by].quantile(0.3), df[self.by].quantile(0.7)
        group = (df[self.by] > good).astype(int) + (df[self.by] > poor)
        means = df[self.column].groupby(group).mean()
        rise = means.diff().min()
        shown = " < ".join(f"{m:.2f}" for m in means) if rise > 0 else _listed(means)
        return Verdict(len(means) == 3 and bool(rise > 0), rise, shown)


@dataclass(frozen=True)
class Below:
    """`column` of each of `methods` is below that of `than`; with holds=False: of none."""

    column: str
    methods: tuple
    than: str = "at"
    holds: bool = True

    @property
    def columns(self):
        return (self.column,)

    def __call__(self, df):
        values = df[self.column].reindex([self.than, *self.methods])
        if values.isna().any():
            return None
        others, base = values.drop(self.than), values[self.than]
        ratio, wrong = others / base, others[(others < base) != self.holds]
        far = ratio.max() if self.holds else ratio.min()
        shown = f"at {'most' if self.holds else 'least'} {far:.2f} × {self.than}"
        shown += f", not so: {', '.join(wrong.index)}" if len(wrong) else ""
        return Verdict(wrong.empty, far, shown)


@dataclass(frozen=True)
class Rises:
    """From `early` to `last` a column grows by at least `factor`, for a `share` of the methods.

    factor 1 asks for no fall. methods: names, all of them needed, or empty for every row there is.
    """

    early: str
    last: str
    factor: float = 1.0
    methods: tuple = ()
    share: float = 1.0

    @property
    def columns(self):
        return (self.early, self.last)

    def __call__(self, df):
        df = df.reindex(list(self.methods)) if self.methods else df
        both = df[list(self.columns)].dropna()
        if len(both) < (len(self.methods) or ENOUGH):
            return None
        ratio = both[self.last] / both[self.early]
        share = (ratio >= self.factor).mean()
        if len(both) == 1:
            return Verdict(share == 1, ratio.iloc[0], f"× {ratio.iloc[0]:.2f}")
        shown = f"{round(share * len(both))} of {len(both)} methods, at least × {ratio.min():.2f}"
        return Verdict(share >= self.share, share, shown)


@dataclass(frozen=True)
class Flattens:
    """The least-squares slope of y over x falls at x = `at` to less than half of what it was."""

    x: str
    y: str
    at: float

    @property
    def columns(self):
        return (self.x, self.y)

    def __call__(self, df):
        df = df[list(self.columns)].dropna()
        sides = df[df[self.x] < self.at], df[df[self.x] >= self.at]
        if min(map(len, sides)) < ENOUGH // 2:
            return None
        below, above = (side.cov().loc[self.x, self.y] / side[self.x].var() for side in sides)
        shown = f"slope {below:.3f} below, {above:.3f} above {self.at:.2f}"
        return Verdict(bool(0 < below and above < below / 2), above / below, shown)


def _stutz(id, place, statement, predicate):
    paper = "Stutz et al. 2021"
    return Claim(f"stutz2021-{id}", paper, place, statement, predicate.columns, predicate)


FLAT, SHARP = "avg_flatness_rloss", "worst_flatness_rloss"  # average case, worst case
RLOSS, STOPPED = "rloss_test_pgd", "rloss_early_stop_pgd"
NONLINEAR = ("mish", "silu", "gelu")

LEDGER = (
    _stutz("pearson", "Sec. 4.2", "Robust loss and average-case flatness go together across "
           "methods: Pearson 0.85 (asked here: 0.7).", Correlates(FLAT, RLOSS, 0.7)),
    _stutz("spearman", "Sec. 4.2", "Their ranks over the methods agree as well: Spearman 0.87 "
           "(asked here: 0.7).",
           Correlates(FLAT, RLOSS, 0.7, "spearman")),
    _stutz("worst-case-weaker", "Sec. 4.2", "Worst-case flatness correlates less with robust loss "
           "than average-case flatness (0.54 against 0.85; asked here: 0.1 less).",
           CorrelatesLess(SHARP, FLAT, RLOSS)),
    _stutz("clean-weaker", "Supplement", "Average-case flatness of the clean loss correlates much "
           "less with robust loss (0.27 against 0.85; asked here: 0.1 less).",
           CorrelatesLess("avg_flatness_loss", FLAT, RLOSS)),
    _stutz("gap", "Fig. 9", "Flatter models have a smaller robust generalisation gap, test minus "
           "train robust loss (no number printed; asked here: Pearson 0.7).",
           Correlates(FLAT, RLOSS, 0.7, minus="rloss_train_pgd")),
    _stutz("overfitting", "Fig. 9", "Flatter models overfit less: robust loss at the last epoch "
           "minus early-stopped (no number printed; asked here: Pearson 0.7).",
           Correlates(FLAT, RLOSS, 0.7, minus=STOPPED)),
    _stutz("groups-average-case", "Tab. 1", "Grouped by robust error into good, average and poor, "
           "methods have mean average-case flatness in that order (0.40, 0.69, 1.21).",
           Ordered(FLAT, "rerr_test_aa", TABLE1)),
    _stutz("groups-worst-case", "Tab. 1", "Grouped in the same way, mean worst-case flatness is in "
           "that order (2.0, 2.9, 4.67).", Ordered(SHARP, "rerr_test_aa", TABLE1)),
    _stutz("at-rloss-overfits", "Fig. 2", "Adversarial training to the end costs robust loss "
           "against stopping early (3.91 against 1.53; asked here: × 1.2).",
           Rises(STOPPED, RLOSS, 1.2, ("at",))),
    _stutz("at-rerr-overfits", "Fig. 2", "It costs robust error as well (61.0 % against 52.3 %; "
           "asked here: × 1.02).", Rises("rerr_early_stop_pgd", "rerr_test_pgd", 1.02, ("at",))),
    _stutz("stopping-helps", "Fig. 9", "Early stopping does not raise robust loss, whatever the "
           "method (asked here: nine methods in ten).", Rises(STOPPED, RLOSS, share=0.9)),
    _stutz("variants-flatter", "Fig. 1", "The variants known for robustness (TRADES, AT-AWP, MART, "
           "self-supervision, unlabelled data) are flatter than adversarial training.",
           Below(FLAT, ("trades6", "awp0.01", "mart6", "ssl4", "unlabeled"))),
    _stutz("regularisers-robust", "Fig. 1", "Regularisers known for flatness (Entropy-SGD, weight "
           "decay, weight clipping) have lower robust loss than adversarial training.",
           Below(RLOSS, ("entropy1", "wd0.05", "clip0.005"))),
    _stutz("label-noise-rerr", "Sec. 4.1", "Label noise reaches a lower robust error than label "
           "smoothing with the same expected target.",
           Below("rerr_test_aa", ("noise0.3",), than="smooth0.3")),
    _stutz("labels-rloss", "Sec. 4.1", "Label noise and label smoothing both lower robust loss.",
           Below(RLOSS, ("noise0.3", "smooth0.3"))),
    _stutz("activations-average-case", "Tab. 1", "MiSH, SiLU and GeLU do not lower average-case "
           "flatness below that of ReLU (1.56, 1.71, 1.55 against 1.21).",
           Below(FLAT, NONLINEAR, holds=False)),
    _stutz("activations-worst-case", "Tab. 1", "MiSH, SiLU and GeLU do lower worst-case flatness "
           "(3.54, 4.20, 4.12 against 6.48).", Below(SHARP, NONLINEAR)),
    _stutz("kink", "Fig. 8", "Above the robust loss of guessing, 2.3, less of it hardly means less "
           "robust error: the slope falls to less than half.",
           Flattens(RLOSS, "rerr_test_aa", KINK)),
)  # fmt: skip


def _varied(df):
    """Whether correlations make sense: enough methods, and no column the same for all of them."""
    return len(df) >= ENOUGH and bool((df.nunique() > 1).all())


def _listed(values):
    return ", ".join(f"{value:.2f}" for value in values)


def verdicts(tables, ledger=None):
    """One row per claim and source: id, paper, place, statement, source, verdict, value, shown.

    tables: source name -> wide table (rows of several seeds are averaged per method). verdict is
    "holds", "fails", or "not yet measured" where columns or rows are missing or NaN.
    """
    means = {source: by_method(df).mean(numeric_only=True) for source, df in tables.items()}
    rows = [_row(claim, source, df) for claim in (LEDGER if ledger is None else ledger)
            for source, df in means.items()]  # fmt: skip
    columns = ["id", "paper", "place", "statement", "source", "verdict", "value", "shown"]
    return pd.DataFrame(rows, columns=columns)


def table(tables, ids):
    """Statement by source, in words: verdict and finding of the claims of these ids.

    An id may leave out the paper: "pearson" is "stutz2021-pearson" where that is unique.
    """
    known = [claim.id for claim in LEDGER]
    chosen = [[full for full in known if full == i or full.endswith(f"-{i}")] for i in ids]
    unknown = [i for i, found in zip(ids, chosen) if len(found) != 1]
    if unknown:
        raise ValueError(f"ids={unknown!r} name no claim, or several; the claims are {known}")
    ledger = [claim for claim in LEDGER if [claim.id] in chosen]
    found = verdicts(tables, ledger)
    found["words"] = (found["verdict"] + ": " + found["shown"]).str.removesuffix(": ")
    words = found.pivot(index="statement", columns="source", values="words")
    return words[list(tables)].rename_axis(index=None, columns=None)


def _row(claim, source, df):
    there = all(column in df for column in claim.columns)
    found = claim.predicate(df) if there else None
    verdict = "not yet measured" if found is None else "holds" if found.holds else "fails"
    value, shown = (math.nan, "") if found is None else (float(found.value), found.shown)
    return (claim.id, claim.paper, claim.place, claim.statement, source, verdict, value, shown)
