"""The tables that claims are decided on, from tidy measurements, histories and printed tables.

`models` has a row per method (and seed), `curves` and `snapshots` one per epoch, `versions` one per
version of a model (last, scaled), `robustbench` our models and, marked, those of RobustBench.
"""

import pandas as pd

from flatbook import published, training_curves
from flatlib import runs
from flatlib.files import paths
from flatlib.records import MEASURES, columns
from flatlib.runs import results
from flatlib.training import profiles

KEYS = {"models": ["method"], "robustbench": ["method"], "curves": ["method", "epoch"],
        "snapshots": ["method", "epoch"], "versions": ["method", "which"]}  # fmt: skip
GIVEN = ("wide", "history", "tidy", "versions", "robustbench")


def tables(source):
    """Name -> table, all of one source; `source` is a wide table or a dict of raw tables.

    Keys of the dict: "wide" (rows of methods, one or several seeds), "history", "tidy" (rows of any
    suites), "versions", "robustbench". Whatever is not there gives no table.
    """
    given = source if isinstance(source, dict) else {"wide": source}
    unknown = [key for key in given if key not in GIVEN]
    if unknown:
        raise ValueError(f"tables={unknown}: no such table of a source; valid: {', '.join(GIVEN)}")
    ready = [name for name in ("versions", "robustbench") if name in given]
    found = {name: given[name].reset_index() for name in ready}
    tidy = given.get("tidy", pd.DataFrame())
    if "wide" in given:
        found["models"] = models(given["wide"], tidy)
    if "history" in given:
        found["curves"] = given["history"]
    if len(tidy):
        found["snapshots"] = _several(tidy, r"epoch-\d+|last", "epoch")
        found = {"versions": _several(tidy, r"scaled-.*|last", "which")} | found
    return found


def gather(methods="all", profile=profiles.DEFAULT, seeds=(0,), source="auto"):
    """A source of our measurements: all that is committed of the methods and seeds, whatever suites
    and however many, or, live, the default suite of all of them.
    """
    if runs.source_of(profile, source) == "live":
        tidy, history = runs.collect(methods, profile, seeds, "live")
    else:
        chosen = runs.select(methods, profile, seeds)
        tidy, history = results.read(paths.RESULTS / chosen[0].profile.name)
        keys = {run.key for run in chosen}
        now = {name: chosen[0].protocol(name) for name in MEASURES}
        tidy = tidy[tidy.key.isin(keys) & (tidy.protocol == tidy.asked.map(now))]
        history = history[history.key.isin(keys)]
        if tidy.empty:
            return {}
    return {"wide": runs.wide(tidy), "tidy": tidy, "history": history}


def describe(sources):
    """A row per source: how many methods and seeds it has of each table of `tables`."""
    rows = {source: dict.fromkeys(KEYS, "–") for source in sources}
    for source, given in sources.items():
        for name, table in tables(given).items():
            if table.empty:
                continue
            number = table["seed"].nunique() if "seed" in table else 0
            seeds = f" × {number} seed{'s' * (number > 1)}" if number else ""
            rows[source][name] = f"{table['method'].nunique()}{seeds}"
    return pd.DataFrame(rows).T


def models(wide, tidy=()):
    """A wide table with differences of its columns, and columns from other suites of tidy rows.

    From "hessian": lambda_max, lambda_min, convexity; from "radii": "<measure>@<radius>", also
    "@smallest" and "@largest"; from "lines": "<measure>_rise" (`training_curves.rises`).
    """
    if "method" not in wide and "method" not in wide.index.names:
        raise ValueError("a wide table needs 'method' as a column or as its index; "
                         f"columns: {', '.join(map(str, wide.columns))}")  # fmt: skip
    keys = ["method", "seed"] if "seed" in [*wide.columns, *wide.index.names] else ["method"]
    named = [name for name in wide.index.names if name]
    df = (wide.reset_index() if named else wide).set_index(keys)
    if len(tidy):
        tidy = tidy[(tidy["which"] == "last") & (tidy["split"] == "test")]
        extras = _pivot(tidy, None, keys)
        rises = training_curves.rises(tidy.assign(model=tidy["method"])).add_suffix("_rise")
        rises = rises.rename_axis(index={"model": "method"}).groupby(keys).mean()
        for extra in (extras, rises):
            df = df.join(extra[[column for column in extra if column not in df]])
    return columns.differences(df).reset_index()


def means(name, table):
    """One row per key of the table called `name`, the mean over seeds."""
    return table.groupby(KEYS[name], sort=False).mean(numeric_only=True)


def printed():
    """What the paper prints, as a source: Tables 2 to 6.

    Eigenvalues are four times those measured here (`published.SUMMED`); no claim depends on that.
    """
    wide = published.stutz2021()
    hessian = published.table2().rename(columns={"convexity_ratio": "convexity"})
    versions = hessian[hessian.index.str.startswith("at,") | (hessian.index == "at")]
    which = [name.removeprefix("at").removeprefix(", ") or "last" for name in versions.index]
    versions = versions.assign(method="at", which=which).set_index(["method", "which"])
    marked = [wide.assign(robustbench=0), published.robustbench().assign(robustbench=1)]
    return {
        "wide": wide.join(hessian[["lambda_max", "convexity"]]),
        "versions": versions,
        "robustbench": pd.concat(marked).rename_axis("method"),
    }


def _pivot(tidy, extra, keys=("method", "seed")):
    """A row per key (and `extra`), the columns named as in the printed tables."""
    keys = [*keys, *([extra] if extra else [])]
    named = columns.named(tidy).drop_duplicates([*keys, "column"])
    table = named.pivot(index=keys, columns="column", values="value").rename_axis(columns=None)
    table = columns.ends(table)
    return table.reset_index() if extra else table


def _several(tidy, which, key):
    """Models whose name fits `which`, a row each, of the networks that have more than one."""
    table = _pivot(tidy[tidy["which"].str.fullmatch(which)], key)
    return table[table.groupby(["method", "seed"])[key].transform("nunique") > 1]
