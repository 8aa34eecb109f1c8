# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fig. 5: what helps against robust overfitting
#
# **Claim.** Many ways of training lessen robust overfitting, and those that
# avoid it do so by not fitting the training images all the way; a lower RLoss
# on test images need not mean a lower robust error (RErr).

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]

import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
PANELS = {  # title: measure, lines, methods
    "1  correct and incorrect test images": (
        "rloss", {"test_correct": ":", "test_incorrect": "--"}, ["at", "mart6"],
    ),
    "2  labels, RLoss": (
        "rloss", curves.LINES, ["at", "smooth0.3", "noise0.3"],
    ),
    "2  labels, RErr": ("rerr", curves.LINES, ["at", "smooth0.3", "noise0.3"]),
    "3  methods": (
        "rloss", curves.LINES,
        ["at", "wd0.05", "autoaugment", "trades6", "ssl4", "unlabeled",
         "awp0.01"],
    ),
    "4  AT-AWP, strength": (
        "rloss", curves.LINES, ["at", "awp0.001", "awp0.005", "awp0.01"],
    ),
    "5  learning-rate schedules": (
        "rloss", curves.LINES,
        ["at", "const0.05", "late", "cyclic", "cyclic2", "cyclic4"],
    ),
}
X, Y, STOPPED = "rloss_train_pgd", "rloss_test_pgd", "rloss_early_stop_pgd"

# %% tags=["hide-input"]
wanted = [name for _, _, part in PANELS.values() for name in part]
known = runs.named(methods)
shown = [name for name in dict.fromkeys(wanted) if name in known] or list(known)
runs.train_missing(shown, profile, seeds, source, workers=workers)
measures, history = runs.collect(shown, profile, seeds, source)
wide = runs.wide(measures)
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()

fig, axes = plots.panels(rows=len(PANELS), width=6.6, height=2.3)
for ax, (title, (what, lines, part)) in zip(axes[:, 0], PANELS.items()):
    colors = dict(zip(part, curves.PALETTE))
    curves.compare(history, colors, what, ax, lines, names, legend="right")
    curves.headroom(ax)
    with plots.style():
        ax.set_title(title, loc="left")
        ax.label_outer()
fig.subplots_adjust(right=0.72, hspace=0.28)
fig.set_dpi(120)  # many panels: keeps the notebook small
caption = (
    "Training curves, measured: test images solid, training images "
    "dotted; in the first panel test images classified correctly "
    "without attack dotted, incorrectly dashed. Numbers are the columns "
    "of the published figure. Means over seeds, bands of one standard "
    "deviation where there are several."
)
numbers = history.dropna(subset="test_rloss")
numbers = numbers.filter(regex="method|seed|epoch|rloss|rerr")
plate.mount(fig, numbers, "stutz2021_fig05", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the networks drawn here
# are trained and measured: at `digits` some minutes for each seed on two CPU
# cores; the `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** Solid lines (test) that turn upwards where the dotted ones
# (train) go to zero, and stay low where these stay high.
#
# The training curves are those of Fig. 2: RLoss and RErr under PGD-7 with a
# single start, on the mini-batches of each epoch (under the attack used for
# training) and on a part of the test images.

# %% [markdown]
# ## Published, measured, difference
#
# Training curves are not printed; their ends are: RLoss of the last and of the
# early-stopped network on test images, and of the last one on training images.
# `measured` is the mean over seeds, `std` its standard deviation.

# %% tags=["scroll-output"]
headings = {
    Y: "RLoss, test, last", STOPPED: "RLoss, test, early-stopped",
    X: "RLoss, train, last",
}
table = published.compare(wide, list(headings))
table = table.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), table[column].round(2))

# %% [markdown]
# What the curves say: lowest test RLoss, the progress (epoch / epochs) at which
# it was met, the last value, and how many times larger that is; `train` is the
# last RLoss on training images. Means over seeds, sorted by the ratio.

# %% tags=["scroll-output"]
rise = training_curves.overfitting(history).groupby("method").mean()
rise = rise.sort_values("last / lowest", ascending=False)
rise.rename(names).rename_axis(None).round(3)

# %% tags=["hide-input"]
if runs.source_of(profile, source) == "live":
    stored, _ = runs.collect(shown, profile, seeds, "committed", needed=False)
    if len(stored):
        stored = runs.wide(stored).groupby("method")[Y].agg(["mean", "std"])
        beside = stored.assign(yours=wide.groupby("method")[Y].mean())
        display(Markdown("**Your own run beside the stored results**, RLoss"))
        display(beside.rename(names).rename_axis(None).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "mart-dampens", "mart-blind", "labels-rloss", "smoothing-blind",
    "regularised-do-not-overfit", "weak-awp-overfits",
    "fit-against-overfitting",
]
measured = {"wide": wide, "history": history}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
most, least = rise.iloc[0], rise.iloc[-1]
fits = rise["train"].corr(rise["last / lowest"], "spearman")
Markdown(f"""
At profile `{profile}`, test RLoss ends at {most['last / lowest']:.2f} times its
lowest value for {names.get(most.name, most.name)}, which overfits most of the
{len(rise)} methods drawn here, and at {least['last / lowest']:.2f} times for
{names.get(least.name, least.name)}, which does least;
{(rise['last / lowest'] > 1.1).sum()} of them end more than a tenth above their
lowest value. The rank correlation of this ratio with the last RLoss on training
images is **{fits:.2f}**: below zero means that methods which fit the training
images less overfit less.
""")

# %% [markdown]
# The dotted lines are the key to the figure. A network that brings RLoss on
# training images to zero has learned them by heart, and pays on test images;
# more data, noise in the labels or adversarial weights keep it from that. So
# does weight decay in the paper; on the digits it fits as well as AT, and helps
# all the same. The check compares last with early-stopped values over the
# methods (Pearson), the rank correlation above last with lowest values of the
# curve. How much of a remedy is needed differs: a small weight perturbation in
# AT-AWP changes little. Curves under different training attacks, as for TRADES,
# are not comparable on training images.
