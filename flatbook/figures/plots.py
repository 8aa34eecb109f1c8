"""Figures of the book: a data frame in, matplotlib axes out. One style, one colour per family."""

import math
import re

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from flatbook.figures.labels import write_labels
from flatbook.figures.style import style
from flatlib.records import columns

LABELS_AT_MOST = 20  # more points than this get a legend only
FAMILIES = {  # colour and marker; hues of Okabe & Ito and of Tol, told apart by marker as well
    "baseline": ("#000000", "*"), "attack": ("#56B4E9", "v"), "optimisation": ("#0072B2", "s"),
    "weight regularisation": ("#D55E00", "D"), "labels": ("#009E73", "^"),
    "loss": ("#E69F00", "P"), "data": ("#CC79A7", "o"), "flat minima": ("#882255", "X"),
    "activation": ("#999933", "h"), "RobustBench": ("#777777", ">"), "yours": ("#E8000B", "*"),
}  # fmt: skip
OTHER = ("#555555", "o")  # a family that is not listed


def axis_label(column, df=None):
    """A wide column in the field's words, "RLoss (test, PGD)"; df: its table, which knows ξ."""
    return columns.words(column, {} if df is None else df.attrs.get("xi"))


def panels(rows=1, columns=1, width=6.0, height=4.4, legend=0.0, gap=0.62):
    """Figure and (rows, columns) array of axes; sizes in inches, height per row.

    The margins are fixed in inches, so that labels keep their places whatever is drawn later;
    `legend` inches are left free below, `gap` between rows (0.85 if each has a label and a title).
    """
    with style():
        total = rows * height + legend
        size = {"figsize": (width, total)}
        fig, axes = plt.subplots(rows, columns, squeeze=False, **size)
        edges = {"left": 0.72 / width, "right": 1 - 0.12 / width, "top": 1 - 0.32 / total}
        fig.subplots_adjust(bottom=(0.55 + legend) / total, hspace=gap / (height - gap),
                            wspace=0.75 / (width / columns - 0.7), **edges)  # fmt: skip
    return fig, axes


def limits(values, reach=3.0):
    """(low, high) of an axis for a column of numbers; what lies far off is left outside.

    Far off: more than `reach` interquartile ranges beyond the middle half, of 10 values or more.
    """
    values = values.dropna()
    first, third = values.quantile(0.25), values.quantile(0.75)
    room = reach * (third - first) if len(values) >= 10 and third > first else math.inf
    values = values[values.between(first - room, third + room)]
    margin = 0.06 * (values.max() - values.min()) or 0.5
    return (values.min() - margin, values.max() + margin) if len(values) else (0, 1)


def outside(views):
    """What `scatter(..., crop=True)` leaves outside its panels, as a sentence.

    views: heading of a panel -> (df, x, y).
    """
    parts = []
    for heading, (df, x, y) in views.items():
        far = df[df[[x, y]].notna().all(axis=1) & ~_inside(df, x, y)]
        names = far["label"].where(far["label"] != "", far.index) if "label" in far else far.index
        found = [f"{name} ({row[x]:.2f}, {row[y]:.2f})"
                 for name, (_, row) in zip(names, far.iterrows(), strict=True)]  # fmt: skip
        parts += [f"*{heading}*: {', '.join(found)}"] if found else []
    words = "Open circles on a frame stand for methods outside it (x, y): "
    return words + "; ".join(parts) + "." if parts else "All points are inside the frames."


def _inside(df, x, y):
    return df[x].between(*limits(df[x])) & df[y].between(*limits(df[y]))


def scatter(df, x, y, ax=None, highlight=None, fit=None, labels=None, legend=True, crop=False):
    """Models as points; returns the axes.

    df: a row per method, columns x and y (rows with NaN are left out), "family" for colour and
    marker, "label" for the text (else the index; "": none), "<x>_std"/"<y>_std" for bars.
    highlight: index names to colour, the rest is grey; names not in df are passed over. None: all.
    fit: None, "line" (least squares, all points) or a number: a line on each side of this x.
    labels: write names beside the coloured points; None: if there are at most 20 and the axes are
    4 inches wide. They find room around these points, so set limits before and draw nothing later.
    legend: families below the figure, one legend for all its panels.
    crop: leave far-off points out, see `limits`; an open marker on the frame stands for each.
    """
    _known("fit", fit if not isinstance(fit, float) else None, (None, "line", "a number"))
    absent = [column for column in (x, y) if column not in df]
    if absent:
        raise ValueError(f"no column {absent} to draw; columns: {', '.join(map(str, df.columns))}")
    df = df[df[[x, y]].notna().all(axis=1)]
    with style():
        ax = panels(legend=0.6)[1][0, 0] if ax is None else ax
        lit = df if highlight is None else df[df.index.isin(list(highlight))]
        rest = df.drop(lit.index)
        if crop:
            _crop(ax, df, x, y)
        ax.scatter(rest[x], rest[y], s=16, color="#bdbdbd", linewidths=0, zorder=1)
        families = lit["family"] if "family" in lit else pd.Series("", index=lit.index)
        for family, part in lit.groupby(families, sort=False):
            _points(ax, part, x, y, family)
        name_axes(ax, df, x, y)
        for part in _parts(df, x, fit):
            _line(ax, part[x], part[y])
        if legend and "family" in lit:
            family_legend(ax.figure, families)
        roomy = ax.get_window_extent().width / ax.figure.dpi > 4
        lit = lit.assign(label=lit["label"] if "label" in lit else lit.index.astype(str))
        lit = lit[(lit["label"] != "") & (_inside(df, x, y)[lit.index] if crop else True)]
        if labels or (labels is None and roomy and len(lit) <= LABELS_AT_MOST):
            points, marks = (part[[x, y]].to_numpy(float) for part in (lit, df))
            write_labels(ax, points, list(lit["label"]), marks)
    return ax


def _known(name, value, valid):
    if value not in valid:
        raise ValueError(f"{name}={value!r}; valid choices: {', '.join(map(repr, valid))}")


def _size(marker):
    return 110 if marker == "*" else 42


def _points(ax, df, x, y, family):
    color, marker = FAMILIES.get(family, OTHER)
    bars = {f"{k}err": df.get(f"{c}_std") for k, c in (("x", x), ("y", y))}
    if any(bar is not None for bar in bars.values()):
        ax.errorbar(df[x], df[y], **bars, fmt="none", ecolor=color, elinewidth=0.8, alpha=0.5,
                    zorder=2)  # fmt: skip
    ax.scatter(df[x], df[y], s=_size(marker), color=color, marker=marker, zorder=3,
               edgecolors="white", linewidths=0.6)  # fmt: skip


def _crop(ax, df, x, y):
    """Set the limits, and mark on the frame where points lie outside."""
    ax.set(xlim=limits(df[x]), ylim=limits(df[y]))
    far = df[~_inside(df, x, y)]
    ax.scatter(far[x].clip(*ax.get_xlim()), far[y].clip(*ax.get_ylim()), s=22, facecolors="white",
               edgecolors="#777777", linewidths=0.9, clip_on=False, zorder=4)  # fmt: skip


def name_axes(ax, df, x, y):
    """Label both axes by the columns of df they show; errors in percent."""
    ax.set(xlabel=axis_label(x, df), ylabel=axis_label(y, df))
    for axis, column in ((ax.xaxis, x), (ax.yaxis, y)):
        if column.startswith(("err_", "rerr_")):
            axis.set_major_formatter(PercentFormatter(xmax=1))


def _parts(df, x, fit):
    """The point sets that get a line each: none, all, or both sides of the kink; of 3 or more."""
    parts = [df] if fit == "line" else []
    if isinstance(fit, float):
        parts = [df[df[x] < fit], df[df[x] >= fit]]
    return [part for part in parts if part[x].nunique() > 2]


def _line(ax, x, y):
    slope, offset = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, slope * ends + offset, color="#444444", linestyle=(0, (1, 1.6)), zorder=1.5)


def family_legend(fig, families):
    """One legend of the families below all panels; a later call replaces an earlier one."""
    for old in fig.legends[:]:
        families = pd.concat([pd.Series([text.get_text() for text in old.get_texts()]), families])
        old.remove()
    order = {family: rank for rank, family in enumerate(FAMILIES)}
    shown = sorted(set(families), key=lambda family: order.get(family, len(order)))
    handles = []
    for family in shown:
        color, marker = FAMILIES.get(family, OTHER)
        size = 1.15 * math.sqrt(_size(marker))
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="", label=family,
                              markersize=size, markeredgecolor="white"))  # fmt: skip
    fig.legend(handles=handles, loc="lower center", ncols=4, columnspacing=1.2)


def side_by_side(frames, draw=scatter, share=False, stacked=True, width=None, height=None, **how):
    """One panel per frame, e.g. {"published, CIFAR-10": df, "measured, digits": ours}.

    draw(frame, ax=..., **how) draws a panel. Axis labels stand on the outer panels only. share: the
    limits of x and y are the same everywhere (for `scatter`). stacked: below each other, legible
    with names on a phone; False: in one row, without names. Returns figure and 1-D array of axes.
    """
    n = len(frames)
    size = (width or (6.0 if stacked else 7.4), height or (4.3 if stacked else 3.6))
    fig, axes = panels(*((n, 1) if stacked else (1, n)), *size, legend=0.6)
    axes = axes.ravel()
    if share:
        for side in "xy":
            values = pd.concat([frame[how[side]].dropna() for frame in frames.values()])
            room = 0.06 * (values.max() - values.min())
            plt.setp(axes, f"{side}lim", (values.min() - room, values.max() + room))
    with style():
        for ax, (title, frame) in zip(axes, frames.items(), strict=True):
            draw(frame, ax=ax, **how)
            ax.set_title(title, loc="left")
        for ax in axes[:-1] if stacked else axes[1:]:
            ax.set(**{"xlabel" if stacked else "ylabel": ""})
    return fig, axes


def caption(tidy):
    """How the measures of a tidy table were taken, in one sentence for the text under a figure."""
    row = tidy.iloc[0]
    seeds = ", ".join(map(str, sorted(tidy["seed"].unique())))
    attacked = tidy[(tidy["measure"] == "rloss") & ~tidy["attack"].isin(["aa", "none"])]
    sizes = (attacked if len(attacked) else tidy).groupby("split")["n"].first()
    images = " and ".join(f"{n} {part}" for part, n in sizes.items())
    methods = tidy["method"].nunique()
    parts = [f"Measured at profile {row['profile']}, {methods} method{'s' * (methods > 1)}, "
             f"seed{'s' * (', ' in seeds)} {seeds}, on {images} images"]  # fmt: skip
    if isinstance(row.get("images"), str):
        parts[0] += f" of {row['images']}"
    for measure, column in columns.quantities().items():
        rows = tidy[(tidy["measure"] == measure) & (tidy["attack"] != "aa")]
        if column.how and len(rows):
            row = rows.iloc[0].copy()
            row["attack"] = re.sub(r"pgd(\d+)x(\d+)", r"PGD-\1 × \2", row["attack"])
            fewer = "" if row["n"] == sizes[row["split"]] else " on the first {n}"
            paper = " by the paper's protocol" if row["attack"].endswith("-paper") else ""
            parts.append((column.how + fewer).format_map(row) + paper)
    parts += [tidy.attrs["lacking"]] if "lacking" in tidy.attrs else []
    return "; ".join(parts) + "."
