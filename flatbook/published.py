"""The papers' printed tables (data/published), and what was measured beside them."""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import (
    BootstrapMethod,
    ConstantInputWarning,
    DegenerateDataWarning,
    pearsonr,
    spearmanr,
)

from flatlib.files.paths import PUBLISHED

MISPRINT = ("clip0.025", "avg_flatness_rloss")  # Table 5 prints 0 there
SLIPS = {"Cyclic": "Cyclic x2", "Larger epsilon=8/255": "Larger epsilon=9/255"}  # in Table 1
TABLE2 = {"AT (baseline)": "at", "Scaled x0.5": "at, scaled-0.5", "Scaled x2": "at, scaled-2",
          "Batch size 8": "batch8", "Adam": "adam", "Label smoothing": "smooth0.3",
          "Self-supervision": "ssl4", "Entropy-SGD": "entropy1", "TRADES": "trades6",
          "MART": "mart6", "AT-AWP": "awp0.01"}  # fmt: skip
SUMMED = 4  # Table 2 and Fig. 6: gradients summed over four batches, so four times the mean's
XI = {"avg_flatness_rloss": 0.5, "avg_flatness_loss": 0.5, "worst_flatness_rloss": 0.003,
      "worst_flatness_loss": 0.003}  # radii of the printed flatness, Sec. 4  # fmt: skip
SYMBOLS = {"xi=": "ξ = ", "tau=": "τ = ", "lambda=": "λ = ", "epsilon=": "ε = ", "w_max=": "",
           "(L=": "(L = ", " x": " ×", '"Late"': "“Late”"}  # fmt: skip


class Correlation(NamedTuple):
    """Pearson and Spearman coefficients over n rows; low..high is Pearson's 95 % interval."""

    pearson: float
    spearman: float
    n: int
    low: float
    high: float


def _checksums():
    """File name -> SHA-256 of its text with LF line ends."""
    path = PUBLISHED / "SHA256SUMS"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore data/published from the repository")
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if line]
        return {file: checksum for checksum, file in lines}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from the repository") from error


def _read(name, **how):
    """The CSV called `name`, after comparing it with its checksum."""
    known = _checksums()
    if f"{name}.csv" not in known:
        valid = _listed(sorted(file.removesuffix(".csv") for file in known))
        raise ValueError(f"unknown published table name={name!r}; valid names: {valid}")
    path = PUBLISHED / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore data/published from the repository")
    raw = path.read_bytes().replace(b"\r\n", b"\n")  # a checkout may have changed the line ends
    if hashlib.sha256(raw).hexdigest() != known[path.name]:
        raise ValueError(f"{path} is damaged or edited: it differs from its line in SHA256SUMS")
    return pd.read_csv(path, **how)


def load(name):
    """One printed table, e.g. "stutz2021_table5": index "model" where the table has that column.

    Percentages become fractions: a column "x_pct" is divided by 100 and called "x".
    """
    df = _read(name)
    percent = [column for column in df if column.endswith("_pct")]
    df[percent] = (df[percent] / 100).round(6)
    df = df.rename(columns={column: column.removesuffix("_pct") for column in percent})
    return df.set_index("model") if "model" in df else df


def names():
    """74 rows: method (our name), table5 and table1 (printed, "" if not there), family."""
    return _read("stutz2021_names", keep_default_na=False)


def _label(printed):
    """A printed row name with its symbols written as symbols."""
    for plain, symbol in SYMBOLS.items():
        printed = printed.replace(plain, symbol)
    return printed


def _named(table, who, printed):
    """`table` in printed order, indexed by our method names, with label and family in front."""
    who = who.set_index(printed).loc[table.index]
    labels = [_label(SLIPS.get(n, n) if printed == "table1" else n) for n in table.index]
    table = table.set_axis(pd.Index(who["method"], name="method"))
    table.insert(0, "label", labels)
    table.insert(1, "family", who["family"].to_numpy())
    table.attrs["xi"] = XI
    return table


def stutz2021(misprint="missing"):
    """Tables 5 and 6 of Stutz et al. joined: 74 rows, index "method", ascending RErr, fractions.

    misprint: "missing" makes the flatness 0 of "Weight clipping 0.025" NaN, "keep" keeps it.
    """
    if misprint not in ("missing", "keep"):
        raise ValueError(f"misprint={misprint!r}; valid choices: 'missing', 'keep'")
    printed = load("stutz2021_table5").join(load("stutz2021_table6"))
    df = _named(printed, names(), "table5")
    if misprint == "missing":
        df.loc[MISPRINT] = np.nan
    return df


def table1():
    """Table 1 of Stutz et al.: 19 rows, index "method", fractions, with label and family."""
    return _named(load("stutz2021_table1"), names(), "table1")


def table2():
    """Table 2 of Stutz et al.: 11 rows, index "method", eigenvalues as printed (see `SUMMED`).

    Scaled models are "at, scaled-0.5" and "at, scaled-2", as versions of AT.
    """
    df = load("stutz2021_table2")
    methods = [TABLE2[name] for name in df.index]
    df.insert(0, "label", [_label(name) for name in df.index])
    return df.set_axis(pd.Index(methods, name="method"))


def robustbench():
    """Tables 3 and 4 of Stutz et al. joined: 8 models of RobustBench, index "model", fractions."""
    err, loss = load("stutz2021_table3"), load("stutz2021_table4")
    table = err.join(loss[[column for column in loss if column not in err]])
    table.attrs["xi"] = XI
    return table


def groups(rerr, edges=(0.57, 0.60)):
    """Robust error as "good", "average", "poor" (and "worse"): below each edge, above the last."""
    names = ("good", "average", "poor", "worse")[: len(edges) + 1]
    return pd.cut(rerr, [0, *edges, 1], right=False, labels=names).rename("group")


def compare(measured, columns, published=None):
    """Published, measured and their difference, per method and column.

    measured: a wide table, one row per (method, seed) or per method, as `by_method` takes it.
    columns: names of wide columns; a column that was not measured yet shows as NaN.
    published: a table indexed by method (default: `stutz2021()`).
    Returns rows in published order and column pairs (column, "published" | "measured" | "std" |
    "difference"); measured is the mean over seeds, "std" is there if a method has several.
    """
    printed = stutz2021() if published is None else published
    unknown = [c for c in columns if c not in printed and c not in measured]
    if unknown:
        raise ValueError(f"columns={unknown} are neither published nor measured; "
                         f"published: {_listed(printed.columns)}")  # fmt: skip
    groups = by_method(measured)
    rows = [m for m in printed.index if m in groups.groups]
    rows += [m for m in groups.groups if m not in printed.index]
    mean = groups.mean(numeric_only=True).reindex(index=rows, columns=columns)
    there = printed.reindex(index=rows, columns=columns)
    parts = {"published": there, "measured": mean, "difference": mean - there}
    if groups.size().max() > 1:
        parts["std"] = groups.std(numeric_only=True).reindex(index=rows, columns=columns)
    shown = [p for p in ("published", "measured", "std", "difference") if p in parts]
    order = [(c, p) for c in columns for p in shown]
    df = pd.DataFrame({(c, p): parts[p][c] for c, p in order}, index=pd.Index(rows, name="method"))
    return df.set_axis(pd.MultiIndex.from_tuples(order), axis=1)


def by_method(wide):
    """Rows of a wide table grouped by "method" (a column or the index), in order of appearance."""
    if "method" not in wide and "method" not in wide.index.names:
        raise ValueError("a wide table needs 'method' as a column or as its index; "
                         f"columns: {_listed(wide.columns)}")  # fmt: skip
    return wide.groupby("method", sort=False)


def correlation(df, x, y, resamples=2000):
    """Correlation of columns x and y over the rows that have both.

    The 95 % interval of Pearson's coefficient is scipy's bias-corrected accelerated bootstrap over
    rows (`pearsonr(...).confidence_interval(BootstrapMethod)`) with a fixed generator: same rows,
    same interval, whatever their order. On fewer than 10 rows it would mean nothing and is NaN.
    """
    missing = [column for column in (x, y) if column not in df]
    if missing:
        raise ValueError(f"no column {missing} to correlate; columns: {_listed(df.columns)}")
    pair = df[[x, y]].dropna().sort_values([x, y])
    if len(pair) < 3 or (pair.nunique() < 2).any():
        raise ValueError(f"correlating {x} and {y} needs 3 or more rows that differ, "
                         f"not {len(pair)}")  # fmt: skip
    a, b = pair[x].to_numpy(float), pair[y].to_numpy(float)
    pearson, rank = pearsonr(a, b), spearmanr(a, b).statistic
    low, high = _interval(pearson, resamples) if len(pair) >= 10 else (np.nan, np.nan)
    return Correlation(float(pearson.statistic), float(rank), len(pair), float(low), float(high))


def _interval(pearson, resamples):
    """Bootstrap interval of scipy's result; NaN, without a warning, where resamples degenerate."""
    how = BootstrapMethod(n_resamples=resamples, rng=np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        warnings.simplefilter("ignore", DegenerateDataWarning)
        return pearson.confidence_interval(method=how)


def _listed(names):
    """Names for an error message."""
    return ", ".join(map(str, names))
