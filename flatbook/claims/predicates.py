"""Kinds of statements, each a small record that decides one on a table; here: correlations.

Called with a table (index "method", columns as in the printed tables, fractions), a predicate gives
a Verdict, or None where the columns or rows it needs are not there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flatbook.published import correlation

ENOUGH = 10  # methods below which a statement "across methods" is left open
RESAMPLES = 1000  # of the methods, for the interval of a difference of correlations


class Verdict(NamedTuple):
    """Whether a statement holds on one table, the number that decides and its 95 % interval (NaN
    where there is none), and the finding in words.
    """

    holds: bool
    value: float
    shown: str
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Claim:
    """One statement of a paper: where it is made, in our words, and what decides it."""

    id: str  # begins with its paper: "stutz2021-pearson"
    topic: str
    place: str
    item: str  # the notebook that shows it: "fig08", "tab01"
    statement: str
    predicate: Callable
    reads: str = "models"  # the table of `evidence` the predicate is called with

    @property
    def paper(self) -> str:
        return self.id.partition("-")[0]


def taken(df, columns, methods=()):
    """`columns` of complete rows, all of `methods` or every row; None where something lacks."""
    if any(column not in df for column in columns):
        return None
    df = df[list(columns)]
    df = df.reindex(list(methods)) if methods else df
    complete = df.dropna()
    lacking = len(complete) < len(df) if methods else len(complete) < ENOUGH
    return None if lacking else complete


def ordered(values):
    """Numbers for a reader: "0.40, 0.69, 1.21"."""
    return ", ".join(f"{value:.2f}" for value in values)


@dataclass(frozen=True)
class Correlates:
    """Correlation of x with y over methods is at least `least`; with sign -1: at most -`least`."""

    x: str
    y: str
    least: float
    kind: str = "pearson"  # or "spearman"
    sign: int = 1

    def __call__(self, df):
        df = taken(df, (self.x, self.y))
        if df is None or not _varied(df):
            return None
        found = correlation(df, self.x, self.y)
        value = getattr(found, self.kind)
        low, high = (found.low, found.high) if self.kind == "pearson" else (math.nan, math.nan)
        shown = f"{value:.2f}{_between(low, high)}, n = {found.n}"
        return Verdict(bool(self.sign * value >= self.least), value, shown, low, high)


@dataclass(frozen=True)
class Uncorrelated:
    """Pearson's coefficient of x and y over at least `enough` methods is nearer 0 than `most`."""

    x: str
    y: str
    most: float = 0.5
    enough: int = 8

    def __call__(self, df):
        if any(column not in df for column in (self.x, self.y)):
            return None
        df = df[[self.x, self.y]].dropna()
        if len(df) < self.enough or (df.nunique() < 2).any():
            return None
        found = correlation(df, self.x, self.y)
        shown = f"{found.pearson:.2f}{_between(found.low, found.high)}, n = {found.n}"
        holds = bool(abs(found.pearson) < self.most)
        return Verdict(holds, found.pearson, shown, found.low, found.high)


@dataclass(frozen=True)
class CorrelatesLess:
    """Pearson of `weak` with y is at least `margin` below that of `strong`, on the same methods."""

    weak: str
    strong: str
    y: str
    margin: float = 0.1

    def __call__(self, df):
        df = taken(df, (self.weak, self.strong, self.y))
        if df is None or not _varied(df):
            return None
        values = df.to_numpy(float)
        weak, strong = _pearsons(values)
        low, high = _bootstrap(values)
        shown = f"{weak:.2f} against {strong:.2f}, n = {len(df)}"
        shown += f"; difference {strong - weak:.2f}{_between(low, high)}"
        return Verdict(bool(strong - weak >= self.margin), strong - weak, shown, low, high)


@dataclass(frozen=True)
class Sweeps:
    """In each sweep (methods that differ in one setting) x and y correlate by at least `least`.

    With sign -1, by at most -`least`. Settings that were not measured are passed over.
    """

    x: str
    y: str
    sweeps: tuple
    least: float = 0.5
    sign: int = 1

    def __call__(self, df):
        if any(column not in df for column in (self.x, self.y)):
            return None
        parts = [df.reindex(list(sweep))[[self.x, self.y]].dropna() for sweep in self.sweeps]
        if any(len(part) < 2 or (part.nunique() < 2).any() for part in parts):
            return None
        found = np.array([part.corr().iloc[0, 1] for part in parts]) * self.sign
        wrong = [sweep[-1] for sweep, r in zip(self.sweeps, found) if r < self.least]
        shown = ordered(found * self.sign)
        shown += f"; not so: the sweep with {', '.join(wrong)}" if wrong and len(parts) > 1 else ""
        return Verdict(not wrong, found.min() * self.sign, shown)


@dataclass(frozen=True)
class Flattens:
    """The least-squares slope of y over x falls at x = `at` to less than half of what it was."""

    x: str
    y: str
    at: float

    def __call__(self, df):
        df = taken(df, (self.x, self.y))
        if df is None:
            return None
        sides = df[df[self.x] < self.at], df[df[self.x] >= self.at]
        if min(map(len, sides)) < ENOUGH // 2:
            return None
        below, above = (side.cov().loc[self.x, self.y] / side[self.x].var() for side in sides)
        shown = f"slope {below:.3f} below, {above:.3f} above {self.at:.2f}"
        return Verdict(bool(0 < below and above < below / 2), above / below, shown)


def _varied(df):
    """Whether correlations make sense: no column the same for all methods."""
    return bool((df.nunique() > 1).all())


def _between(low, high):
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _pearsons(values):
    """Correlation with the last column of each of the others."""
    return np.corrcoef(values.T)[-1, :-1]


def _bootstrap(values):
    """95 % percentile interval, over resampled rows, of the second correlation minus the first."""
    rng, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = values[rng.integers(0, len(values), len(values))]
        if (chosen.std(axis=0) > 0).all():
            weak, strong = _pearsons(chosen)
            differences.append(strong - weak)
    return tuple(np.quantile(differences, (0.025, 0.975))) if differences else (math.nan,) * 2
