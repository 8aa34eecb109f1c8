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
# # Fig. 16: handling incorrectly classified examples
#
# **Claim.** RLoss is highest on test images that are wrong even without attack,
# yet neither leaving such images unattacked in training, nor attacking the
# predicted in place of the true label, lessens robust overfitting. MART, which
# weighs them in its loss, does.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]

import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, published, relations, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
COLORS = {  # method: colour
    "at": "#000000", "ignore-incorrect": "#0072B2", "no-leaking": "#CC79A7",
    "mart6": "#D55E00",
}
Y, STOPPED = "rloss_test_pgd", "rloss_early_stop_pgd"

# %% tags=["hide-input"]
known = runs.named(methods)
shown = [name for name in COLORS if name in known] or list(known)
runs.train_missing(shown, profile, seeds, source, workers=workers)
measures, history = runs.collect(shown, profile, seeds, source)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
names = relations.printed()["label"].to_dict()

fig, axes = plots.panels(rows=2, height=2.9, legend=0.65)
colors = {name: color for name, color in COLORS.items() if name in shown}
groups = {
    "incorrect": {"test_incorrect": "--"},
    "all and correct": {"test": "-", "test_correct": ":"},
}
for ax, (title, lines) in zip(axes[:, 0], groups.items()):
    curves.compare(history, colors, "rloss", ax, lines, names, legend="")
    curves.headroom(ax)
    with plots.style():
        ax.set_title(title, loc="left")
        ax.label_outer()
lines = {"all": "-", "correct": ":", "incorrect": "--"}
curves.key(fig, lines, colors, names)
caption = (
    "Test RLoss during training, measured: on all test images (solid), "
    "on those classified correctly without attack (dotted) and "
    "incorrectly (dashed, in a panel of their own: the scales differ). "
    "Means over seeds, bands of one standard deviation where there are "
    "several."
)
numbers = history.dropna(subset="test_rloss")
numbers = numbers.filter(regex="method|seed|epoch|rloss|rerr")
plate.mount(fig, numbers, "stutz2021_fig16", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, four networks are trained
# and measured for each seed: at `digits` a few minutes on two CPU cores; the
# `cifar10` profiles need a GPU. What was finished once is kept.
#
# **What to expect.** Three bundles of lines: incorrect images far above all
# images, and correct ones just below these. In each bundle the two variants
# stay near AT, and MART lies lower.

# %% [markdown]
# ## Published, measured, difference
#
# Training curves are not printed; their ends are: RLoss of the last and of the
# early-stopped network on all test images. `measured` is the mean over seeds,
# `std` its standard deviation.

# %%
headings = {Y: "RLoss, test, last", STOPPED: "RLoss, test, early-stopped"}
table = published.compare(wide, list(headings))
table = table.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), table[column].round(2))

# %% [markdown]
# Where it comes from: RLoss of the last network on test images that it
# classifies correctly and incorrectly without attack, and the share of the
# latter (Err).

# %%
columns = {
    "rloss_correct_test_pgd": "RLoss, correct",
    "rloss_incorrect_test_pgd": "RLoss, incorrect", "err_test": "Err",
}
parts = wide.groupby("method")[list(columns)].mean().reindex(shown)
parts.rename(columns=columns, index=names).rename_axis(None).round(3)

# %% [markdown]
# How far each of the three curves rises from its lowest point to the last
# epoch, as a ratio (1 means that it does not overfit):

# %%
splits = {
    "test_rloss": "all", "test_rloss_correct": "correct",
    "test_rloss_incorrect": "incorrect",
}
rise = pd.DataFrame({
    name: training_curves.overfitting(history, column)["last / lowest"]
    for column, name in splits.items()
})
rise = rise.groupby("method").mean().reindex(shown)
rise.rename(names).rename_axis(None).round(2)

# %% tags=["hide-input"]
if runs.source_of(profile, source) == "live":
    stored, _ = runs.collect(shown, profile, seeds, "committed", needed=False)
    if len(stored):
        stored = runs.wide(stored).groupby("method")[Y].agg(["mean", "std"])
        beside = stored.assign(yours=wide.groupby("method")[Y].mean())
        display(Markdown("**Your own run beside the stored results**, RLoss"))
        display(beside.rename(names).rename_axis(None).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "incorrect-rise-more", "incorrect-carry", "correct-overfit-too",
    "handling-incorrect-fails", "mart-dampens",
]
measured = {"wide": wide, "history": history}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
at = parts.iloc[0]
ratio = parts["rloss_incorrect_test_pgd"] / at["rloss_incorrect_test_pgd"]
Markdown(f"""
At profile `{profile}`, {names.get(shown[0], shown[0])} ends with an RLoss of
{at['rloss_incorrect_test_pgd']:.2f} on test images that it gets wrong without
attack, and of {at['rloss_correct_test_pgd']:.2f} on the others; the former are
{at['err_test']:.1%} of the images. Relative to that, RLoss on incorrect images
is {', '.join(f'{value:.2f} for {names.get(name, name)}'
    for name, value in ratio.iloc[1:].items()) or 'not compared here'}.
""")

# %% [markdown]
# An image that is wrong already needs no attack to count in RErr, so RErr does
# not see how sure of the wrong class the attack makes the network; RLoss does.
# On an easy data set few images are of that kind, and the mean over them is
# taken over few: the dashed lines are the most uncertain ones.
