"""Kinds of statements along one training run, or between versions of one model.

`curves` and `snapshots` are indexed by (method, epoch), `versions` by (method, which): see
`evidence`. As in `predicates`, None means that what is needed is not there.
"""

from dataclasses import dataclass

import numpy as np

from flatbook.claims.predicates import Verdict

ENOUGH = 4  # snapshots of a run below which nothing is said about it


def _course(df, method, columns):
    """The rows of one method by epoch, complete in `columns`; None where there are too few."""
    if any(column not in df for column in columns) or method not in df.index.get_level_values(0):
        return None
    course = df.loc[method, list(dict.fromkeys(columns))].dropna().sort_index()
    return course if len(course) >= ENOUGH else None


def _from_lowest(course, column):
    """The course from the epoch of lowest `column` on."""
    return course.loc[course[column].idxmin() :]


@dataclass(frozen=True)
class LowestAfterDrop:
    """`column` is lowest at, or at most `within` (of the training) after, the first fall of the
    learning rate below half of what it began with.
    """

    column: str = "test_rloss"
    method: str = "at"
    within: float = 0.1

    def __call__(self, df):
        rates = _course(df, self.method, ("lr", "progress"))
        course = _course(df, self.method, (self.column, "progress"))
        if rates is None or course is None or (rates["lr"] > rates["lr"].iloc[0] / 2).all():
            return None
        dropped = rates.loc[rates["lr"] <= rates["lr"].iloc[0] / 2, "progress"].iloc[0]
        every = course["progress"].diff().median()  # how finely the curve was taken
        lowest = course.loc[course[self.column].idxmin(), "progress"]
        after = lowest - dropped
        holds = -1.5 * every <= after <= self.within
        shown = f"lowest at {lowest:.2f}, first drop at {dropped:.2f} of the training"
        return Verdict(bool(holds), lowest, shown)


@dataclass(frozen=True)
class Continues:
    """From the epoch of lowest `turns` to the last, `column` falls to at most `most` times."""

    column: str = "train_rloss"
    turns: str = "test_rloss"
    most: float = 0.5
    method: str = "at"

    def __call__(self, df):
        course = _course(df, self.method, (self.column, self.turns))
        if course is None:
            return None
        after = _from_lowest(course, self.turns)[self.column]
        ratio = after.iloc[-1] / after.iloc[0]
        shown = f"from {after.iloc[0]:.2f} to {after.iloc[-1]:.2f}"
        return Verdict(bool(len(after) > 1 and ratio <= self.most), ratio, shown)


@dataclass(frozen=True)
class RisesFurther:
    """From the epoch of lowest `turns` to the last, `more` rises by more (in nats) than `less`."""

    more: str = "test_rloss_incorrect"
    less: str = "test_rloss_correct"
    turns: str = "test_rloss"
    method: str = "at"

    def __call__(self, df):
        course = _course(df, self.method, (self.more, self.less, self.turns))
        if course is None:
            return None
        after = _from_lowest(course, self.turns)
        more, less = (after[c].iloc[-1] - after[c].iloc[0] for c in (self.more, self.less))
        return Verdict(bool(more > max(less, 0)), more - less, f"{more:+.2f} against {less:+.2f}")


@dataclass(frozen=True)
class CarriesMost:
    """Of the rise of test RLoss from its lowest, images classified wrongly carry over `share`."""

    share: float = 0.5
    method: str = "at"

    def __call__(self, df):
        columns = ("test_rloss", "test_rloss_correct", "test_rloss_incorrect", "test_err")
        course = _course(df, self.method, columns)
        if course is None:
            return None
        after = _from_lowest(course, "test_rloss")
        wrong = after["test_err"] * after["test_rloss_incorrect"]
        right = (1 - after["test_err"]) * after["test_rloss_correct"]
        wrong, right = (part.iloc[-1] - part.iloc[0] for part in (wrong, right))
        if wrong + right <= 0:
            return Verdict(False, 0.0, "test RLoss does not rise")
        value = wrong / (wrong + right)
        return Verdict(bool(value > self.share), value, f"{wrong:+.2f} of {wrong + right:+.2f}")


@dataclass(frozen=True)
class Climbs:
    """From the epoch of lowest `turns` to the last, `column` grows by at least `factor`.

    than: a method whose `column` must grow by a larger factor than that of every `methods`.
    """

    column: str
    turns: str
    factor: float = 1.0
    methods: tuple = ("at",)
    than: str = ""

    def __call__(self, df):
        names = (*self.methods, self.than) if self.than else self.methods
        courses = [_course(df, name, (self.column, self.turns)) for name in names]
        if any(course is None for course in courses):
            return None
        after = [_from_lowest(course, self.turns)[self.column] for course in courses]
        ratios = [part.iloc[-1] / part.iloc[0] for part in after]
        if self.than:
            *own, base = ratios
            shown = f"× {', '.join(f'{r:.2f}' for r in own)} against × {base:.2f}"
            return Verdict(bool(max(own) < base), max(own) / base, shown)
        shown = f"× {', '.join(f'{r:.2f}' for r in ratios)}"
        return Verdict(bool(min(ratios) >= self.factor), min(ratios), shown)


@dataclass(frozen=True)
class Together:
    """Along the run of `method`, x and y correlate by at least `least` (Pearson)."""

    x: str
    y: str = "rloss_test_pgd"
    least: float = 0.5
    method: str = "at"

    def __call__(self, df):
        course = _course(df, self.method, (self.x, self.y))
        if course is None or (course.nunique() < 2).any():
            return None
        value = course[self.x].corr(course[self.y])
        return Verdict(bool(value >= self.least), value, f"{value:.2f}, {len(course)} snapshots")


@dataclass(frozen=True)
class TogetherLess:
    """Along the run of `method`, `weak` correlates less with y than `strong`, by `margin`."""

    weak: str
    strong: str
    y: str = "rloss_test_pgd"
    margin: float = 0.1
    method: str = "at"

    def __call__(self, df):
        course = _course(df, self.method, (self.weak, self.strong, self.y))
        if course is None or (course.nunique() < 2).any():
            return None
        weak, strong = (course[c].corr(course[self.y]) for c in (self.weak, self.strong))
        shown = f"{weak:.2f} against {strong:.2f}, {len(course)} snapshots"
        return Verdict(bool(strong - weak >= self.margin), strong - weak, shown)


@dataclass(frozen=True)
class Radius:
    """Along the run of `method`, `column` rises by `least` to `most` times as much as `usual`.

    From the epoch of lowest test RLoss to the last; `usual` is taken at the protocol's radius.
    """

    column: str
    usual: str
    least: float = -np.inf
    most: float = np.inf
    method: str = "at"

    def __call__(self, df):
        course = _course(df, self.method, (self.column, self.usual, "rloss_test_pgd"))
        if course is None:
            return None
        after = _from_lowest(course, "rloss_test_pgd")
        other, usual = (after[c].iloc[-1] - after[c].iloc[0] for c in (self.column, self.usual))
        holds = bool(usual > 0 and self.least <= other / usual <= self.most)
        shown = f"{other:+.2f}, {usual:+.2f} at the usual radius"
        return Verdict(holds, other / usual if usual else np.nan, shown)


@dataclass(frozen=True)
class Scaled:
    """`column` of the versions of AT scaled by 0.5 and 2 is `half` and `twice` times the model's.

    To within a share `within` of that, after a difference of `slack` that counts as none.
    """

    column: str
    half: float = 1.0
    twice: float = 1.0
    within: float = 0.1
    slack: float = 0.0
    method: str = "at"

    def __call__(self, df):
        names = [(self.method, which) for which in ("last", "scaled-0.5", "scaled-2")]
        if self.column not in df or any(name not in df.index for name in names):
            return None
        last, *scaled = (float(df.loc[name, self.column]) for name in names)
        if np.isnan([last, *scaled]).any():
            return None
        wanted = np.array([self.half, self.twice]) * last
        off = np.maximum(np.abs(scaled - wanted) - self.slack - 1e-9, 0) / np.abs(wanted)
        shown = f"{scaled[0]:.4g}, {last:.4g}, {scaled[1]:.4g} at × 0.5, 1, 2"
        return Verdict(bool((off <= self.within).all()), scaled[0] / last, shown)
