"""Curves of the book: training, lines through weight space, flatness over epochs. A data frame in,
matplotlib axes out, in the style of `plots`.
"""

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from flatbook.figures.plots import axis_label, panels, style
from flatbook.training_curves import DIRECTIONS

# Hues of Okabe & Ito and of Tol.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255",
           "#999933", "#777777", "#332288", "#661100")  # fmt: skip
SPLITS = {  # colour and line of a training curve
    "train": ("#56B4E9", ":"), "test": ("#0072B2", "-"),
    "test_correct": ("#D55E00", "-"), "test_incorrect": ("#009E73", "-"),
}  # fmt: skip
LINES = {"test": "-", "train": ":"}  # where colour tells the method
WHAT = ("rloss", "rerr", "loss")
LEGENDS = {  # place of a legend ("above" its axes, or a "row" of them): how it is drawn
    "best": {"loc": "best"}, "right": {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)},
    "above": {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "columnspacing": 0.7},
    "row": {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "columnspacing": 0.9},
}  # fmt: skip
DROP = 0.4  # progress at which the default schedule first lowers the learning rate
PROGRESS = mpl.colormaps["coolwarm"]  # blue at the start of training, red at its end


def training(history, what="rloss", ax=None, splits=("train", "test"), label="", color=None):
    """Training curves of one method over `progress`: test solid, train dotted; returns the axes.

    history: columns progress and <split>_<what> ("test_correct": test_<what>_correct), and "seed"
    where it holds several runs: then their mean is drawn, in a band of one standard deviation.
    color: one colour for all splits (`label` names the method); None: one per split.
    """
    _known("what", what, WHAT)
    for split in splits:
        _known("splits", split, SPLITS)
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        for split in splits:
            own, line = SPLITS[split]
            name = ", ".join(filter(None, (label, split.replace("_", ", "))))
            _curve(ax, history, _column(split, what), color or own, line, name)
        _progress(ax, what)
        ax.legend(loc="best")
    return ax


def compare(history, colors, what="rloss", ax=None, lines=LINES, names=None, legend="best"):
    """Training curves of several methods, a colour each; the line tells the split.

    history: as for `training`, with "method". colors: method -> colour, in the order of the legend;
    a method without rows is passed over. lines: split -> line style. names: method -> label.
    legend: its place, one of LEGENDS, or "" (see `key` for one below the figure).
    """
    _known("what", what, WHAT)
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        there = set(history["method"])
        colors = {method: color for method, color in colors.items() if method in there}
        for method, color in colors.items():
            part = history[history["method"] == method]
            for split, line in lines.items():
                _curve(ax, part, _column(split, what), color, line)
        _progress(ax, what)
        _legend(ax, legend, _patches(colors, names))
    return ax


def shades(names, first=(), cmap="plasma"):
    """A colour for each of `names`: those in `first` black, the others from dark to light."""
    ordered = [name for name in names if name not in first]
    steps = np.linspace(0.05, 0.85, max(2, len(ordered)))
    found = {name: mpl.colors.to_hex(mpl.colormaps[cmap](s)) for name, s in zip(ordered, steps)}
    return {name: found.get(name, "#000000") for name in names}


def key(fig, lines, colors=None, names=None, ncols=4):
    """One legend below all panels: what the lines mean, and the colours of methods; returns it."""
    handles = _patches(colors or {}, names)
    handles += [Line2D([], [], color="#444444", linestyle=line, label=name.replace("_", ", "))
                for name, line in lines.items()]  # fmt: skip
    with style():
        return fig.legend(handles=handles, loc="lower center", ncols=ncols, columnspacing=1.2)


def level(ax, method, levels, title=""):
    """A dashed line at the value of `levels`, indexed by method, for this method; and a title."""
    with style():
        if method in levels.index:
            ax.axhline(levels[method], color="#444444", linestyle="--", linewidth=1.1)
        ax.set_title(title, loc="left", fontsize=9, pad=3)


def small_multiples(axes, n, ylabel):
    """Small multiples: unused panels of the array removed, labels on the outer ones only."""
    rows, columns = axes.shape
    for number, ax in enumerate(axes.flat):
        ax.set_visible(number < n)
        below = number + columns < n
        ax.tick_params(labelbottom=not below, labelleft=number % columns == 0)
        ax.set_xlabel("" if below else ax.get_xlabel())
        ax.set_ylabel("" if number % columns else ylabel)
    height = axes.flat[0].figure.get_size_inches()[1] / rows
    axes.flat[0].figure.subplots_adjust(hspace=0.36 / (height - 0.36), wspace=0.1)


def slices(df, y="rloss", x="s", direction="direction", ax=None, label="", color="#0072B2"):
    """Loss along lines in weight space, a line per direction and their mean; returns the axes.

    df: columns s (step along the normalised direction, 0 at the model), loss, direction's number.
    """
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        for _, line in df.groupby(direction):
            line = line.sort_values(x)
            ax.plot(line[x], line[y], color=color, linewidth=0.7, alpha=0.45)
        mean = df.groupby(x)[y].mean()
        ax.plot(mean.index, mean, color=color, label=label or None)
        ax.set(xlabel="step s along the direction", ylabel=axis_label(y))
        if label:
            ax.legend(loc="best")
    return ax


def along(tidy, measure, colors, ax=None, names=None, start=-1.0, legend="best", lines=None):
    """RLoss along a direction, a line per model; returns the axes.

    tidy: rows with columns model, measure ("line_random", ...), at (the step s) and value, averaged
    over seeds. colors: model -> colour; one without rows is passed over. start: lowest s shown.
    lines: model -> line style where it is not solid (for curves that lie on top of each other).
    """
    _known("measure", measure, DIRECTIONS)
    rows = tidy[(tidy["measure"] == measure) & (tidy["at"] >= start - 1e-9)]
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        for model, color in colors.items():
            mean = rows[rows["model"] == model].groupby("at")["value"].mean()
            if len(mean):
                line, name = (lines or {}).get(model, "-"), (names or {}).get(model, model)
                ax.plot(mean.index, mean, color=color, linestyle=line, label=name)
        ax.set(xlabel="step s along the direction", ylabel="RLoss", xlim=(start, 1))
        ax.xaxis.set_major_formatter("{x:g}")
        _legend(ax, legend)
    return ax


def over_epochs(table, columns, ax=None, drop=DROP, legend="best", log=False):
    """Several measures over the progress of training, on one axis; returns the axes.

    table: as `snapshots` gives it, for one method; seeds are averaged. columns: column -> (label,
    colour, line style); one that is not there is passed over. drop: a dotted upright line where the
    learning rate is first lowered; None: none. log: a logarithmic axis, for values above 0.
    """
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        for column, (label, color, line) in columns.items():
            if column in table:
                mean = table.groupby("progress")[column].mean().dropna()
                ax.plot(mean.index, mean, color=color, linestyle=line, label=label, marker=".")
        if drop is not None:
            ax.axvline(drop, color="#999999", linestyle=":", linewidth=1, zorder=0)
        ax.set(xlabel="epoch / epochs", xlim=(0, 1.01), yscale="log" if log else "linear")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
        _legend(ax, legend)
    return ax


def path(table, x, y, ax=None, title=""):
    """How a model moves in the plane of two measures while it is trained; returns the axes.

    table: as `snapshots` gives it, for one method; a line per seed, from blue to red, the last
    model with a ring. Rows that lack x or y are left out.
    """
    with style():
        ax = panels(height=3.4)[1][0, 0] if ax is None else ax
        if {x, y} <= set(table):
            for _, run in table.dropna(subset=[x, y]).groupby("seed"):
                run = run.sort_values("progress")
                ax.plot(run[x], run[y], color="#999999", linewidth=0.9, zorder=1)
                ax.scatter(run[x], run[y], c=run["progress"], cmap=PROGRESS, vmin=0, vmax=1, s=34,
                           edgecolors="#444444", linewidths=0.5, zorder=2)  # fmt: skip
                ax.scatter(run[x].tail(1), run[y].tail(1), s=110, facecolors="none",
                           edgecolors="#000000", linewidths=1, zorder=3)  # fmt: skip
        ax.margins(0.12)
        ax.set_title(title, loc="left")
    return ax


def frame(axes, table, x, y, after=0.1):
    """The same limits for panels of `path`: wide enough for all models of `table` from progress
    `after` on. Those of the first epochs may lie outside.
    """
    later = table[table["progress"] >= after]
    for side, column in (("x", x), ("y", y)):
        values = later[column].dropna() if column in later else later["progress"].head(0)
        if len(values):
            room = 0.1 * (values.max() - values.min()) or 0.5
            plt.setp(axes.flat, f"{side}lim", (values.min() - room, values.max() + room))


def progress_bar(fig, bottom=0.0):
    """The colours of `path`, blue to red, as a scale below all panels; `bottom` in inches."""
    width, height = fig.get_size_inches()
    with style():
        ax = fig.add_axes((0.3, (bottom + 0.34) / height, 0.4, 0.09 / height))
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), PROGRESS)
        bar = fig.colorbar(scale, cax=ax, orientation="horizontal")
        bar.set_label("epoch / epochs", labelpad=1)
        bar.outline.set_visible(False)
    return bar


def headroom(ax, after=0.2):
    """Limits from 0 to above all that is drawn from progress `after` on; what an untrained network
    does in its first epochs may leave the panel.
    """
    drawn = [y[x >= after] for x, y in (np.array(line.get_data(), float) for line in ax.lines)]
    values = np.concatenate(drawn) if drawn else np.array([])
    if np.isfinite(values).any():
        ax.set_ylim(0, 1.08 * np.nanmax(values))


def share(axes, side="y", low=None, high=None):
    """The same limits for the panels of an array of axes, wide enough for all that is drawn."""
    limits = np.array([getattr(ax, f"get_{side}lim")() for ax in axes.flat if ax.has_data()])
    if len(limits):
        lowest, highest = limits[:, 0].min(), limits[:, 1].max()
        ends = (lowest if low is None else low, highest if high is None else high)
        plt.setp(axes.flat, f"{side}lim", ends)


def _known(name, value, valid):
    if value not in valid:
        raise ValueError(f"{name}={value!r}; valid choices: {', '.join(map(repr, valid))}")


def _column(split, what):
    """The history's column: "test_rloss_correct" of "test_correct" and "rloss"."""
    first, _, rest = split.partition("_")
    return "_".join(filter(None, (first, what, rest)))


def _curve(ax, history, column, color, line, label=None):
    """Mean over seeds, and a band of one standard deviation where there are several."""
    values = history.groupby("progress")[column]
    mean = values.mean().dropna()  # test curves are not taken at every epoch
    ax.plot(mean.index, mean, color=color, linestyle=line, label=label)
    if "seed" in history and history["seed"].nunique() > 1:
        std = values.std()[mean.index].fillna(0)
        ax.fill_between(mean.index, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def _patches(colors, names):
    """Legend entries of methods: their colour alone."""
    names = names or {}
    return [Line2D([], [], color=color, linewidth=2.4, label=names.get(name, name))
            for name, color in colors.items()]  # fmt: skip


def _legend(ax, place, handles=None):
    if not place:
        return
    _known("legend", place, LEGENDS)
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if handles:
        how = {"handlelength": 1.4, "labelspacing": 0.25, "borderaxespad": 0.2} | LEGENDS[place]
        if place in ("above", "row"):  # as many columns as the names leave room for
            box, width = ax.get_position(), ax.figure.get_size_inches()[0]
            room = width * (box.width if place == "above" else 1 - box.x0)
            name = 0.085 * max(len(handle.get_label()) for handle in handles) + 0.3  # inches
            how["ncols"] = max(1, int(room / name))
        ax.legend(handles=handles, **how)


def _progress(ax, what):
    ax.set(xlabel="epoch / epochs", ylabel=axis_label(what), xlim=(0, 1))
    ax.xaxis.set_major_formatter("{x:g}")
    if what == "rerr":
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
