"""What training curves, snapshots and lines hold, as tables and words; `curves` draws them."""

import re

import numpy as np
import pandas as pd

from flatlib.records import columns

NORMALISED = {"layer": "layer-wise", "filter": "filter-wise"}
DIRECTIONS = {  # measure of a line: what is drawn of how many directions
    "line_random": "mean over {draws:.0f} random directions",
    "line_filter": "mean over {draws:.0f} random directions",
    "line_adversarial": "maximum over {draws:.0f} adversarial directions",
    "line_hessian": "top eigenvector of the clean loss's Hessian",
}


def overfitting(history, column="test_rloss"):
    """Per method and seed: the lowest value of a test curve, the progress `at` which it was met,
    the last one, their ratio, and the last value on training images where that curve was taken.
    """
    rows = history.dropna(subset=[column]).sort_values("epoch", ignore_index=True)
    runs = rows.groupby(["method", "seed"], sort=False)
    lowest = rows.loc[runs[column].idxmin()].set_index(["method", "seed"])
    last = runs.last()
    found = {"lowest": lowest[column], "at": lowest["progress"], "last": last[column]}
    found = pd.DataFrame(found).loc[last.index]
    found["last / lowest"] = found["last"] / found["lowest"]
    train = column.replace("test", "train")
    return found.assign(train=last[train]) if train in last else found


def stopped(history, measures):
    """Where the early-stopped model lies on the test curves: epoch, progress, rloss and rerr, a row
    per method and seed.

    measures: a tidy table with rows of `which` "early_stopped". Between the epochs of a curve its
    value is interpolated.
    """
    early = measures[measures["which"] == "early_stopped"]
    epochs, rows = early.groupby(["method", "seed"], sort=False)["epoch"].first(), []
    for (method, seed), epoch in epochs.items():
        run = history[(history["method"] == method) & (history["seed"] == seed)]
        row = {"method": method, "seed": seed, "epoch": int(epoch)}
        for name in ("progress", "test_rloss", "test_rerr"):
            curve = run.dropna(subset=[name]).sort_values("epoch")
            row[name.removeprefix("test_")] = np.interp(epoch, curve["epoch"], curve[name])
        rows.append(row)
    columns = ["method", "seed", "epoch", "progress", "rloss", "rerr"]
    return pd.DataFrame(rows, columns=columns).set_index(["method", "seed"])


def snapshots(tidy, average=0.5, worst=0.003):
    """A row per method, seed and epoch of a tidy table of models measured through training.

    Columns: progress (epoch + 1, over all epochs), those of a wide table by PGD, and flatness at
    relative radius `average` (average case) and `worst` (worst case), whichever measure took it; a
    radius that was not measured gives no column.
    """
    table = tidy[tidy["which"].str.match(r"epoch-|last$") & (tidy["attack"] != "aa")]
    radius = table["measure"].str.extract(r"^(avg|worst)_flatness", expand=False)
    radius = radius.map({"avg": average, "worst": worst})
    table = table[radius.isna() | np.isclose(table["xi"].astype(float), radius)]
    table = columns.named(table)
    table = table.assign(column=table["column"].str.replace("@.*", "", regex=True))
    index = ["method", "seed", "epoch"]
    table = table.drop_duplicates([*index, "column"])
    xi = columns.radii(table)
    table = table.pivot_table("value", index, "column").rename_axis(columns=None).reset_index()
    table.attrs["xi"] = xi
    epochs = table.groupby(["method", "seed"])["epoch"].transform("max") + 1
    table.insert(3, "progress", (table["epoch"] + 1) / epochs)
    return table


def versions(tidy):
    """A tidy table with a column `model`: the method, and which version of it where that is not the
    last model, "at, scaled-2".
    """
    which = (", " + tidy["which"]).where(tidy["which"] != "last", "")
    return tidy.assign(model=tidy["method"] + which)


def rises(tidy):
    """How much RLoss grows along lines, a row per model and seed, a column per kind of direction.

    tidy: as `versions` gives it. The value at the end of a line minus that at s = 0. A random
    direction or an eigenvector could as well be drawn with the other sign, so its end is the mean
    of s = -1 and 1. An adversarial direction has a sign: it is where RLoss was made to grow, so its
    end is s = 1, and the paper draws no other half (Fig. 4).
    """
    rows = []
    lines = tidy[tidy["measure"].isin(list(DIRECTIONS))]
    for (model, seed, measure), line in lines.groupby(["model", "seed", "measure"]):
        line = line.sort_values("at")
        left, here, right = np.interp([-1, 0, 1], line["at"], line["value"])
        end = right if measure == "line_adversarial" else (left + right) / 2
        rows.append((model, seed, measure, end - here))
    table = pd.DataFrame(rows, columns=["model", "seed", "measure", "rise"])
    table = table.pivot(index=["model", "seed"], columns="measure", values="rise")
    return table[[kind for kind in DIRECTIONS if kind in table]].rename_axis(columns=None)


def described(tidy):
    """How the lines and eigenvalues of a tidy table were taken, in words for a caption."""
    parts = []
    for measure, words in DIRECTIONS.items():
        rows = tidy[tidy["measure"] == measure]
        if len(rows):
            row = rows.iloc[0]
            attack = re.sub(r"pgd(\d+)x\d+", r"PGD-\1", row["attack"])
            parts.append(f"{words.format_map(row)}, {NORMALISED[row['scope']]}, length "
                         f"{row['xi']:g}, RLoss by {attack} on {row['n']:.0f} images")  # fmt: skip
    rows = tidy[tidy["measure"] == "lambda_max"]
    if len(rows):
        parts.append(f"Hessian of the mean clean loss on {rows.iloc[0]['n']:.0f} images")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if parts else ""
