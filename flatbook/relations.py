"""What the scatter figures relate: a row per method, and how two of its columns go together."""

import re

import numpy as np
import pandas as pd

from flatbook import published

SWEEPS = {  # what comes before the setting in a method's name -> the setting in words
    "wd": "weight decay", "clip": "weight clipping, w_max", "awp": "AT-AWP, ξ",
    "entropy": "Entropy-SGD, L", "ema": "weight averaging, τ", "noise": "label noise, τ",
    "smooth": "label smoothing, τ", "trades": "TRADES, λ", "mart": "MART, λ",
    "ssl": "self-supervision, λ", "batch": "batch size", "lr": "learning rate",
    "const": "constant learning rate", "cyclic": "cyclic, cycles", "pgd": "PGD steps",
    "pgd-tau": "PGD-7-τ",
}  # fmt: skip


def printed():
    """Tables 5 and 6 of Stutz et al., the methods of Table 1 under their short names there."""
    df = published.stutz2021()
    short = published.table1()["label"]
    return df.assign(label=short.reindex(df.index).fillna(df["label"]))


def robustbench():
    """The printed networks of RobustBench as rows of a figure: a family of their own, no labels."""
    return published.robustbench().assign(label="", family="RobustBench")


def means(wide):
    """A row per method, in printed order: label, family, and the mean of each column over seeds.

    "<column>_std" is the standard deviation over seeds, where there are several; what a wide table
    calls so, the spread of flatness over draws, is "<column>_over_draws" here.
    """
    draws = {c: c.removesuffix("_std") + "_over_draws" for c in wide if c.endswith("_std")}
    groups = published.by_method(wide.rename(columns=draws))
    mean = groups.mean(numeric_only=True)
    who = printed()[["label", "family"]]
    rows = [m for m in who.index if m in mean.index]
    rows += [m for m in mean.index if m not in who.index]
    names = pd.Series(rows, rows)
    who = who.reindex(rows).assign(label=lambda df: df["label"].fillna(names))
    std = groups.std(numeric_only=True).dropna(axis=1, how="all").add_suffix("_std")
    found = who.fillna({"family": "yours"}).join(mean).join(std).rename_axis("method")
    found.attrs["xi"] = wide.attrs.get("xi", {})
    return found


def correlations(tables, views, resamples=2000):
    """How each pair of columns goes together in each table.

    tables: source -> table with a row per method; views: heading -> (x, y). Returns rows (view,
    source) with pearson, its 95 % interval low and high, spearman and n. A source without the
    columns has no row; too few methods, or equal values, give NaN.
    """
    rows = {}
    for view, (x, y) in views.items():
        for source, df in tables.items():
            if x in df and y in df:
                rows[view, source] = _correlation(df[[x, y]].dropna(), resamples)
    index = pd.MultiIndex.from_tuples(rows, names=["view", "source"])
    columns = ["pearson", "low", "high", "spearman", "n"]
    return pd.DataFrame(list(rows.values()), index=index).reindex(columns=columns)


def _correlation(pair, resamples):
    if len(pair) < 3 or (pair.nunique() < 2).any():
        return {"n": len(pair)}
    return published.correlation(pair, *pair, resamples)._asdict()


def settings(df, name):
    """The rows of one sweep, e.g. "trades", by rising setting; "label" is the setting alone."""
    if name not in SWEEPS:
        raise ValueError(f"unknown sweep name={name!r}; valid choices: {', '.join(SWEEPS)}")
    found = {m: re.fullmatch(rf"{name}(\d*\.?\d*)", m) for m in df.index.astype(str)}
    text = {m: hit[1] or "1" for m, hit in found.items() if hit}
    rows = sorted(text, key=lambda method: float(text[method]))
    return df.loc[rows].assign(label=[text[m] for m in rows])


def slopes(df, names, x, y):
    """Per sweep: settings, least-squares slope of y over x, and Spearman's coefficient."""
    rows = {}
    for name in names:
        part = settings(df, name)[[x, y]].dropna()
        enough = len(part) > 1 and part[x].nunique() > 1
        slope = np.polyfit(part[x], part[y], 1)[0] if enough else np.nan
        rank = part.corr("spearman").iloc[0, 1] if len(part) > 2 else np.nan
        rows[SWEEPS[name]] = {"settings": len(part), "slope": slope, "spearman": rank}
    return pd.DataFrame.from_dict(rows, orient="index")


def coefficients(below, above, measures):
    """Pearson's coefficient of each two measures, over methods: a square table.

    Under its diagonal the coefficients in the table `below`, over it those in `above`; measures:
    columns -> words. NaN where a table lacks a column or has fewer than three methods with both.
    """
    columns = list(measures)
    low, high = (df.reindex(columns=columns).astype(float).corr(min_periods=3).to_numpy()
                 for df in (below, above))  # fmt: skip
    values = np.where(np.tri(len(columns), k=-1, dtype=bool), low, high)
    np.fill_diagonal(values, np.nan)
    words = list(measures.values())
    return pd.DataFrame(values, index=pd.Index(words, name="measure"), columns=words)
