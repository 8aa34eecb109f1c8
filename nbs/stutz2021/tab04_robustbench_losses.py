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
# # Table 4: networks of RobustBench, losses
#
# **Claim.** Networks of RobustBench have less robust loss (RLoss) than those of
# the paper, and lie in flatter minima.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # to measure: cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0]  # each of these networks exists once
workers: int = 1  # networks measured at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, tables
from flatbook.figures import plate, plots
from flatlib import runs
from flatlib.runs import robustbench
from flatlib.training import profiles

pd.set_option("display.max_colwidth", None)
FLAT, Y = "avg_flatness_rloss", "rloss_test_pgd"
COLUMNS = {
    "loss_test": ("Loss, test", 2),
    "rloss_test_pgd": ("RLoss, test, PGD", 2),
    "rloss_test_aa": ("RLoss, test, AutoAttack", 2),
    "loss_train": ("Loss, train", 2),
    "rloss_train_pgd": ("RLoss, train, PGD", 2),
    "rloss_train_aa": ("RLoss, train, AutoAttack", 2),
    FLAT: ("average-case flatness, RLoss", 2),
    "worst_flatness_rloss": ("worst-case flatness, RLoss", 2),
}

# %% tags=["hide-input"]
printed = published.robustbench()
measures = pd.DataFrame()
if profiles.get(profile).dataset == "cifar10":
    runs.train_missing("robustbench", profile, seeds, source, workers=workers)
    measures, _ = runs.collect("robustbench", profile, seeds, source)
found = len(measures) > 0
nothing = (printed * float("nan")).rename_axis("method")
wide = runs.wide(measures) if found else nothing
wide = wide.rename(index=robustbench.NAMES)
stated = f"profile {profile}, seed {', '.join(map(str, seeds))}"
Markdown(
    plots.caption(measures) if found else f"Nothing is measured at {stated}: "
    f"these are networks for CIFAR-10. See above for how to measure them."
)

# %% tags=["hide-input"]
table = published.compare(wide, list(COLUMNS), printed)

ours = published.stutz2021()[[FLAT, Y]].assign(label="", family="")
short = printed.index.str.replace(r" et al\.|\(.*\)", "", regex=True)
theirs = printed[[FLAT, Y]].assign(label=short, family="RobustBench")
frames = {"published, CIFAR-10": pd.concat([ours, theirs])}
if found:
    own = wide[[FLAT, Y]].groupby("method").mean()
    own = own.assign(label=own.index, family="RobustBench")
    frames[f"measured, {profile}"] = own
fig, axes = plots.side_by_side(
    frames, x=FLAT, y=Y, highlight=printed.index, labels=True
)
caption = (
    "Robust loss under PGD against average-case flatness: networks of "
    "RobustBench (triangles) and the 74 networks of the paper (grey)."
)
plate.mount(fig, tables.flat(table), "stutz2021_tab04", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** Seconds. To measure the networks takes a GPU, a download of more
# than a gigabyte and, estimated, some hours (shared with Table 3):
#
#     pip install robustbench
#     python nbs/run.py tab04 -p profile cifar10 -p source live
#
# **What to expect.** Eight networks that others trained and published on
# [RobustBench](https://robustbench.github.io), most of them wide and all of
# them stopped early. Only they can give a measured column: our own networks of
# other images are no substitute, so at profiles without CIFAR-10 it stays
# empty.

# %% [markdown]
# ## Published, measured, difference
#
# Test and training images as for our own networks: the first 1000 of each. For
# Loss the
# printed table takes all images of a kind. The radius of the printed worst-case
# flatness is not stated; it is small, since most values lie *below* those of
# average-case flatness.

# %%
tables.sheet(table, COLUMNS)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this table is about, each decided by a rule fixed
# beforehand on the printed numbers, against the 74 networks of Tables 5 and 6.

# %% tags=["hide-input"]
about = ["robustbench-robust", "robustbench-flat"]
claims.table({"published": claims.printed()}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
rest = published.stutz2021()
rank = printed[[FLAT, Y]].corr("spearman").iloc[0, 1]
unsure = printed["loss_test"].idxmax()
Markdown(f"""
Printed RLoss of these networks lies between
{printed[Y].min():.2f} and {printed[Y].max():.2f}, that of the paper's own 74
between {rest[Y].min():.2f} and {rest[Y].max():.2f}. *Among* the eight the
order is rather the reverse: the rank correlation with flatness is {rank:.2f}.
They differ in architecture, data and loss; the outputs of {unsure} are so
unsure (clean Loss {printed.loc[unsure, 'loss_test']:.2f}) that little can
change them, which is another way to be flat.
""")
