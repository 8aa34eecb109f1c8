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
# # Fig. 10: along the direction of largest curvature
#
# **Claim.** Along the eigenvector of the largest eigenvalue of the Hessian,
# RLoss rises steeply for all methods; neither this nor the eigenvalue itself
# tells which network is more robust.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
ROWS = {  # title: method and colour
    "batch size, optimiser, labels, data": {
        "at": "#000000", "batch8": "#009E73", "adam": "#0072B2",
        "smooth0.3": "#56B4E9", "ssl4": "#CC79A7",
    },
    "losses and flat minima": {
        "at": "#000000", "entropy1": "#E69F00", "trades6": "#009E73",
        "mart6": "#882255", "awp0.01": "#D55E00",
    },
}
RERR = "rerr_test_aa"

# %% tags=["hide-input"]
known = runs.named(methods)
models = [name for part in ROWS.values() for name in part]
shown = [name for name in dict.fromkeys(models) if name in known] or list(known)
suites = ("default", "lines", "hessian")
runs.train_missing(shown, profile, seeds, source, suites, workers=workers)
measures, _ = runs.collect(shown, profile, seeds, source, suites)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
lines = training_curves.versions(measures)
lines = lines[lines["measure"] == "line_hessian"]
Markdown(f"{plots.caption(measures)} {training_curves.described(lines)}")

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()

fig, axes = plots.panels(rows=2, height=3.2)
for ax, (title, colors) in zip(axes[:, 0], ROWS.items()):
    curves.along(lines, "line_hessian", colors, ax, names, legend="right")
    with plots.style():
        ax.set_title(title, loc="left")
        ax.set(ylabel="RLoss (test)", yscale="log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.label_outer()
curves.share(axes)
fig.subplots_adjust(right=0.72, hspace=0.22)
columns = ["model", "seed", "measure", "at", "value", "n"]
caption = (
    "RLoss along the eigenvector of the largest eigenvalue of the "
    "Hessian of the clean loss, scaled layer by layer to half the "
    "length of the weights at s = 1 and -1, measured. The network lies "
    "at s = 0; the axis is logarithmic. AT in black in both panels."
)
plate.mount(fig, lines[columns], "stutz2021_fig10", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the networks drawn here
# are trained and measured: at `digits` some minutes on two CPU cores; the
# `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** Walls on both sides of s = 0, so steep that the axis is
# logarithmic, with no clear order by robust error (RErr).

# %% [markdown]
# ## Published, measured, difference
#
# Table 2 prints the largest eigenvalue, the ratio of the smallest to the
# largest (in size), and RErr by AutoAttack. The printed eigenvalues are sums
# over four batches; a quarter of them is set beside ours, which are of the mean
# loss.

# %%
printed = published.table2().rename(columns={"convexity_ratio": "convexity"})
printed["lambda_max"] /= published.SUMMED
headings = {
    "lambda_max": ("λ_max", 1), "convexity": ("|λ_min| / |λ_max|", 3),
    RERR: ("RErr", 3),
}
table = published.compare(wide, list(headings), printed).reindex(shown)
table = table.rename(index=names).rename_axis(None)
for column, (heading, digits) in headings.items():
    display(Markdown(f"**{heading}**"), table[column].round(digits))

# %% [markdown]
# How these and the rise of RLoss along the eigenvector (mean of both ends,
# minus the middle) go together over the methods, as Spearman's coefficients:

# %%
rise = training_curves.rises(lines).groupby("model").mean()
rise = rise.reindex(columns=["line_hessian"])
ours = wide.groupby("method")[["lambda_max", "convexity", RERR]].mean()
ours = ours.join(rise).rename(
    columns={"line_hessian": "rise", RERR: "RErr"}
)
ours.corr("spearman").round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["lambda-across", "convexity-across", "convexity-small"]
measured = {"wide": wide, "tidy": measures}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
ranks = ours.corr("spearman")["RErr"]
least, most = ours["rise"].idxmin(), ours["rise"].idxmax()
Markdown(f"""
At profile `{profile}`, over {len(ours)} methods, RErr has a rank correlation of
{ranks['lambda_max']:.2f} with λ_max and of {ranks['rise']:.2f} with the rise of
RLoss along its eigenvector. This rise is smallest for
{names.get(least, least)} ({ours['rise'].min():.3g}) and largest for
{names.get(most, most)} ({ours['rise'].max():.3g}).
""")

# %% [markdown]
# The eigenvector is the direction in which the *clean* loss bends most, within
# a distance so small that the loss is a parabola. The figure goes much
# further, and follows RLoss. That both pictures differ is no error of either:
# curvature at a point is not flatness of a neighbourhood. It also depends on
# the scale of the weights, which changes nothing else (Fig. 15). That λ_max
# orders the networks drawn here by RErr, where it does, is weak evidence with
# so few; the [ledger](../ledger.ipynb) asks all that are measured.
