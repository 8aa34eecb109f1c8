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
# # Fig. 1: robust networks lie in flat minima
#
# **Claim.** Across ways of training, the networks with a low robust loss
# (RLoss) on test images are those whose RLoss hardly changes when their weights
# move.

# %% tags=["hide-input", "parameters"]
profile: str = "fashion"  # smoke, fashion, digits, cifar10-cpu, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "table1"  # table1, all, or the name of one method
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, live, published, relations
from flatbook.figures import plate, plots, scatters
from flatlib import runs

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
X, Y = "avg_flatness_rloss", "rloss_test_pgd"

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
shown = live.shown(methods, profile, seeds, source)
measures, mine = shown.measures, shown.mine
wide = runs.wide(measures)  # a row for each network
Markdown(shown.caption)

# %% tags=["hide-input"]
printed, ours = relations.printed(), relations.means(wide)
table1 = published.table1().index
tables = {
    "published, misprint kept": published.stutz2021(misprint="keep"),
    "published": printed,
    "published, methods of Table 1": printed.loc[table1],
    f"measured, {profile}": ours,
    f"measured, {profile}, methods of Table 1": ours[ours.index.isin(table1)],
}
found = relations.correlations(tables, {"": (X, Y)}).loc[""]

frames = {
    "published": pd.concat([printed, relations.robustbench()]),
    f"measured, {profile}": live.over(ours, mine),
}
coloured = [*live.lit(table1, mine), *relations.robustbench().index]
fig, axes = plots.side_by_side(
    frames, x=X, y=Y, highlight=coloured, labels=True, crop=True, height=4.7
)
for ax, title in zip(axes, frames):
    scatters.heading(ax, title, found.loc[title])
columns = ["label", "family", X, Y, f"{X}_std", f"{Y}_std"]
numbers = pd.concat(frames, names=["panel", "method"]).reindex(columns=columns)
caption = (
    "RLoss on test images against average-case flatness. Above, the "
    "printed values for CIFAR-10; triangles are eight networks from "
    "RobustBench, trained by others and stopped early, which exist only "
    "as published values. Below, the networks measured here: means over "
    "seeds, bars of one standard deviation where there are several "
    "seeds; where the reader has trained some, those are in colour over "
    "the stored ones. Methods of Table 1 in colour and named, the "
    "others in grey; in brackets the 95 % interval of Pearson's "
    "coefficient, taken without RobustBench. Lower is more robust, left "
    "is flatter."
)
plate.mount(fig, numbers, "stutz2021_fig01", caption, profile)

# %% tags=["hide-input"]
panels = {title: (frame, X, Y) for title, frame in frames.items()}
Markdown(plots.outside(panels))

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the 19 methods of
# `methods = "table1"` take a quarter of the time of all 74: at `fashion` 20 to
# 40 minutes for each seed on two CPU cores. What it will take here is
# said before it starts, and what was finished once is kept.
#
# **What to expect.** Two panels of the same shape: the points rise from the
# lower left (flat, robust) to the upper right (sharp, overfitted). The two
# panels show different images and networks, so compare the pattern and not the
# values.
#
# The methods of Tables 5 and 6 of the paper, from the stored results or trained
# and measured here.

# %% [markdown]
# ## Published, measured, difference
#
# `published` are the printed values for CIFAR-10, `measured` the mean over
# seeds and `std` its standard deviation. The difference says how far apart the
# two settings are; it is not an error. Rows are in printed order, by robust
# error.

# %% tags=["scroll-output"]
table = published.compare(wide, [Y, X])
names = published.stutz2021()["label"].to_dict()
table = table.rename(index=names).rename_axis(None)
for column in (Y, X):
    display(Markdown(f"**{plots.axis_label(column, wide)}**"))
    display(table[column].round(2))

# %% [markdown]
# ### Correlation
#
# Pearson's coefficient asks for a line, Spearman's only for the same order;
# `low` to `high` is the 95 % bootstrap interval of Pearson's. The paper prints
# a flatness of 0 for the method "Weight clipping 0.025"; with this misprint the
# coefficients are slightly lower. A method counts once, by its mean over seeds.

# %%
found.rename_axis(None).round(3)

# %% [markdown]
# For each seed alone:

# %%
per_seed = pd.DataFrame({
    kind: wide.groupby("seed")[[X, Y]].corr(kind).xs(X, level=1)[Y]
    for kind in ("pearson", "spearman")
})
per_seed.round(3)

# %% tags=["hide-input"]
if mine is not None:
    display(Markdown("**Your own networks beside the stored ones** (means)"))
    display(live.beside(ours, mine, [Y, X]).rename(index=names).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "pearson", "spearman", "variants-flatter", "variants-robust",
    "regularisers-robust", "robustbench-robust", "robustbench-flat",
]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
theirs, here = found.loc["published"], found.loc[f"measured, {profile}"]
best, worst = ours.loc[ours[Y].idxmin()], ours.loc[ours[Y].idxmax()]
Markdown(f"""
Over {here.n:.0f} methods at profile `{profile}`, RLoss and average-case
flatness correlate with Pearson **{here.pearson:.2f}** (95 % interval
{here.low:.2f} to {here.high:.2f}) and Spearman **{here.spearman:.2f}**; the
printed tables give {theirs.pearson:.2f} and {theirs.spearman:.2f} over
{theirs.n:.0f}. Pearson's coefficient for each seed alone:
{', '.join(f'{r:.2f}' for r in per_seed['pearson'])}.

The lowest RLoss, {best[Y]:.2f}, belongs to {best['label']}, with a flatness of
{best[X]:.2f}; the highest, {worst[Y]:.2f}, to {worst['label']}, with
{worst[X]:.2f}.
""")

# %% [markdown]
# What this shows: knowing how flat a network's minimum is tells much about its
# robust loss on new images, whatever the way it was trained. What it does not
# show: that making a minimum flat is what makes a network robust. Both could
# have a common cause, and methods away from the line are a reminder.
# The triangles in the published panel were trained by others with larger
# networks. They lie in the flat, robust corner, but among themselves the order
# is reversed (Table 4).
