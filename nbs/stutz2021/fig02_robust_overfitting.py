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
# # Fig. 2: robust overfitting
#
# **Claim.** In adversarial training (AT), RLoss on test images falls at first
# and then rises again, while RLoss on training images goes on falling.

# %% tags=["hide-input", "parameters"]
profile: str = "fashion"  # smoke, fashion, digits, cifar10-cpu, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0, 1, 2]  # one network per seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, live, published, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
BEST = 60 / 150  # Sec. 4.2: the best epoch, over all epochs

# %% tags=["hide-input"]
runs.train_missing("at", profile, seeds, source, workers=workers)
shown = live.shown("at", profile, seeds, source, all_of="at")
measures, history, mine = shown.measures, shown.history, shown.mine
wide = runs.wide(measures)
Markdown(shown.caption)

# %% tags=["hide-input"]
stopped = training_curves.stopped(history, measures)

fig, axes = plots.panels(rows=3, height=3.2)
top, middle, bottom = axes[:, 0]
curves.training(history, "rloss", top, ("train", "test"))
if mine is not None:
    yours = {"label": "yours", "color": plots.FAMILIES["yours"][0]}
    curves.training(shown.own_history, "rloss", top, **yours)
split = ("test_incorrect", "test", "test_correct")
curves.training(history, "rloss", middle, split)
curves.training(history, "rerr", bottom)
if mine is not None:
    curves.training(shown.own_history, "rerr", bottom, **yours)
bottom.axhline(
    stopped["rerr"].mean(), color="#444444", linestyle="--",
    label="test, early-stopped",
)
with plots.style():
    for ax in axes.flat:
        ax.axvline(curves.DROP, color="#999999", linestyle=":", linewidth=1)
    top.set(ylim=(0, None), xlabel="")
    middle.set(ylim=(0, None), xlabel="")
    bottom.set_ylim(0, 1)
    bottom.legend(loc="best")
caption = (
    "Training curves of AT. Above: RLoss on training and on test "
    "images. Middle: RLoss on all test images, and on those classified "
    "correctly and incorrectly without attack. Below: RErr; the dashed "
    "line is its level at the early-stopped epoch. Upright, dotted: the "
    "learning rate is lowered for the first time. Means over seeds, "
    "bands of one standard deviation where there are several; in red "
    "the network of the reader, where there is one."
)
numbers = history.dropna(subset="test_rloss")
numbers = numbers.filter(regex="method|seed|epoch|rloss|rerr")
plate.mount(fig, numbers, "stutz2021_fig02", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, a network for each seed
# is trained and measured: a few seconds at `smoke`, two to four minutes at
# `fashion`, seven and more at `cifar10-cpu`, of one CPU core each.
#
# **What to expect.** A curve of test RLoss with a minimum early on, and far
# above it at the end. Test RErr overfits much less.
#
# The training curves come from the history of each run: a row per epoch, with
# RLoss and RErr under PGD-7 and a single start, on the mini-batches of that
# epoch and on a part of the test images.

# %% [markdown]
# ## Published, measured, difference
#
# *Last* is the network at the end of training, *early-stopped* the stored one
# with the lowest RErr on images kept aside for this purpose. `std` is over
# seeds.

# %%
printed = published.stutz2021()
columns = {
    "rloss_test_pgd": "RLoss, test, last",
    "rloss_early_stop_pgd": "RLoss, test, early-stopped",
    "rloss_train_pgd": "RLoss, train, last",
    "rerr_test_pgd": "RErr in %, test, last",
    "rerr_early_stop_pgd": "RErr in %, test, early-stopped",
    "rerr_train_pgd": "RErr in %, train, last",
}
table = published.compare(wide, list(columns), printed).loc["at"].unstack()
parts = ["published", "measured", "std", "difference"]
table = table.reindex(list(columns), columns=parts).dropna(axis=1, how="all")
table[table.index.str.startswith("rerr")] *= 100
best = stopped["progress"]
table.loc["best"] = {
    "published": BEST, "measured": best.mean(), "std": best.std(),
    "difference": best.mean() - BEST,
}
columns["best"] = "early-stopped epoch / epochs"
table.rename(columns).round(2)

# %% [markdown]
# The curves themselves say more than two points of them. For each seed: the
# lowest test RLoss, the progress (epoch / epochs) at which it was met, the last
# value, and how many times larger that is; `train` is the last RLoss on
# training images. Below, the same for RErr.

# %%
rise = training_curves.overfitting(history).loc["at"]
several = "s" * (len(rise) > 1)
errors = training_curves.overfitting(history, "test_rerr").loc["at"]
pd.concat({"RLoss": rise, "RErr": errors}).round(3)

# %% tags=["hide-input"]
if mine is not None:
    stored = wide[list(columns)[:-1]].agg(["mean", "std"]).T
    beside = stored.assign(yours=mine.loc["at", stored.index])
    beside[beside.index.str.startswith("rerr")] *= 100
    display(Markdown("**Your own network beside the stored ones**"))
    display(beside.rename(columns).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "at-rloss-overfits", "at-rerr-overfits", "rloss-overfits-more",
    "rloss-above-guessing", "overfits-after-drop", "train-keeps-falling",
    "incorrect-rise-more", "incorrect-carry", "correct-overfit-too",
]
measured = {"wide": wide, "history": history}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
at = rise.mean()
Markdown(f"""
At profile `{profile}`, test RLoss on the curve (PGD-7) is lowest,
{at['lowest']:.2f}, after
{at['at']:.0%} of the training, and ends at {at['last']:.2f}, which is
**{at['last / lowest']:.2f} times** as much; train RLoss ends at
{at['train']:.3f} (means over {len(rise)} seed{several}). RErr ends at
{errors['last / lowest'].mean():.2f} times its lowest value. Early stopping took
the network after {', '.join(f'{epoch + 1}' for epoch in stopped['epoch'])} of
{history['epoch'].max() + 1} epochs.
""")

# %% [markdown]
# Two things are worth seeing. *Which* images overfit: RLoss rises most on test
# images that the network gets wrong even without attack, where it grows ever
# more sure of the wrong class. *What* early stopping looks at: it picks the
# epoch by RErr, as in the paper. Where RErr hardly overfits, the chosen epoch
# can come late, and RLoss has then risen already; the rows "early-stopped" and
# the verdicts say how far this is so here.
