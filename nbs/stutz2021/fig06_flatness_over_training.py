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
# # Fig. 6: flatness throughout training
#
# **Claim.** As robust overfitting sets in, minima become sharper: within one
# training run RLoss on test images, average-case and worst-case flatness rise
# together; methods that overfit less stay flatter.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
SHOWN = ["at", "ssl4", "awp0.01", "unlabeled"]
X, X2, Y = "avg_flatness_rloss", "worst_flatness_rloss", "rloss_test_pgd"
PANELS = {  # axis label: what is drawn over the epochs (label, colour, line)
    "RLoss": {Y: ("test", "#0072B2", "-"),
              "rloss_train_pgd": ("train", "#56B4E9", ":")},
    "average case": {X: ("average-case flatness in RLoss", "#000000", "-")},
    "worst case": {X2: ("worst-case flatness in RLoss", "#D55E00", "-")},
    "λ_max": {"lambda_max": ("λ_max of the clean loss", "#009E73", "-")},
}
BEST = 60 / 150  # Sec. 4.2: the best epoch, over all epochs

# %% tags=["hide-input"]
known = runs.named(methods)
shown = [name for name in SHOWN if name in known] or list(known)
suites = ("default", "training", "training_worst")
runs.train_missing(shown, profile, seeds, source, suites, workers=workers)
measures, history = runs.collect(shown, profile, seeds, source, suites)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
table = training_curves.snapshots(measures)
Markdown(f"{plots.caption(measures)} {training_curves.described(measures)}")

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()
measured = [name for name in (X, X2, "lambda_max") if name in table]
ranks = {}
for name, run in table.groupby("method", sort=False):
    later = run[run["progress"] >= run.loc[run[Y].idxmin(), "progress"]]
    for when, part in {"whole training": run, "overfitting": later}.items():
        found = part[[Y, *measured]].corr("spearman")[Y]
        enough = len(part) > 3
        ranks[names.get(name, name), when] = (
            found[measured] if enough else found[measured] * np.nan
        )

first = table[table["method"] == shown[0]]
fig, axes = plots.panels(rows=len(PANELS), height=1.7)
for ax, (label, columns) in zip(axes[:, 0], PANELS.items()):
    curves.over_epochs(first, columns, ax)
    with plots.style():
        ax.set(ylim=(0, None), ylabel=label)
        ax.legend(loc="lower right")
        ax.label_outer()
fig.subplots_adjust(hspace=0.12)
caption = (
    "AT, measured at every tenth epoch: RLoss on test and training "
    "images, average-case and worst-case flatness in RLoss, and the "
    "largest eigenvalue λ_max of the Hessian of the clean loss. "
    "Upright, dotted: the learning rate is lowered for the first time; "
    "in the paper this is the best epoch."
)
plate.mount(fig, table, "stutz2021_fig06", caption, profile)

# %% tags=["hide-input"]
fig, axes = plots.panels(len(shown), 2, height=2.3, legend=0.5)
for row, name in zip(axes, shown):
    part = table[table["method"] == name]
    for ax, x in zip(row, (X, X2)):
        title = names.get(name, name) if x == X else ""
        curves.path(part, x, Y, ax, title)
        kind = "average" if x == X else "worst"
        ax.set(xlabel=f"{kind}-case flatness in RLoss", ylabel="RLoss (test)")
        ax.label_outer()
for column, x in zip(axes.T, (X, X2)):
    curves.frame(column, table, x, Y)
curves.progress_bar(fig)
fig.subplots_adjust(hspace=0.25, wspace=0.08)
caption = (
    "RLoss on test images against flatness over the epochs of training, "
    "from blue (early) to red (late), the last network ringed. Left "
    "average case, right worst case; AT and three methods that overfit "
    "less. Networks of the first epochs may lie outside the panels."
)
plate.mount(
    fig, table[["method", "seed", "epoch", Y, *measured]],
    "stutz2021_fig06_paths", caption, profile,
)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, four networks are trained
# and each is measured at every tenth epoch: at `digits` several minutes on two
# CPU cores; the `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** Curves that rise together: in the paper after the first
# fall of the learning rate (dotted), on the digits already before it; and paths
# that climb to the upper right, far for AT, little for the others.
#
# Stored networks of every tenth epoch, and the last one, are measured as the
# last one is elsewhere; λ_max is the largest eigenvalue of the Hessian of the
# clean loss.

# %% [markdown]
# ## Published, measured, difference
#
# Of the curves two points are printed: those of the last network, and RLoss of
# the early-stopped one. λ_max is printed in Table 2, as the sum over four
# batches; here it is of the mean loss, so a quarter of the printed value is set
# beside it.

# %%
headings = {
    Y: "RLoss, test, last",
    "rloss_early_stop_pgd": "RLoss, test, early-stopped",
    X: plots.axis_label(X, wide), X2: plots.axis_label(X2, wide),
    "lambda_max": "λ_max",
}
curvature = published.table2()["lambda_max"] / published.SUMMED
printed = published.stutz2021().join(curvature)
last = table.groupby(["method", "seed"]).last()
wide = wide.join(last[last.columns.difference(wide.columns)])
beside = published.compare(wide, list(headings), printed).reindex(shown)
beside = beside.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), beside[column].round(2))

# %% [markdown]
# How the measures go together over the snapshots of a run, as Spearman's
# coefficients with test RLoss: over the whole training, and from the snapshot
# of lowest test RLoss on (where robust overfitting is).

# %%
pd.DataFrame(ranks).T.round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "overfits-after-drop", "training-average", "training-worst",
    "training-sharper", "training-variants", "training-lambda",
]
ours = {"wide": wide, "history": history, "tidy": measures}
claims.table({"published": claims.printed(), "measured": ours}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
run = first.sort_values("progress")
low, end = run.loc[run[Y].idxmin()], run.iloc[-1]
growth = {
    names.get(name, name): part[X].iloc[-1] - part.loc[part[Y].idxmin(), X]
    for name, part in table.groupby("method", sort=False)
}
Markdown(f"""
At profile `{profile}`, over {len(run)} snapshots of {names.get(shown[0])}, test
RLoss is lowest at {low['progress']:.0%} of the training (published: the best
epoch at {BEST:.0%}). From there to the end RLoss goes from {low[Y]:.2f} to
{end[Y]:.2f} and average-case flatness from {low[X]:.2f} to {end[X]:.2f}. From
the snapshot of lowest RLoss to the last, average-case flatness changes by
{', '.join(f'{value:+.2f} ({name})' for name, value in growth.items())}.
""")

# %% [markdown]
# Where a method overfits, as AT does, all measures mirror it, λ_max too; where
# one does not, they need not. That they go up together does not say which of
# them causes which: as the network grows more sure of its training images its
# logits grow, and with them every loss and every change of a loss. Across
# methods, where fits differ, only some of the measures remain telling: see Fig.
# 8 and Table 2.
