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
# # Fig. 7: flatness across the settings of a method
#
# **Claim.** Not only from method to method, but also from setting to setting of
# the same method, a lower robust loss (RLoss) comes with a flatter minimum.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all, table1, or the name of one method
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations
from flatbook.figures import plate, plots, scatters
from flatlib import runs

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
X, Y = "avg_flatness_rloss", "rloss_test_pgd"
SWEEPS = ["wd", "awp", "trades", "mart", "ssl", "noise"]

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
measures, _ = runs.collect(methods, profile, seeds, source)
wide = runs.wide(measures)  # a row for each network
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
printed, ours = relations.printed(), relations.means(wide)
swept = [m for name in SWEEPS for m in relations.settings(printed, name).index]

frames = {"published, CIFAR-10": printed, f"measured, {profile}": ours}
fig, axes = plots.panels(2, 1, width=6.0, height=4.6, legend=0.7)
for ax, (title, frame) in zip(axes[:, 0], frames.items()):
    scatters.sweeps(frame, SWEEPS, X, Y, ax)
    scatters.heading(ax, title)
axes[0, 0].set_xlabel("")
columns = ["label", "family", X, Y, f"{X}_std", f"{Y}_std"]
numbers = pd.concat(frames, names=["panel", "method"]).reindex(columns=columns)
numbers = numbers[numbers.index.isin(["at", *swept], level="method")]
caption = (
    "RLoss on test images against average-case flatness for the "
    "settings of six methods; numbers are the settings, dotted lines "
    "least-squares lines. The star is AT, which has weight decay 0.0005 "
    "and none of the other methods. Above as published for CIFAR-10, "
    "below as measured here, means over seeds."
)
plate.mount(fig, numbers, "stutz2021_fig07", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept. `methods = "table1"` has one setting of
# each method, so no lines.
#
# **What to expect.** A dotted line for each method, all of them rising to the
# right, from strong regularisation (flat, low RLoss) to weak. Lines of only
# three to five points are rough; the table says how rough.

# %% [markdown]
# ## Published, measured, difference
#
# `published` are the printed values for CIFAR-10, `measured` the mean over
# seeds and `std` its standard deviation.

# %% tags=["scroll-output"]
table = published.compare(wide, [Y, X])
table = table[table.index.isin(["at", *swept])]
names = published.stutz2021()["label"].to_dict()
table = table.rename(index=names).rename_axis(None)
for column in (Y, X):
    display(Markdown(f"**{plots.axis_label(column, wide)}**"))
    display(table[column].round(2))

# %% [markdown]
# ### Trend of each method
#
# The number of settings, the slope of the least-squares line (RLoss for one
# unit of flatness), and Spearman's coefficient: 1 if RLoss and flatness put the
# settings in the same order. With so few settings a coefficient is no proof.
# The checks below take Pearson's, and count AT as a setting where it is one, so
# their numbers differ from these.

# %%
trends = pd.concat({
    "published": relations.slopes(printed, SWEEPS, X, Y),
    "measured": relations.slopes(ours, SWEEPS, X, Y),
}, axis=1)
trends.round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["sweeps", "weight-decay-reduces", "weak-awp-overfits"]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
slope = trends.xs("slope", axis=1, level=1)
rising, lines = (slope > 0).sum(), slope.notna().sum()
against = "; ".join(slope.index[slope["measured"] <= 0]) or "none"
Markdown(f"""
Published, {rising['published']} of {lines['published']} lines rise; measured at
profile `{profile}`, {rising['measured']} of {lines['measured']}. Not rising
there: {against}.
""")

# %% [markdown]
# The setting of a method is mostly the strength of a regularisation. Turned up,
# it mostly keeps the network from fitting the training images to the end, and
# with that from the sharp minima at the end of robust overfitting. A line that
# does not rise at another size of data and network is no surprise where the
# settings were chosen for CIFAR-10: there all of them can be too weak, or all
# too strong, to make a difference.
