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
# # Fig. 13: more on average-case flatness
#
# **Claim.** The spread of average-case flatness over weight draws falls with
# the robust loss (RLoss) as flatness itself does; flatness on training images
# tells about RLoss on test images, if less well; worst-case flatness of the
# clean loss tells less; and early stopping improves flatness wherever it lowers
# RLoss.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all, table1, or the name of one method
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, relations
from flatbook.figures import plate, plots, scatters
from flatlib import runs

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
RLOSS, STOPPED = "rloss_test_pgd", "rloss_early_stop_pgd"
FLAT, FLAT_STOPPED = "avg_flatness_rloss", "avg_flatness_rloss_early_stop"
SPREAD, TRAIN = "avg_flatness_rloss_over_draws", "avg_flatness_rloss_train"
CLEAN = "worst_flatness_loss"
COLUMNS = {  # what is drawn -> axis label
    SPREAD: "std of average-case flatness",
    TRAIN: "average-case flatness (train)",
    CLEAN: "worst-case flatness in Loss", FLAT: "average-case flatness",
}
VIEWS = {
    "std over weight draws": SPREAD, "flatness on training images": TRAIN,
    "worst-case flatness of clean loss": CLEAN,
    "average-case flatness, as in Fig. 1": FLAT,
}

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
measures, _ = runs.collect(methods, profile, seeds, source)
wide = runs.wide(measures)  # a row for each network
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
printed, ours = relations.printed(), relations.means(wide)
tables = {"published": printed, "measured": ours}
pairs = {view: (column, RLOSS) for view, column in VIEWS.items()}
found = relations.correlations(tables, pairs)

table1 = published.table1().index
ax = plots.panels(height=4.4, legend=0.6)[1][0, 0]
plots.scatter(printed, CLEAN, RLOSS, ax, table1, labels=True, crop=True)
view = "worst-case flatness of clean loss"
scatters.heading(ax, "published", found.loc[view, "published"])
columns = ["label", "family", RLOSS, CLEAN]
caption = (
    "Published, CIFAR-10: RLoss on test images against worst-case "
    "flatness of the clean loss. Methods of Table 1 in colour and "
    "named, the others in grey; the title gives Pearson's coefficient "
    "with its 95 % interval."
)
plate.mount(
    ax.figure, printed[columns],
    "stutz2021_fig13_published", caption, profile,
)

# %% tags=["hide-input"]
fig, axes = plots.panels(3, 2, height=3.0, legend=0.6, gap=0.85)
for ax, (view, x) in zip(axes.flat, VIEWS.items()):
    plots.scatter(ours, x, RLOSS, ax, table1, labels=False, crop=True)
    ax.set(xlabel=COLUMNS[x], ylabel="RLoss (test)")
    scatters.heading(ax, found=found.loc[view, "measured"])
helped = ours[ours[STOPPED] < ours[RLOSS]]
titles = ["filled: last; open: stopped", "lower left corner"]
for ax, title in zip(axes[2], titles):
    last, stopped = (FLAT, RLOSS), (FLAT_STOPPED, STOPPED)
    scatters.pairs(helped, last, stopped, ax, table1, legend=False)
    ax.set(xlabel=COLUMNS[FLAT], ylabel="RLoss (test)")
    scatters.heading(ax, title)
ends = helped[[FLAT_STOPPED, STOPPED]]
corner = ends.where(ends <= ends.median())  # the lower half, each way
axes[2, 1].set(
    xlim=plots.limits(corner[FLAT_STOPPED]), ylim=plots.limits(corner[STOPPED])
)
columns += [SPREAD, TRAIN, FLAT, FLAT_STOPPED, STOPPED]
columns += [f"{c}_std" for c in columns if f"{c}_std" in ours]
caption = (
    "Measured here. RLoss on test images against: standard deviation of "
    "average-case flatness over weight draws (upper left), average-case "
    "flatness on training images (upper right), worst-case flatness of "
    "the clean loss (middle left) and, to compare, average-case "
    "flatness as in Fig. 1 (middle right). Last row: RLoss against "
    "average-case flatness at the last epoch (filled) and early-stopped "
    "(open), for all methods whose RLoss early stopping lowers, and its "
    "lower left corner. Methods of Table 1 in colour. Means over seeds, "
    "bars of one standard deviation where there are several seeds; bars "
    "may leave the frame."
)
plate.mount(fig, ours[columns], "stutz2021_fig13_measured", caption, profile)

# %% tags=["hide-input"]
panels = {view: (ours, x, RLOSS) for view, x in VIEWS.items()}
Markdown(plots.outside(panels))

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept.
#
# **What to expect.** The first two measured views look like Fig. 1, the third
# rather like a cloud. In the last row lines lead from filled points down to
# open ones. Of all this the paper prints only the numbers of the third view.

# %% [markdown]
# ## Published, measured, difference
#
# Worst-case flatness of the clean loss, the only one of these measures that is
# printed. `measured` is the mean over seeds, `std` its standard deviation.

# %% tags=["scroll-output"]
table = published.compare(wide, [CLEAN])[CLEAN]
names = published.stutz2021()["label"].to_dict()
table.rename(index=names).rename_axis(None).round(2)

# %% [markdown]
# ### Correlation of each measure with RLoss
#
# `low` to `high` is the 95 % bootstrap interval of Pearson's coefficient; a
# method counts once, by its mean over seeds.

# %%
found.round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that these figures are about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "std-falls", "std-small", "train-flatness", "train-flatness-weaker",
    "clean-worst-weaker", "stopping-helps", "stopping-flattens",
]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
r = found["pearson"].xs("measured", level="source")
clean = found.loc["worst-case flatness of clean loss", "published"]
flatter = helped[FLAT_STOPPED] < helped[FLAT]
Markdown(f"""
At profile `{profile}`, RLoss correlates with the spread of average-case
flatness over draws with Pearson {r['std over weight draws']:.2f}, with flatness
on training images {r['flatness on training images']:.2f} (on test images
{r['average-case flatness, as in Fig. 1']:.2f}), and with worst-case flatness of
the clean loss {r['worst-case flatness of clean loss']:.2f} (published
{clean.pearson:.2f}). The mean spread is {ours[SPREAD].mean():.2f}, against a
mean flatness of {ours[FLAT].mean():.2f}. Early stopping lowers the RLoss of
{len(helped)} of {len(ours)} methods, and {flatter.sum()} of these are flatter
then.
""")

# %% [markdown]
# A spread that falls with flatness is what one expects of a quantity that
# cannot be far below zero: where the mean is small, so is the room to vary. It
# matters for measuring: ten draws rank robust methods more finely than sharp
# ones. As far as training images serve as well as test images, flatness can be
# watched without touching the test set.
