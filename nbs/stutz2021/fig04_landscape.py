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
# # Fig. 4: what one sees of flatness, and what not
#
# **Claim.** A look at RLoss along lines in weight space does not tell how flat
# a minimum is: scaling the weights changes nothing, networks that are more
# robust need not look flatter, and what is flat along random lines can be sharp
# along adversarial ones.

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
Markdown(f"{caption} {training_curves.described(measures)}")

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict() | SCALED
rerr = wide.groupby("method")[RERR].mean()

fig, axes = plots.panels(2, 2, width=7.0, height=3.6)
labels = {
    model: f"{names.get(model, model)}, {rerr[model]:.0%}"
    if model in rerr.index else names.get(model, model) for model in models
}
sides = {"line_random": -1, "line_adversarial": 0}
for row, colors in zip(axes, ROWS.values()):
    for ax, (measure, start) in zip(row, sides.items()):
        legend = "row" if start else ""
        curves.along(
            measures, measure, colors, ax, labels, start, legend, LINES
        )
        kind = measure.removeprefix("line_")
        with plots.style():
            ax.set(xlabel=f"s, {kind} directions", ylabel="RLoss")
            ax.label_outer()
for row in axes:
    curves.share(row, low=0)
fig.subplots_adjust(hspace=0.3, wspace=0.08)
lines = measures[measures["measure"].isin(list(sides))]
columns = ["model", "seed", "measure", "at", "value", "std", "draws", "n"]
caption = (
    "RLoss along lines in weight space through the network at s = 0, "
    "measured. Left: mean over random directions, s = 1 is a move by "
    "half the length of each layer. Right: maximum over adversarial "
    "directions, s = 1 is a move by a fortieth. Above: AT, the same "
    "network scaled, and AT with small batches or Adam. Below: AT and "
    "other methods. Curves of AT and of its scaled versions lie on top "
    "of each other. In the names: RErr under AutoAttack."
)
plate.mount(fig, lines[columns], "stutz2021_fig04", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, ten networks are trained
# and RLoss is taken at every point of many lines: at `digits` some minutes on
# two CPU cores; the `cifar10` profiles need a GPU. What was finished once is
# kept.
#
# **What to expect.** Valleys around s = 0 along random lines, slopes along
# adversarial ones, where a step twenty times shorter does more.

# %% [markdown]
# ## Published, measured, difference
#
# The lines have no printed numbers; the networks have, in Table 2: RErr by
# AutoAttack, in percent. That of the scaled networks is by PGD here; they are
# the network of AT, scaled after training.

# %%
printed = published.table2()[[RERR]]
weak = measures[(measures["measure"] == "rerr") & (measures["split"] == "test")]
weak = weak[weak["model"].isin(SCALED)].groupby("model")["value"].mean()
table = pd.DataFrame({
    "published": printed[RERR], "measured": pd.concat([rerr, weak]),
})
table["difference"] = table["measured"] - table["published"]
table = table.reindex(dict.fromkeys([*printed.index, *shown]))
table.mul(100).rename(names).rename_axis(None).round(1)

# %% [markdown]
# What the lines say: RLoss in the middle, and how much higher it is at the end
# (random: mean of both ends; adversarial: at s = 1).

# %%
rises = training_curves.rises(measures).groupby("model").mean()
rises = rises.drop(columns="line_hessian", errors="ignore")
rises = rises.reindex([model for model in dict.fromkeys(models)
                       if model in rises.index])
rises.rename(names).rename_axis(None).round(2)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "scaling-robustness", "small-batch-sharp", "awp-adversarial",
]
measured = {"wide": wide, "tidy": measures}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
ours = rises.join(rerr.rename("rerr")).dropna()
ranks = ours.corr("spearman")["rerr"]
Markdown(f"""
At profile `{profile}`, the rank correlation between RErr and the rise of RLoss
over {len(ours)} networks is {ranks.get('line_random', float('nan')):.2f} along
random and {ranks.get('line_adversarial', float('nan')):.2f} along adversarial
directions. Flattest to the eye, along random directions, is
{names.get(rises['line_random'].idxmin(), 'none')} with a rise of
{rises['line_random'].min():.2f}; along adversarial ones
{names.get(rises['line_adversarial'].idxmin(), 'none')} with
{rises['line_adversarial'].min():.2f}.
""")

# %% [markdown]
# The scaled networks lie on top of the original one, because directions are
# scaled with the weights: without that, one could make any network look as flat
# as one likes. Apart from this, eyes are poor judges: that the rises order
# these networks by RErr, where they do, is weak evidence with so few of them.
# Curves differ in height as well as in shape, and some hundred lines through a
# space of many thousand dimensions are few. That is why the paper measures
# flatness as a number.
