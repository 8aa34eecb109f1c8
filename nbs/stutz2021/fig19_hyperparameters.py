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
# # Fig. 19: the settings of all methods, in groups
#
# **Claim.** Settings of a method with a lower robust loss (RLoss) have flatter
# minima, for nearly all methods. The exception is weight clipping: stronger
# clipping lowers RLoss but not average-case flatness. Its worst-case flatness
# falls in line with RLoss.

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
RLOSS = "rloss_test_pgd"
AVERAGE, WORST = "avg_flatness_rloss", "worst_flatness_rloss"
FLATTERS = ["clip", "entropy", "awp"]
VIEWS = {  # view -> settings, flatness
    "schedules": (["lr", "const", "cyclic"], AVERAGE),
    "labels, decay": (["smooth", "noise", "wd"], AVERAGE),
    "made to flatten": (FLATTERS, AVERAGE),
    "loss and data": (["ssl", "mart", "trades"], AVERAGE),
    "made to flatten, worst case": (FLATTERS, WORST),
}
AXES = {AVERAGE: "average-case flatness", WORST: "worst-case flatness"}

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
measures, _ = runs.collect(methods, profile, seeds, source)
wide = runs.wide(measures)  # a row for each network
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
printed, ours = relations.printed(), relations.means(wide)

fig, axes = plots.panels(3, 2, height=3.0, gap=0.85)
for ax, (view, (sweeps, x)) in zip(axes.flat, VIEWS.items()):
    single = ["late"] if view == "schedules" else []
    scatters.sweeps(
        printed, sweeps, x, RLOSS, ax, single=single, legend=False
    )
    ax.set(xlabel=AXES[x], ylabel="RLoss (test)")
    scatters.heading(ax, view)
scatters.key(fig, axes[2, 1])
columns = ["label", "family", RLOSS, AVERAGE, WORST]
every = sorted({name for sweeps, _ in VIEWS.values() for name in sweeps})
swept = [m for name in every for m in relations.settings(printed, name).index]
rows = printed.index.isin(["at", "late", *swept])
caption = (
    "Published, CIFAR-10: RLoss on test images against flatness for the "
    "settings of methods in groups; numbers are the settings, dotted "
    "lines least-squares lines, the star is AT. The first four views "
    "show average-case flatness, the fifth worst-case flatness of the "
    "methods of the third."
)
plate.mount(
    fig, printed.loc[rows, columns],
    "stutz2021_fig19_published", caption, profile,
)

# %% tags=["hide-input"]
fig, axes = plots.panels(3, 2, height=3.0, gap=0.85)
for ax, (view, (sweeps, x)) in zip(axes.flat, VIEWS.items()):
    single = ["late"] if view == "schedules" else []
    scatters.sweeps(
        ours, sweeps, x, RLOSS, ax, single=single, legend=False
    )
    ax.set(xlabel=AXES[x], ylabel="RLoss (test)")
    scatters.heading(ax, view)
scatters.key(fig, axes[2, 1])
columns += [f"{c}_std" for c in columns if f"{c}_std" in ours]
rows = ours.index.isin(["at", "late", *swept])
caption = (
    "Measured here, the same views. Means over seeds."
)
plate.mount(
    fig, ours.loc[rows, columns],
    "stutz2021_fig19_measured", caption, profile,
)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept. `methods = "table1"` has one setting of
# each method, so no lines.
#
# **What to expect.** Diagonals in each view of the published figure, except for
# weight clipping in the third, which the fifth puts right, and the learning
# rate in the first. A misprint takes one of its three points away there (see
# Fig. 1).

# %% [markdown]
# ## Published, measured, difference
#
# Worst-case flatness of the methods of the fifth view; `measured` is the mean
# over seeds, `std` its standard deviation. Fig. 1 has the tables of RLoss and
# average-case flatness.

# %%
fifth = [m for n in FLATTERS for m in relations.settings(printed, n).index]
table = published.compare(wide, [WORST])[WORST]
names = published.stutz2021()["label"].to_dict()
table = table[table.index.isin(fifth)].rename(index=names)
table.rename_axis(None).round(2)

# %% [markdown]
# ### Trend of each method
#
# The number of settings, the slope of the least-squares line (RLoss for one
# unit of flatness), and Spearman's coefficient: 1 if RLoss and flatness put the
# settings in the same order. With so few settings a coefficient is no proof.

# %%
trends = pd.concat({
    source: pd.concat({
        view: relations.slopes(df, sweeps, x, RLOSS)
        for view, (sweeps, x) in VIEWS.items()
    })
    for source, df in {"published": printed, "measured": ours}.items()
}, axis=1)
trends.round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that these figures are about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["sweeps", "clipping-reversed", "clipping-worst-case"]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
slope = trends.xs("slope", axis=1, level=1)
rising, lines = (slope > 0).sum(), slope.notna().sum()
clip = slope.xs(relations.SWEEPS["clip"], level=1).round(2)
average, worst = clip.itertuples(index=False)
Markdown(f"""
Published, {rising['published']} of {lines['published']} lines rise; measured at
profile `{profile}`, {rising['measured']} of {lines['measured']}. For weight
clipping the slope over average-case flatness is {average.measured:.2f}
(published {average.published:.2f}), over worst-case flatness
{worst.measured:.2f} (published {worst.published:.2f}).
""")

# %% [markdown]
# Clipping holds the weights small, and a perturbation relative to small weights
# is a small one; the network makes up for it by spreading its work over many
# weights. Whether that helps against random or against chosen perturbations is
# a question of its own, so the two kinds of flatness need not agree. With three
# settings, two of them at a loose bound, the sign of a slope is thin evidence,
# here and in the paper.
