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
# # Fig. 12: flatness throughout training, at three radii
#
# **Claim.** Worst-case flatness of the clean loss rises during robust
# overfitting as flatness of RLoss does, average-case flatness of the clean loss
# less so; in too small a ball changes are hard to see, in too large a one
# worst-case flatness gets unreasonably high.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "at"  # the method whose training is followed
seeds: list = [0]  # one network per seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
PAIRS = [(0.25, 0.001), (0.5, 0.003), (0.75, 0.005)]  # average, worst case
Y = "rloss_test_pgd"
LINES = {  # what is drawn over the epochs: label, colour, line
    Y: ("RLoss, test", "#0072B2", "-"),
    "rloss_train_pgd": ("RLoss, train", "#56B4E9", ":"),
    "avg_flatness_rloss": ("average case, RLoss", "#000000", "-"),
    "avg_flatness_loss": ("average case, Loss", "#777777", "--"),
    "worst_flatness_rloss": ("worst case, RLoss", "#D55E00", "-"),
    "worst_flatness_loss": ("worst case, Loss", "#E69F00", "--"),
    "lambda_max": ("λ_max", "#009E73", "-."),
}
FLAT = [column for column in LINES if "flatness" in column]

# %% tags=["hide-input"]
name = next(iter(runs.named(methods)))
suites = ("default", "training", "training_worst", "training_radii")
runs.train_missing(name, profile, seeds, source, suites, workers=workers)
measures, history = runs.collect(name, profile, seeds, source, suites)
wide = runs.wide(measures)
tables = {pair: training_curves.snapshots(measures, *pair) for pair in PAIRS}
own = measures[measures["asked"] != "radii"]
Markdown(f"{plots.caption(own)} {training_curves.described(measures)}")

# %% tags=["hide-input"]
found = {}
for (average, worst), run in tables.items():
    there = [column for column in [*FLAT, "lambda_max"] if column in run]
    ranks = run[[Y, *there]].corr("spearman")[Y][there]
    pair = f"{average} / {worst}"
    found["rank correlation", pair] = ranks
    found["largest", pair] = run[there].max()
found = pd.DataFrame(found).reindex([*FLAT, "lambda_max"])
found = found.rename(index={column: LINES[column][0] for column in LINES})

fig, axes = plots.panels(rows=3, width=6.4, height=3.2)
for ax, ((average, worst), run) in zip(axes[:, 0], tables.items()):
    curves.over_epochs(run, LINES, ax, legend="right", log=True)
    with plots.style():
        title = f"ξ = {average} (average case), {worst} (worst case)"
        ax.set_title(title, loc="left")
        ax.set_ylabel("RLoss, flatness, λ_max")
        ax.label_outer()
curves.share(axes)
fig.subplots_adjust(right=0.68, hspace=0.24)
numbers = pd.concat(tables, names=["average", "worst", "row"])
caption = (
    "Training of AT, measured at every tenth epoch, for three pairs of "
    "radii ξ: RLoss on test and training images, average-case and "
    "worst-case flatness of RLoss (solid) and of the clean loss "
    "(dashed), and the largest eigenvalue λ_max of the Hessian of the "
    "clean loss. The axes are logarithmic, equal steps are equal "
    "factors, and the same in all panels. Upright, dotted: the learning "
    "rate is lowered for the first time."
)
plate.mount(fig, numbers.droplevel("row"), "stutz2021_fig12", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, one network is trained
# and measured at every tenth epoch and several radii: at `digits` some minutes
# on two CPU cores; the `cifar10` profiles need a GPU. What was finished once is
# kept.
#
# **What to expect.** The same curves three times, ever larger. In the paper
# they rise after the first fall of the learning rate, on the digits mostly
# before it; the clean average case rises least.

# %% [markdown]
# ## Published, measured, difference
#
# Printed are the ends of the curves in the middle panel: flatness of the last
# network at ξ = 0.5 (average case) and ξ = 0.003 (worst case), in Table 5.

# %%
printed = published.stutz2021()
usual = tables[PAIRS[1]]
last = usual.groupby(["method", "seed"]).last()
last = last[[column for column in FLAT if column in last]]
table = published.compare(last, FLAT, printed).loc[name].unstack()
parts = ["published", "measured", "std", "difference"]
table = table.reindex(FLAT, columns=parts).dropna(axis=1, how="all")
words = {column: plots.axis_label(column, usual) for column in table.index}
table.rename(words).round(2)

# %% [markdown]
# How each measure goes together with test RLoss over the snapshots, as
# Spearman's coefficients, and its largest value. Columns: the radii of average
# and worst case.

# %%
found.sort_index(axis=1, ascending=[False, True]).round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "training-lambda", "training-clean-average", "training-clean-worst",
    "training-small-radius", "training-large-radius",
]
measured = {"wide": wide, "history": history, "tidy": measures}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
middle = tables[PAIRS[1]].sort_values("progress")
there = [column for column in FLAT if column in middle]
low, end = middle.loc[middle[Y].idxmin()], middle.iloc[-1]
label = relations.printed()["label"].get(name, name)
Markdown(f"""
At profile `{profile}`, over {len(middle)} snapshots of {label}, from the one of
lowest test RLoss (at {low['progress']:.0%} of the training) to the last, RLoss
goes from {low[Y]:.2f} to {end[Y]:.2f} and, at the radii of the main paper,
{'; '.join(f'{LINES[column][0]} from {low[column]:.2f} to {end[column]:.2f}'
    for column in there)}.
""")

# %% [markdown]
# The radius is a choice, and it decides what is seen. In a very small ball a
# network hardly changes, and noise hides the rest; in a large one it is a
# different network, whose loss says little about the minimum. Between these the
# curves have one shape at several radii, which is what makes flatness a
# property of the network and not of the ruler.
