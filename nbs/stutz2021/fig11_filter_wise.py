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
# # Fig. 11: directions scaled filter by filter
#
# **Claim.** Scaling random directions filter by filter in place of layer by
# layer makes the landscape look flatter, but changes little else.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
SCALED = {"at, scaled-0.5": "AT × 0.5", "at, scaled-2": "AT × 2"}
LINES = dict(zip(SCALED, ("--", ":")))  # they lie on top of AT
ROWS = {  # what is compared: model and colour
    "scale, batch size, optimiser": {
        "at": "#000000", "at, scaled-0.5": "#56B4E9",
        "at, scaled-2": "#E69F00", "batch8": "#009E73", "adam": "#CC79A7",
    },
    "methods": {
        "at": "#000000", "smooth0.3": "#56B4E9", "ssl4": "#CC79A7",
        "entropy1": "#E69F00", "trades6": "#009E73", "mart6": "#882255",
        "awp0.01": "#D55E00",
    },
}
RERR = "rerr_test_aa"

# %% tags=["hide-input"]
known = runs.named(methods)
models = [model for part in ROWS.values() for model in part]
shown = [name for name in dict.fromkeys(models) if name in known] or list(known)
suites = ("default", "lines")
runs.train_missing(shown, profile, seeds, source, suites, workers=workers)
measures, _ = runs.collect(shown, profile, seeds, source, suites)
shown = [name for name in shown if name in set(measures["method"])]
caption = plots.caption(measures)
if "at" in shown:
    runs.train_missing("at", profile, seeds, source, "scaled", workers=workers)
    scaled, _ = runs.collect("at", profile, seeds, source, "scaled")
    measures = pd.concat([measures, scaled], ignore_index=True)
wide = runs.wide(measures)
measures = training_curves.versions(measures)  # "at", "at, scaled-0.5", ...
lines = measures[measures["measure"].isin(["line_random", "line_filter"])]
Markdown(f"{caption} {training_curves.described(lines)}")

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict() | SCALED

fig, axes = plots.panels(2, 2, width=7.0, height=3.6)
sides = {"line_random": "layer by layer", "line_filter": "filter by filter"}
for row, colors in zip(axes, ROWS.values()):
    for ax, (measure, kind) in zip(row, sides.items()):
        legend = "" if measure == "line_filter" else "row"
        curves.along(
            lines, measure, colors, ax, names, -1, legend, LINES
        )
        with plots.style():
            ax.set(xlabel=f"s, {kind}", ylabel="RLoss")
            ax.label_outer()
for row in axes:
    curves.share(row, low=0)
fig.subplots_adjust(hspace=0.3, wspace=0.08)
columns = ["model", "seed", "measure", "at", "value", "std", "draws", "n"]
caption = (
    "Mean RLoss over random directions in weight space, measured; the "
    "network lies at s = 0. Left: directions scaled layer by layer (as "
    "in Fig. 4), right: filter by filter, to half the length of the "
    "weights at s = 1 and -1."
)
plate.mount(fig, lines[columns], "stutz2021_fig11", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the networks drawn here
# are trained and measured: at `digits` some minutes on two CPU cores; the
# `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** The curves of Fig. 4 again, wider, in nearly the same
# order.

# %% [markdown]
# ## Published, measured, difference
#
# The lines have no printed numbers; what the paper prints of these networks is
# RErr by AutoAttack (Table 2), in percent.

# %%
table = published.compare(wide, [RERR], published.table2())[RERR]
table.reindex(shown).mul(100).rename(names).rename_axis(None).round(1)

# %% [markdown]
# What the lines say: how much higher RLoss is at the ends (mean of both) than
# in the middle, in both ways of scaling, and the ratio.

# %%
rises = training_curves.rises(lines).groupby("model").mean()
rises = rises.reindex([model for model in dict.fromkeys(models)
                       if model in rises.index])
rises = rises.reindex(columns=["line_random", "line_filter"])
rises.columns = ["layer by layer", "filter by filter"]
rises["ratio"] = rises["filter by filter"] / rises["layer by layer"]
rises.rename(names).rename_axis(None).round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["filter-flatter"]
measured = {"wide": wide, "tidy": measures}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
order = rises[["layer by layer", "filter by filter"]].corr("spearman")
Markdown(f"""
At profile `{profile}`, RLoss rises filter by filter {rises['ratio'].min():.2f}
to {rises['ratio'].max():.2f} times as much as layer by layer. The rank
correlation between both, over {len(rises)} networks, is
**{order.iloc[0, 1]:.2f}**: near 1 means that the picture orders the networks
alike.
""")

# %% [markdown]
# A filter of small weights gets a small step when each filter is scaled for
# itself, and an equal one when only the layer is. So the two ways differ most
# for networks with many filters that hardly count, as strong weight decay
# leaves them. The paper takes layers, so that biases have a place too.
