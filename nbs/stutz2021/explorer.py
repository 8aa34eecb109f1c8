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
# # Explorer: all models, any two measures
#
# **Claim.** None of its own: this page is for looking. Every point is a
# method; point at it to read its name and numbers, choose the measures of both
# axes from the lists, and click on a family below the picture to hide it, or
# twice to see it alone.
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept. The picture needs no internet connection.
#
# **What to expect.** It opens with the two measures of Fig. 1. Some measures
# were never printed: over them the published points are missing.

# %% tags=["parameters"]
profile: str = "fashion"  # smoke, fashion, digits, cifar10-cpu, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "table1"  # table1, all, or the name of one method
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, live, relations
from flatbook.figures import explorer, plate, scatters
from flatlib import runs
from flatlib.records.columns import differences

pd.set_option("display.max_colwidth", None)
X, Y = "avg_flatness_rloss", "rloss_test_pgd"
MEASURES = {  # column -> words; RErr by AutoAttack, RLoss by PGD
    Y: "RLoss, test", "rloss_train_pgd": "RLoss, train",
    "rloss_early_stop_pgd": "RLoss, early-stopped",
    "rloss_gap": "RLoss, test minus train",
    "rloss_overfitting": "RLoss, last minus stopped",
    "err_test": "Err, test", "rerr_test_aa": "RErr, test",
    X: "average-case flatness", "worst_flatness_rloss": "worst-case flatness",
    "avg_flatness_loss": "average-case flatness of Loss",
    "worst_flatness_loss": "worst-case flatness of Loss",
    "avg_flatness_rloss_train": "average-case flatness, train",
    "avg_flatness_rloss_over_draws": "average-case flatness, spread",
}
TOLD = ["rerr_test_aa", Y, X, "worst_flatness_rloss"]  # when pointed at

# %% [markdown]
# ## Runs

# %%
runs.train_missing(methods, profile, seeds, source, workers=workers)
shown = live.shown(methods, profile, seeds, source)
measures, mine = shown.measures, shown.mine
wide = runs.wide(measures)  # a row for each network
Markdown(shown.caption)

# %% tags=["hide-input"]
printed = pd.concat([relations.printed(), relations.robustbench()])
printed, ours, mine = (
    None if df is None else differences(df)
    for df in (printed, relations.means(wide), mine)
)

# %% [markdown]
# ## Published, measured
#
# RErr and Err are in percent. Measured points are means over seeds, ± the
# standard deviation where there are several seeds. In print, use the pictures
# of Figs. 1, 8, 9 and 13.

# %% tags=["hide-input"]
drawn = live.added(ours, mine)
tables = {f"measured, {profile}": drawn, "published, CIFAR-10": printed}
fig = explorer.figure(tables, MEASURES, X, Y, told=TOLD)
display(explorer.bundle(fig), raw=True)

# %% [markdown]
# ## Figure
#
# Which pair is worth looking at? Pearson's coefficient of each two measures:

# %% tags=["hide-input"]
ordinary = printed[printed["family"] != "RobustBench"]
table = relations.coefficients(ordinary, ours, MEASURES)
ax = scatters.squares(table)
caption = (
    "Pearson's coefficient of each two measures over the methods. Below "
    "the diagonal published for CIFAR-10, without RobustBench, above it "
    "measured here; empty where nothing is printed."
)
plate.mount(ax.figure, table, "stutz2021_explorer", caption, profile)

# %% [markdown]
# ## Checks
#
# Correlations that the paper reports, each decided by a rule fixed beforehand,
# on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["pearson", "worst-case-related", "clean-weaker", "flatness-rerr"]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
flat = [
    words for words in MEASURES.values()
    if "flatness" in words and not words.startswith("std")
]
with_rloss = table.loc[MEASURES[Y], flat].dropna()
close = with_rloss.abs().sort_values().index
Markdown(f"""
Of the {len(with_rloss)} kinds of flatness measured at profile `{profile}`, the
one most closely related to RLoss on test images is *{close[-1]}* (Pearson
{with_rloss[close[-1]]:.2f}), the least *{close[0]}*
({with_rloss[close[0]]:.2f}).
""" if len(close) else f"Too few methods at profile `{profile}` to relate.")

# %% [markdown]
# With so many pairs some will look good by chance: a pattern found here is a
# question, to be asked again of other networks.
