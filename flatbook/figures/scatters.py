"""More of the scatter figures: sweeps of one setting, pairs of networks, titles that say r."""

import numpy as np
import pandas as pd

from flatbook.figures import plots
from flatbook.figures.labels import write_labels
from flatbook.relations import SWEEPS, settings

STROKES = {  # colour and marker of a sweep, the same in every figure
    "wd": ("#CC79A7", "D"), "clip": ("#D55E00", "o"), "awp": ("#E69F00", "P"),
    "entropy": ("#332288", "s"), "ema": ("#777777", "p"), "noise": ("#009E73", "^"),
    "smooth": ("#999933", "h"), "trades": ("#0072B2", "v"), "mart": ("#56B4E9", "<"),
    "ssl": ("#882255", "X"), "batch": ("#44AA99", ">"), "lr": ("#CC6677", "d"),
    "const": ("#AA4499", "H"), "cyclic": ("#117733", "8"), "pgd": ("#0072B2", "s"),
    "pgd-tau": ("#D55E00", "d"),
}  # fmt: skip


def heading(ax, text="", found=None):
    """Title of a panel: text, and Pearson's coefficient with its interval from a row `found`."""
    words = [text] if text else []
    if found is not None:
        r = f"Pearson {found['pearson']:.2f}" if pd.notna(found["pearson"]) else "too few methods"
        words += [r + f" [{found['low']:.2f}, {found['high']:.2f}]" * pd.notna(found["low"])]
    with plots.style():
        ax.set_title(": ".join(words), loc="left")


def sweeps(df, names, x, y, ax=None, base="at", labels=True, legend=True, single=()):
    """The settings of some methods as points, a dotted least-squares line each; returns the axes.

    df: a row per method, indexed by name; names: of `relations.SWEEPS`; base: drawn as a star;
    single: methods with no setting to sweep, drawn alike. labels: write the settings beside.
    """
    with plots.style():
        ax = plots.panels(legend=0.8)[1][0, 0] if ax is None else ax
        parts = {name: settings(df, name).dropna(subset=[x, y]) for name in names}
        for name, part in parts.items():
            color, marker = STROKES[name]
            ax.scatter(part[x], part[y], s=40, color=color, marker=marker, edgecolors="white",
                       linewidths=0.6, label=SWEEPS[name], zorder=3)  # fmt: skip
            _trend(ax, part[x], part[y], color)
        lone = df[df.index.isin([base, *single])].dropna(subset=[x, y])
        for _, row in lone.iterrows():
            color, marker = plots.FAMILIES.get(row["family"], plots.OTHER)
            size = 110 if marker == "*" else 45
            ax.scatter(row[x], row[y], s=size, color=color, marker=marker, edgecolors="white",
                       linewidths=0.6, label=row["label"], zorder=4)  # fmt: skip
        plots.name_axes(ax, df, x, y)
        if legend:
            key(ax.figure)
        drawn = pd.concat([*parts.values(), lone])
        if labels and len(drawn):
            words = drawn["label"].where(~drawn.index.isin(lone.index), "")
            here = drawn[words != ""]
            write_labels(ax, here[[x, y]].to_numpy(float), list(here["label"]),
                         drawn[[x, y]].to_numpy(float), size=7.0)  # fmt: skip
    return ax


def _trend(ax, x, y, color):
    if x.nunique() > 1:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends + offset, color=color, linestyle=(0, (1, 1.6)), zorder=1.5)


def key(fig, free=None):
    """One legend of what all panels show, each name once: below them, or in the axes `free`."""
    found = {}
    for ax in fig.axes:
        found |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    for old in fig.legends[:]:
        old.remove()
    with plots.style():
        if free is None:
            fig.legend(found.values(), found.keys(), loc="lower center", ncols=3, columnspacing=1.2)
        else:
            free.set_axis_off()
            free.legend(found.values(), found.keys(), loc="center left")


def pairs(df, before, after, ax=None, highlight=None, legend=True):
    """Two networks of each method, joined by a line: `before` filled, `after` open.

    before, after: columns (x, y). highlight: index names to colour, the rest is grey; None: all.
    """
    columns = [*before, *after]
    df = df.dropna(subset=columns)
    with plots.style():
        ax = plots.panels(legend=0.6)[1][0, 0] if ax is None else ax
        lit = df.index if highlight is None else df.index.intersection(list(highlight))
        for method, row in df.iterrows():
            color, marker = plots.FAMILIES.get(row["family"], plots.OTHER)
            color, marker = (color, marker) if method in lit else ("#bdbdbd", "o")
            (x, y), (xx, yy) = row[list(before)], row[list(after)]
            rank, size = (3, 36) if method in lit else (1, 14)
            ax.plot([x, xx], [y, yy], color=color, linewidth=0.8, alpha=0.6, zorder=rank - 0.5)
            ax.scatter(x, y, s=size, color=color, marker=marker, linewidths=0, zorder=rank)
            ax.scatter(xx, yy, s=size, facecolors="white", edgecolors=color, marker=marker,
                       linewidths=1.0, zorder=rank + 0.2)  # fmt: skip
        plots.name_axes(ax, df, *before)
        if legend:
            plots.family_legend(ax.figure, df.loc[lit, "family"])
    return ax


def squares(table, ax=None):
    """A square table of coefficients as coloured squares with their numbers; returns the axes."""
    with plots.style():
        ax = plots.panels(height=6.0)[1][0, 0] if ax is None else ax
        ax.figure.subplots_adjust(left=0.34, bottom=0.36)
        ax.figure.set_dpi(110)  # numbers on colours make a large file
        ax.imshow(table, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            if np.isfinite(value):
                color = "white" if abs(value) > 0.75 else "black"
                words = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".").replace("-", "−")
                ax.text(column, row, words, ha="center", va="center", color=color, size=7.0)
        ax.set_xticks(range(len(table)), table.columns, rotation=90, size=8.5)
        ax.set_yticks(range(len(table)), table.index, size=8.5)
        ax.grid(False)
    return ax
