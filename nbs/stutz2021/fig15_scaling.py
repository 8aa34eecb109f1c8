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
# # Fig. 15: scaling the weights changes nothing but the curvature
#
# **Claim.** With batch norm after each convolution, multiplying the weights of
# the convolutions by a constant leaves the network's predictions, its landscape
# along scaled directions, and its flatness as they are; the eigenvalues of the
# Hessian change with the square of the constant.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "at"  # the method whose network is scaled
seeds: list = [0]  # one network per seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
COLORS, DASHES = ("#000000", "#56B4E9", "#E69F00"), ("-", "--", ":")
ROWS = {  # (measure, split): heading
    ("rerr", "test"): "RErr, test", ("rerr", "train"): "RErr, train",
    ("rloss", "test"): "RLoss, test", ("rloss", "train"): "RLoss, train",
    ("avg_flatness_rloss", "test"): "average-case flatness, RLoss",
    ("worst_flatness_rloss", "test"): "worst-case flatness, RLoss",
    ("worst_flatness_loss", "test"): "worst-case flatness, Loss",
    ("lambda_max", "test"): "λ_max",
    ("convexity", "test"): "|λ_min| / |λ_max|",
}

# %% tags=["hide-input"]
name = next(iter(runs.named(methods)))
suites = ("default", "lines", "hessian", "scaled")
runs.train_missing(name, profile, seeds, source, suites, workers=workers)
measures, _ = runs.collect(name, profile, seeds, source, suites)
wide = runs.wide(measures)
measures = training_curves.versions(measures)  # "at", "at, scaled-0.5", ...
models = {name: "× 1", f"{name}, scaled-0.5": "× 0.5",
          f"{name}, scaled-2": "× 2"}
measures = measures[measures["model"].isin(models)]
Markdown(f"{plots.caption(measures)} {training_curves.described(measures)}")

# %% tags=["hide-input"]
robust = measures[measures["attack"] != "aa"]
table = robust.groupby(["measure", "split", "model"])["value"].mean()
table = table.unstack("model").reindex(columns=list(models))
small = table.reindex(list(ROWS)).rename(columns=models)
small.index = list(ROWS.values())

fig, axes = plots.panels(1, 2, width=7.0, height=3.4)
sides = {"line_random": ("random", -1), "line_adversarial": ("adversarial", 0)}
colors, lines = dict(zip(models, COLORS)), dict(zip(models, DASHES))
for ax, (measure, (kind, start)) in zip(axes[0], sides.items()):
    legend = "best" if start else ""
    curves.along(measures, measure, colors, ax, models, start, legend, lines)
    with plots.style():
        ax.set(xlabel=f"s, {kind} directions", ylabel="RLoss (test)")
        ax.label_outer()
curves.share(axes, low=0)
fig.subplots_adjust(wspace=0.06)
caption = (
    "RLoss of AT and of the same network with its convolutions "
    "multiplied by 0.5 and 2, along random directions (left, mean) and "
    "adversarial ones (right, maximum), all scaled layer by layer with "
    "the weights; measured. Curves that coincide are drawn on top of "
    "each other."
)
plate.mount(fig, small, "stutz2021_fig15", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, one network is trained
# and it and its two scaled versions are measured: at `digits` a few minutes on
# two CPU cores; the `cifar10` profiles need a GPU. What was finished once is
# kept.
#
# **What to expect.** Three curves on top of each other, in both panels, and a
# table of equal columns but for one row.
#
# All convolutions of the trained network, biases included, are multiplied by
# 0.5 and by 2; batch norm's statistics are scaled to fit. Nothing is trained
# again.

# %% [markdown]
# ## Published, measured, difference
#
# Table 2 prints the largest eigenvalue and the ratio of the smallest to the
# largest (in size) of all three. Printed eigenvalues are sums over four
# batches; a quarter of them is set beside ours, which are of the mean loss.

# %%
printed = published.table2().rename(columns={"convexity_ratio": "convexity"})
printed["lambda_max"] /= published.SUMMED
rows = [
    (ROWS[row], label, printed[row[0]].get(model), table.at[row, model])
    for row in ROWS if row[0] in printed and row in table.index
    for model, label in models.items()
]
columns = ["measure", "network", "published", "measured"]
beside = pd.DataFrame(rows, columns=columns).set_index(columns[:2])
beside["difference"] = beside["measured"] - beside["published"]
beside.astype(float).round(3)

# %% [markdown]
# The small table beside the published figure, measured here: one column for
# each network.

# %%
small.rename_axis(columns=None).round(3)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["scaling-lambda", "scaling-robustness", "scaling-flatness"]
ours = {"wide": wide, "tidy": measures.drop(columns="model")}
claims.table({"published": claims.printed(), "measured": ours}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
ratio = small.div(small["× 1"], axis=0)
moved = (ratio.drop(["λ_max", "|λ_min| / |λ_max|"]) - 1).abs().max(axis=1)
Markdown(f"""
At profile `{profile}`, λ_max of the network scaled by 0.5 and 2 is
**{ratio.loc['λ_max', '× 0.5']:.2f}** and **{ratio.loc['λ_max', '× 2']:.2f}**
times that of the original. Of robustness and flatness, what changes most is
{moved.idxmax()}, by {moved.max():.1%}.
""")

# %% [markdown]
# A small network has weights of half the length and a landscape of half the
# width: in its own units it is the same. Curvature is measured in absolute
# units, so it can be made as small as one likes by scaling, and says nothing by
# itself about robustness. What remains of differences comes from the random
# starts of attacks and from batch norm's small constant.
