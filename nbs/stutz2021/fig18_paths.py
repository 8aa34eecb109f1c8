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
# # Fig. 18: flatness throughout training, method by method
#
# **Claim.** Wherever a method overfits, RLoss and average-case flatness grow
# together over the epochs; methods that avoid overfitting avoid sharp minima
# too.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import math

import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
SHOWN = (
    "at batch8 cyclic4 wd0.05 smooth0.3 noise0.3 awp0.01 trades6 mart6 ssl4 "
    "autoaugment unlabeled"
).split()
X, Y = "avg_flatness_rloss", "rloss_test_pgd"

# %% tags=["hide-input"]
known = runs.named(methods)
shown = [name for name in SHOWN if name in known] or list(known)
suites = ("default", "training")
runs.train_missing(shown, profile, seeds, source, suites, workers=workers)
measures, _ = runs.collect(shown, profile, seeds, source, suites)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
table = training_curves.snapshots(measures)
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()
rows = table.dropna(subset=[X, Y]).groupby("method", sort=False)

deep = math.ceil(len(shown) / 3)
fig, axes = plots.panels(deep, 3, width=6.6, height=2.0, legend=0.5)
for ax, name in zip(axes.flat, shown):
    part = table[table["method"] == name]
    curves.path(part, X, Y, ax, names.get(name, name))
    ax.set_xlabel("avg. flatness")
curves.small_multiples(axes, len(shown), "RLoss (test)")
curves.frame(axes, table, X, Y)
curves.progress_bar(fig)
caption = (
    "RLoss on test images against average-case flatness over the epochs "
    "of training, from blue (early) to red (late), the last network "
    "ringed; measured at every tenth epoch, one panel for each method, "
    "all with the same axes. Networks of the first epochs may lie "
    "outside the panels."
)
plate.mount(fig, table, "stutz2021_fig18", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the networks drawn here
# are trained and each is measured at every tenth epoch: at `digits` a quarter
# of an hour on two CPU cores, most of it for the one trained with small
# batches; the `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** Paths that fall steeply at first (blue) and then climb to
# the upper right (red), or stop climbing early.
#
# Stored networks of every tenth epoch, and the last one, are measured as the
# last one is elsewhere.

# %% [markdown]
# ## Published, measured, difference
#
# The ends of the paths are printed: average-case flatness and RLoss of the last
# network. `measured` is the mean over seeds.

# %%
headings = {X: plots.axis_label(X, wide), Y: "RLoss, test"}
beside = published.compare(wide, list(headings)).reindex(shown)
beside = beside.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), beside[column].round(2))

# %% [markdown]
# From the snapshot of lowest test RLoss to the last: at which progress it was
# met, and by how much RLoss and average-case flatness have grown since.

# %%
low, end = table.loc[rows[Y].idxmin()].set_index("method"), rows.last()
grown = pd.DataFrame({
    "progress": low["progress"], "RLoss grows by": end[Y] - low[Y],
    "flatness grows by": end[X] - low[X],
}).reindex([name for name in shown if name in low.index])
grown.rename(names).rename_axis(None).round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["training-average", "training-sharper", "training-variants"]
measured = {"wide": wide, "tidy": measures}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
loss, flat = grown["RLoss grows by"], grown["flatness grows by"]
both = grown[["RLoss grows by", "flatness grows by"]].corr("spearman")
most, least = loss.idxmax(), loss.idxmin()
Markdown(f"""
At profile `{profile}`, after its lowest point test RLoss grows most for
{names.get(most, most)}, by {loss[most]:.2f}, and flatness with it by
{flat[most]:.2f}; least for {names.get(least, least)}, by {loss[least]:.2f} and
{flat[least]:.2f}. The rank correlation of both growths over {len(grown)}
methods is **{both.iloc[0, 1]:.2f}**.
""")

# %% [markdown]
# An untrained network is flat as well: it says nothing, whatever its weights.
# That is why many paths begin further left, with a high RLoss. Only from the
# lowest point on does "flatter" mean "less overfitted", and a comparison of
# networks at different stages of training needs that in mind.
