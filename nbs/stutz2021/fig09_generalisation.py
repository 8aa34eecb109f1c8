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
# # Fig. 9: robust generalisation and early stopping
#
# **Claim.** Average-case flatness goes together with robust generalisation in
# each of its parts: with the gap between the robust loss (RLoss) on test and on
# training images, with what training to the end adds to RLoss, even if flatness
# is measured on training images; and early stopping finds flatter minima.

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
from flatlib.records.columns import differences

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
RLOSS, STOPPED = "rloss_test_pgd", "rloss_early_stop_pgd"
FLAT, FLAT_TRAIN = "avg_flatness_rloss", "avg_flatness_rloss_train"
FLAT_STOPPED = "avg_flatness_rloss_early_stop"
COLUMNS = {  # what is drawn -> axis label
    RLOSS: "RLoss (test)", FLAT: "average-case flatness",
    FLAT_TRAIN: "average-case flatness (train)",
    "rloss_gap": "RLoss, test minus train",
    "rloss_overfitting": "RLoss, last minus stopped",
}
VIEWS = {
    "RLoss against flatness on training images": (FLAT_TRAIN, RLOSS),
    "RLoss, test minus train, against flatness": (FLAT, "rloss_gap"),
    "RLoss, last minus stopped, against flatness": (FLAT, "rloss_overfitting"),
}

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
measures, _ = runs.collect(methods, profile, seeds, source)
wide = runs.wide(measures)  # a row for each network
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
printed, networks, robustbench = map(
    differences, (relations.printed(), wide, relations.robustbench())
)
ours = relations.means(networks)
tables = {"published": printed, "measured": ours}
found = relations.correlations(tables, VIEWS)

table1 = published.table1().index
both = pd.concat([printed, robustbench])
coloured = [*table1, *robustbench.index]
fig, axes = plots.panels(1, 2, height=3.0, legend=0.6)
for ax, (view, (x, y)) in zip(axes.flat, list(VIEWS.items())[1:]):
    plots.scatter(both, x, y, ax, coloured, labels=False, crop=True)
    ax.set(xlabel=COLUMNS[x], ylabel=COLUMNS[y])
    scatters.heading(ax, found=found.loc[view, "published"])
columns = ["label", "family", FLAT, RLOSS, "rloss_gap", "rloss_overfitting"]
caption = (
    "Published, CIFAR-10: the robust generalisation gap (left) and "
    "robust overfitting (right) against average-case flatness. Methods "
    "of Table 1 in colour, the others in grey; triangles are the "
    "networks of RobustBench, which come early-stopped only and count "
    "for no coefficient. Titles give Pearson's coefficient with its 95 "
    "% interval."
)
plate.mount(fig, both[columns], "stutz2021_fig09_published", caption, profile)

# %% tags=["hide-input"]
fig, axes = plots.panels(2, 2, height=3.0, legend=0.6, gap=0.85)
for ax, (view, (x, y)) in zip(axes.flat, VIEWS.items()):
    plots.scatter(ours, x, y, ax, table1, labels=False, crop=True)
    ax.set(xlabel=COLUMNS[x], ylabel=COLUMNS[y])
    scatters.heading(ax, found=found.loc[view, "measured"])
chosen = ours[ours.index.isin(table1)]
ax = axes[1, 1]
scatters.pairs(chosen, (FLAT, RLOSS), (FLAT_STOPPED, STOPPED), ax)
ax.set(xlabel=COLUMNS[FLAT], ylabel=COLUMNS[RLOSS])
scatters.heading(ax, "filled: last; open: stopped")
columns += [STOPPED, FLAT_TRAIN, FLAT_STOPPED]
columns += [f"{c}_std" for c in columns if f"{c}_std" in ours]
caption = (
    "Measured here. Upper left: RLoss on test images against average- "
    "case flatness on training images. Upper right: the gap between "
    "test and training RLoss. Lower left: what training on after the "
    "early-stopped epoch added to RLoss. Lower right: RLoss against "
    "flatness of the methods of Table 1 at the last epoch (filled) and "
    "early-stopped (open). Means over seeds, bars of one standard "
    "deviation where there are several seeds; bars may leave the frame."
)
plate.mount(fig, ours[columns], "stutz2021_fig09_measured", caption, profile)

# %% tags=["hide-input"]
panels = {f"measured, {view}": (ours, *pair) for view, pair in VIEWS.items()}
Markdown(plots.outside(panels))

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept.
#
# **What to expect.** Three clouds that rise to the right, and in the last view
# lines that lead from the last network down and to the left to the
# early-stopped one. The paper prints what the two middle views need; flatness
# on training images and of early-stopped networks it only draws.

# %% [markdown]
# The two differences are taken for each network before they are averaged over
# seeds.

# %% [markdown]
# ## Published, measured, difference
#
# `measured` is the mean over seeds, `std` its standard deviation. RLoss and
# flatness on test images are in the tables of Fig. 1.

# %% tags=["scroll-output"]
table = published.compare(networks, ["rloss_gap", "rloss_overfitting"], printed)
names = published.stutz2021()["label"].to_dict()
table = table.rename(index=names).rename_axis(None)
for column in ("rloss_gap", "rloss_overfitting"):
    display(Markdown(f"**{COLUMNS[column]}**"), table[column].round(2))

# %% [markdown]
# ### Correlation in each view
#
# `low` to `high` is the 95 % bootstrap interval of Pearson's coefficient; a
# method counts once, by its mean over seeds. RobustBench is left out.

# %%
found.round(2)

# %% [markdown]
# ### Early stopping
#
# Of how many methods the early-stopped network has a lower RLoss, a flatter
# minimum, or both; means over methods of RLoss and flatness before and after.

# %%
lower, flatter = ours[STOPPED] < ours[RLOSS], ours[FLAT_STOPPED] < ours[FLAT]
there = ours[[FLAT, FLAT_STOPPED]].notna().all(axis=1)
stopping = pd.Series({
    "methods": there.sum(), "lower RLoss": (lower & there).sum(),
    "flatter": (flatter & there).sum(),
    "both": (lower & flatter & there).sum(),
    "RLoss, last": ours[RLOSS].mean(), "RLoss, stopped": ours[STOPPED].mean(),
    "flatness, last": ours[FLAT].mean(),
    "flatness, stopped": ours[FLAT_STOPPED].mean(),
})
stopping.round(2).to_frame("measured")

# %% [markdown]
# ## Checks
#
# Statements of the paper that these figures are about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "gap", "overfitting", "train-flatness", "train-flatness-weaker",
    "stopping-helps", "stopping-rerr", "stopping-flattens",
]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
r = found["pearson"].unstack("source").loc[list(VIEWS)]
train, gap, over = r.itertuples(index=False)
Markdown(f"""
At profile `{profile}`, average-case flatness correlates with the gap between
test and training RLoss with Pearson {gap.measured:.2f} (published
{gap.published:.2f}), with robust overfitting {over.measured:.2f} (published
{over.published:.2f}), and, taken on training images, with test RLoss
{train.measured:.2f}. The early-stopped network has the lower RLoss for
{stopping['lower RLoss']:.0f} of {stopping['methods']:.0f} methods, and is the
flatter one for {stopping['flatter']:.0f}.
""")

# %% [markdown]
# The gap and the overfitting take away what a low RLoss alone leaves open: a
# method may be robust because it fits the training images less. That flatness
# goes along with both differences means that flat networks lose less between
# training and test images, and less after their best epoch. It still says
# nothing about cause: early stopping makes training shorter, and short training
# gives low RLoss and flat minima alike.
