"""Kinds of statements that compare methods with each other, or two columns of the same methods."""

from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest, spearmanr

from flatbook.claims.predicates import ENOUGH, Verdict, ordered, taken


@dataclass(frozen=True)
class Ordered:
    """Means of `column` ascend over methods good, average, poor in `by` (percentiles 30, 70)."""

    column: str
    by: str
    methods: tuple
    falling: bool = False

    def __call__(self, df):
        df = taken(df.reindex(list(self.methods)), (self.column, self.by))
        if df is None:
            return None
        good, poor = df[self.by].quantile(0.3), df[self.by].quantile(0.7)
        group = (df[self.by] > good).astype(int) + (df[self.by] > poor)
        means = df[self.column].groupby(group).mean()
        rise = (means.diff() * (-1 if self.falling else 1)).min()
        return Verdict(len(means) == 3 and bool(rise > 0), rise, ordered(means))


@dataclass(frozen=True)
class Below:
    """`column` of all `methods` is below `factor` times that of `than`; of none if not `holds`."""

    column: str
    methods: tuple
    than: str = "at"
    holds: bool = True
    factor: float = 1.0

    def __call__(self, df):
        found = taken(df, (self.column,), (self.than, *self.methods))
        if found is None:
            return None
        values = found[self.column]
        others, base = values.drop(self.than), values[self.than]
        ratio = others / base
        wrong = others[(others < self.factor * base) != self.holds]
        far = ratio.max() if self.holds else ratio.min()
        extreme = "at most" if self.holds else "at least"
        shown = f"{extreme + ' ' if len(others) > 1 else ''}{far:.2f} × {self.than}"
        shown += f", not so: {', '.join(wrong.index)}" if len(wrong) and len(others) > 1 else ""
        return Verdict(wrong.empty, far, shown)


@dataclass(frozen=True)
class Lowest:
    """`method` has the smallest `column` of all methods."""

    column: str
    method: str

    def __call__(self, df):
        df = taken(df, (self.column,))
        if df is None or self.method not in df.index:
            return None
        values = df[self.column]
        own, best = values[self.method], values.drop(self.method).idxmin()
        shown = f"{own:.3f}; the lowest of the others {values[best]:.3f}, {best}"
        return Verdict(bool(own < values[best]), own / values[best], shown)


@dataclass(frozen=True)
class Pairs:
    """`column` of the first of each pair of methods is below that of the second."""

    column: str
    pairs: tuple

    def __call__(self, df):
        found = taken(df, (self.column,), tuple(dict.fromkeys(sum(self.pairs, ()))))
        if found is None:
            return None
        values = found[self.column]
        ratio = pd.Series({first: values[first] / values[second] for first, second in self.pairs})
        shown = f"{(ratio < 1).sum()} of {len(ratio)} pairs; {ordered(ratio)} times"
        return Verdict(bool((ratio < 1).all()), ratio.max(), shown)


@dataclass(frozen=True)
class Falls:
    """`column` falls along `methods`: Spearman's coefficient with their order is at most -0.7."""

    column: str
    methods: tuple

    def __call__(self, df):
        found = taken(df, (self.column,), self.methods)
        if found is None or found[self.column].nunique() < 2:
            return None
        value = float(spearmanr(range(len(found)), found[self.column]).statistic)
        return Verdict(value <= -0.7, value, ordered(found[self.column]))


@dataclass(frozen=True)
class Rises:
    """From `early` to `last` a column grows by at least `factor`, for a `share` of the methods.

    factor 1 asks for no fall. methods: names, all of them needed, or empty for every row there is.
    where: only methods in which a second pair of columns grows by more than its factor.
    """

    early: str
    last: str
    factor: float = 1.0
    methods: tuple = ()
    share: float = 1.0
    where: tuple = ()  # (early, last, factor)

    def __call__(self, df):
        df = taken(df, tuple(dict.fromkeys((self.early, self.last, *self.where[:2]))), self.methods)
        if df is not None and self.where:
            early, last, factor = self.where
            df = df[df[last] > factor * df[early]]
        if df is None or (not self.methods and len(df) < ENOUGH):
            return None
        return _shared(df[self.early], df[self.last], self.factor, self.share)


def _shared(early, last, factor, share):
    """Verdict on two columns: the share of methods that grow by the factor or more."""
    ratio, reached = last / early, last >= factor * early
    if len(ratio) == 1:
        return Verdict(bool(reached.all()), ratio.iloc[0], f"× {ratio.iloc[0]:.2f}")
    between = binomtest(int(reached.sum()), len(ratio)).proportion_ci(method="wilson")
    shown = f"{reached.sum()} of {len(ratio)} methods"
    wrong = ratio[~reached].sort_values()
    if len(wrong):
        named = ", ".join(f"{name} × {value:.2f}" for name, value in wrong.head(3).items())
        shown += f"; not so: {named}{' …' if len(wrong) > 3 else ''}"
    value = float(reached.mean())
    return Verdict(value >= share, value, shown, between.low, between.high)


@dataclass(frozen=True)
class Stays:
    """From `early` to `last` a column grows by at most `factor` in each of `methods`."""

    early: str
    last: str
    factor: float
    methods: tuple

    def __call__(self, df):
        df = taken(df, (self.early, self.last), self.methods)
        if df is None:
            return None
        ratio = df[self.last] / df[self.early]
        return Verdict(bool((ratio <= self.factor).all()), ratio.max(), f"× {ordered(ratio)}")


@dataclass(frozen=True)
class RisesMore:
    """For `method`, the first pair of columns grows by a larger factor than the second pair."""

    more: tuple
    less: tuple
    method: str = "at"

    def __call__(self, df):
        df = taken(df, (*self.more, *self.less), (self.method,))
        if df is None:
            return None
        row = df.iloc[0]
        more, less = (row[last] / row[early] for early, last in (self.more, self.less))
        return Verdict(bool(more > less), more / less, f"× {more:.2f} against × {less:.2f}")


@dataclass(frozen=True)
class Bounded:
    """`column` is from `least` to `most` in a `share` of the methods (or of `methods`)."""

    column: str
    least: float = float("-inf")
    most: float = float("inf")
    methods: tuple = ()
    share: float = 1.0
    enough: int = ENOUGH

    def __call__(self, df):
        values = df[self.column].dropna() if self.column in df else pd.Series(dtype=float)
        values = values.reindex(list(self.methods)) if self.methods else values
        if len(values) < (len(self.methods) or self.enough) or values.isna().any():
            return None
        inside = values.between(self.least, self.most)
        if len(values) == 1:
            return Verdict(bool(inside.all()), values.iloc[0], f"{values.iloc[0]:.2f}")
        between = binomtest(int(inside.sum()), len(values)).proportion_ci(method="wilson")
        shown = f"{inside.sum()} of {len(values)} methods, median {values.median():.2f}"
        share = float(inside.mean())
        return Verdict(share >= self.share, share, shown, between.low, between.high)


@dataclass(frozen=True)
class Needs:
    """Every method whose `by` is below its `quantile` is below the median of one of `either`."""

    either: tuple
    by: str
    quantile: float = 0.2

    def __call__(self, df):
        df = taken(df, (*self.either, self.by))
        if df is None:
            return None
        columns = list(self.either)
        good = df[df[self.by] < df[self.by].quantile(self.quantile)]
        flat = (good[columns] < df[columns].median()).any(axis=1)
        wrong = list(flat[~flat].index)
        shown = f"{flat.sum()} of {len(flat)} good methods"
        shown += f", not {', '.join(wrong[:3])}" if wrong else ""
        return Verdict(bool(len(flat)) and not wrong, float(flat.mean()), shown)


@dataclass(frozen=True)
class Others:
    """A `share` of the rows marked in `flag` is below the median of the rows that are not."""

    column: str
    flag: str
    share: float = 0.9

    def __call__(self, df):
        if any(column not in df for column in (self.column, self.flag)):
            return None
        df = df[[self.column, self.flag]].dropna()
        marked = df[self.flag].astype(bool)
        if marked.sum() < 2 or (~marked).sum() < ENOUGH:
            return None
        median, values = df.loc[~marked, self.column].median(), df.loc[marked, self.column]
        below = values < median
        between = binomtest(int(below.sum()), len(below)).proportion_ci(method="wilson")
        shown = f"{below.sum()} of {len(below)} below {median:.2f}, the median of the others"
        value = float(below.mean())
        return Verdict(value >= self.share, value, shown, between.low, between.high)


@dataclass(frozen=True)
class Both:
    """All of `parts` hold; the first gives the value."""

    parts: tuple

    def __call__(self, df):
        found = [part(df) for part in self.parts]
        if any(verdict is None for verdict in found):
            return None
        shown = "; ".join(verdict.shown for verdict in found)
        first = found[0]
        return Verdict(all(v.holds for v in found), first.value, shown, first.low, first.high)
