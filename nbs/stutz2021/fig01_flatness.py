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
#
# **Cost.** With `source = "committed"` seconds. Live, `smoke` takes half a
# minute and `digits` seven minutes for each seed, on two CPU cores; the
# `cifar10` profiles need a GPU. What it will take here is said before it
# starts, and what was finished once is kept.
#
# **What to expect.** Two panels of the same shape: the points rise from the
# lower left (flat, robust) to the upper right (sharp, overfitted). The two
# panels show different images and networks, so compare the pattern and not the
# values.

# %% tags=["parameters"]
profile: str = "digits"  # smoke, digits, cifar10-small or cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from flatlib import claims, paths, plots, published, runs

pd.set_option("display.max_colwidth", None)
X, Y = "avg_flatness_rloss", "rloss_test_pgd"

# %% [markdown]
# ## Runs
#
# The 19 methods of Table 1 of the paper, from the stored results or trained and
# measured here.

# %%
measures, _ = runs.collect("table1", profile, seeds, source, workers)
wide = runs.wide(measures)  # a row for each network
Markdown(plots.caption(measures))

# %% [markdown]
# ## Published, measured, difference
#
# `published` are the printed values for CIFAR-10, `measured` the mean over
# seeds and `std` its standard deviation. The difference says how far apart the
# two settings are; it is not an error.

# %%
table1 = published.table1()
printed = published.stutz2021()  # without the misprinted flatness
printed["label"] = table1["label"].combine_first(printed["label"])
table = published.compare(wide, [Y, X], printed)
table = table.rename(index=printed["label"].to_dict()).rename_axis(None)
for column in (Y, X):
    display(Markdown(f"**{plots.axis_label(column)}**"))
    display(table[column].round(2))

# %% [markdown]
# ### Correlation
#
# Pearson's coefficient asks for a line, Spearman's only for the same order;
# `low` to `high` is the 95 % bootstrap interval of Pearson's. The paper prints
# a flatness of 0 for the method "Weight clipping 0.025"; with this misprint the
# coefficients are slightly lower.

# %%
means = wide.groupby("method").mean()
tables = {
    "published, misprint kept": published.stutz2021(misprint="keep"),
    "published": printed,
    "published, methods of Table 1": printed.loc[table1.index],
    f"measured, {profile}": means,
}
found = [published.correlation(df, X, Y) for df in tables.values()]
found = pd.DataFrame(found, index=list(tables))
found.round(3)

# %% [markdown]
# The measured coefficient uses the mean over seeds for each method. Taken for
# each seed alone it varies by this much:

# %%
per_seed = pd.DataFrame({
    kind: wide.groupby("seed")[[X, Y]].corr(kind).xs(X, level=1)[Y]
    for kind in ("pearson", "spearman")
})
pd.concat([per_seed, per_seed.agg(["mean", "std"])]).round(3)

# %% [markdown]
# ## Figure

# %% mystnb={"figure": {"caption": "RLoss on test images against average-case flatness. Above, the printed values: all methods in grey, those of Table 1 in colour, triangles for eight networks from RobustBench, which exist only as published values. Below, the networks measured here: means over seeds, bars of one standard deviation. Lower is more robust, left is flatter.", "name": "fig01-flatness"}} tags=["hide-input"]
ours = table1[["label", "family"]].join(means)
ours = ours.join(wide.groupby("method").std().add_suffix("_std"))
robustbench = published.load("stutz2021_table4")
robustbench = robustbench.assign(family="RobustBench", label="")
pearson = found["pearson"]
frames = {
    f"published, CIFAR-10: Pearson {pearson['published']:.2f}":
        pd.concat([printed, robustbench]),
    f"measured, {profile}: Pearson {pearson.iloc[-1]:.2f}": ours,
}
coloured = [*table1.index, *robustbench.index]
fig, axes = plots.side_by_side(
    frames, x=X, y=Y, highlight=coloured, labels=True, height=4.6
)
numbers = pd.concat(frames, names=["panel", "method"])
columns = ["label", "family", X, Y, f"{X}_std", f"{Y}_std"]
numbers = numbers.reindex(columns=columns)
folder = paths.ROOT / "_build" / "figures" / profile
plots.save(fig, numbers, "stutz2021_fig01", folder)
plt.show()

# %% tags=["hide-input"]
compared = runs.source_of(profile, source), runs.source_of(profile)
if compared == ("live", "committed"):
    stored = pd.read_csv(paths.RESULTS / profile / "measures.csv")
    stored = runs.wide(stored).groupby("method")[[Y, X]]
    beside = {"yours": means, "stored": stored.mean(), "std": stored.std()}
    display(Markdown("**Your own run beside the stored results** (over seeds)"))
    for column in (Y, X):
        part = pd.DataFrame({name: df[column] for name, df in beside.items()})
        part = part.loc[table1.index].set_axis(table1["label"].rename(None))
        display(Markdown(plots.axis_label(column)), part.round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["pearson", "spearman", "variants-flatter", "regularisers-robust"]
claims.table({"published": printed, "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
theirs, mine = found.loc["published"], found.iloc[-1]
best, worst = ours.loc[ours[Y].idxmin()], ours.loc[ours[Y].idxmax()]
Markdown(f"""
Over {mine.n:.0f} methods at profile `{profile}`, RLoss and average-case
flatness correlate with Pearson **{mine.pearson:.2f}** (95 % interval
{mine.low:.2f} to {mine.high:.2f}) and Spearman **{mine.spearman:.2f}**; the
printed tables give {theirs.pearson:.2f} and {theirs.spearman:.2f} over
{theirs.n:.0f}. For single seeds Pearson lies between
{per_seed['pearson'].min():.2f} and {per_seed['pearson'].max():.2f}.

The lowest RLoss, {best[Y]:.2f}, belongs to {best['label']}, with a flatness of
{best[X]:.2f}; the highest, {worst[Y]:.2f}, to {worst['label']}, with
{worst[X]:.2f}.
""")

# %% [markdown]
# What this shows: knowing how flat a network's minimum is tells much about its
# robust loss on new images, whatever the way it was trained. What it does not
# show: that making a minimum flat is what makes a network robust. Both could
# have a common cause, and methods away from the line remind of that. The
# triangles in the published panel were trained by others with larger networks,
# and follow the trend less strictly.
