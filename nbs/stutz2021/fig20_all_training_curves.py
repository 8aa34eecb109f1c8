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
# # Fig. 20: training curves of all methods
#
# **Claim.** Nearly every way of adversarial training overfits in RLoss; in
# robust error (RErr) less so, and stopping early would have helped most.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import math

import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
SHOWN = (  # one setting of each method
    "at pgd14 eps9 pgd-tau1 ignore-incorrect no-leaking batch8 const0.05 late "
    "cyclic2 adam wd0.05 dropout clip0.005 smooth0.3 noise0.3 ema0.9975 "
    "entropy1 awp0.01 trades6 mart6 ssl4 autoaugment unlabeled mish silu gelu"
).split()
COLUMNS = {
    "rloss_test_pgd": "RLoss, test, last",
    "rloss_early_stop_pgd": "RLoss, test, early-stopped",
    "rerr_test_pgd": "RErr in %, test, last",
    "rerr_early_stop_pgd": "RErr in %, test, early-stopped",
}

# %% tags=["hide-input"]
known = runs.named(methods)
shown = [name for name in SHOWN if name in known] or list(known)
runs.train_missing(shown, profile, seeds, source, workers=workers)
measures, history = runs.collect(shown, profile, seeds, source)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()
stopped = training_curves.stopped(history, measures).groupby("method").mean()

size = {"rows": math.ceil(len(shown) / 3), "columns": 3}
fig, axes = plots.panels(**size, width=6.6, height=1.55, legend=0.4)
for ax, name in zip(axes.flat, shown):
    curves.compare(history, {name: "#0072B2"}, "rloss", ax, legend="")
    curves.headroom(ax)
    curves.level(ax, name, stopped["rloss"], names.get(name, name))
curves.small_multiples(axes, len(shown), "RLoss")
curves.share(axes)
lines = {"test": "-", "train": ":", "test, early-stopped": "--"}
curves.key(fig, lines)
fig.set_dpi(110)  # many panels: keeps the notebook small
caption = (
    "RLoss during training, measured: test images solid, training "
    "images dotted; dashed, the level of the test curve at the early- "
    "stopped epoch. The test curve is under PGD-7; that on training "
    "images under the attack used in training, without adversarial "
    "weights. All panels have the same axes. Means over seeds, bands of "
    "one standard deviation where there are several."
)
numbers = history.dropna(subset="test_rloss")
numbers = numbers.filter(regex="method|seed|epoch|rloss|rerr")
plate.mount(fig, numbers, "stutz2021_fig20", caption, profile)

# %% tags=["hide-input"]
fig, axes = plots.panels(**size, width=6.6, height=1.55, legend=0.4)
for ax, name in zip(axes.flat, shown):
    curves.compare(history, {name: "#D55E00"}, "rerr", ax, legend="")
    curves.level(ax, name, stopped["rerr"], names.get(name, name))
curves.small_multiples(axes, len(shown), "RErr")
curves.share(axes, low=0, high=1)
curves.key(fig, lines)
fig.set_dpi(110)
levels = stopped[["epoch", "progress", "rloss", "rerr"]]
caption = (
    "RErr during training, measured: test images under PGD-7 solid, "
    "training images under the attack used in training dotted; dashed, "
    "the level at the early-stopped epoch. All panels have the same "
    "axes. Means over seeds."
)
plate.mount(fig, levels, "stutz2021_fig20_early_stopping", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` some seconds. Live, all networks drawn
# here are trained and measured: `methods = "table1"` is the smaller choice,
# some minutes for each seed at `digits` on two CPU cores; the `cifar10`
# profiles need a GPU. What was finished once is kept.
#
# **What to expect.** The same two curves again and again: test (solid) turns
# upwards or stays level, train (dotted) falls. The dashed line is what early
# stopping would have given.

# %% [markdown]
# ## Published, measured, difference
#
# Training curves are not printed; their ends are, last and early-stopped, under
# PGD with 20 steps. `measured` is the mean over seeds, `std` its standard
# deviation.

# %% tags=["scroll-output"]
table = published.compare(wide, list(COLUMNS)).reindex(shown)
table = table.rename(index=names).rename_axis(None)
for column, heading in COLUMNS.items():
    scale, digits = (100, 1) if column.startswith("rerr") else (1, 2)
    part = table[column].mul(scale).round(digits)
    display(Markdown(f"**{heading}**"), part)

# %% [markdown]
# What the curves say: the lowest value on test images, the progress (epoch /
# epochs) at which it was met, the last one, and how many times larger that is;
# and the progress at which early stopping took the network. Means over seeds.

# %% tags=["scroll-output"]
rises = {
    what: training_curves.overfitting(history, f"test_{what.lower()}")
    .groupby("method").mean().reindex(shown)
    for what in ("RLoss", "RErr")
}
both = pd.concat(rises, axis=1)
both = both.drop(columns=["last", "train"], level=1)
both["early-stopped", "at"] = stopped["progress"]
both.rename(names).rename_axis(None).round(2)

# %% tags=["hide-input"]
if runs.source_of(profile, source) == "live":
    stored, _ = runs.collect(shown, profile, seeds, "committed", needed=False)
    if len(stored):
        stored = runs.wide(stored).groupby("method")["rloss_test_pgd"]
        mine = wide.groupby("method")["rloss_test_pgd"].mean()
        beside = stored.agg(["mean", "std"]).assign(yours=mine)
        display(Markdown("**Your own run beside the stored results**, RLoss"))
        display(beside.rename(names).rename_axis(None).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "at-rloss-overfits", "at-rerr-overfits", "activations-overfit",
    "smoothing-flat-but-overfits", "stopping-helps", "stopping-rerr",
]
measured = {"wide": wide, "history": history}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
loss, error = (rise["last / lowest"] for rise in rises.values())
Markdown(f"""
At profile `{profile}`, {(loss > 1.1).sum()} of {len(loss)} methods end with a
test RLoss more than a tenth above their lowest one, and {(error > 1.1).sum()}
with such a test RErr. Over the methods, the last value is
{loss.median():.2f} times the lowest one in RLoss (median; largest
{loss.max():.2f}, {names.get(loss.idxmax(), loss.idxmax())}) and
{error.median():.2f} times in RErr (largest {error.max():.2f},
{names.get(error.idxmax(), error.idxmax())}).
""")

# %% [markdown]
# The lowest point of a noisy curve lies below its level by chance, so a ratio
# slightly above 1 does not mean overfitting. Early stopping looks at RErr on
# images kept aside; where the dashed line lies above the lowest point of the
# test curve, these images would have chosen another epoch.
