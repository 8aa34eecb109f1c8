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
#
# **Cost.** With `source = "committed"` seconds. Live, three networks are
# trained and measured: a few seconds at `smoke`, a minute or two at `digits`
# on two CPU cores. The `cifar10` profiles need a GPU.
#
# **What to expect.** A curve of test RLoss with a minimum early on, and far
# above it at the end. Test RErr overfits much less.

# %% tags=["parameters"]
profile: str = "digits"  # smoke, digits, cifar10-small or cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0, 1, 2]  # one network per seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from flatlib import claims, paths, plots, published, runs

pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## Runs
#
# The training curves come from the history of each run: a row per epoch, with
# RLoss and RErr under PGD-7 and a single start, on the mini-batches of that
# epoch and on a part of the test images.

# %%
measures, history = runs.collect("at", profile, seeds, source, workers)
wide = runs.wide(measures)
Markdown(plots.caption(measures))

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
table.rename(columns).round(2)

# %% [markdown]
# The curves themselves say more than two points of them. For each seed: the
# lowest test RLoss, the progress (epoch / epochs) at which it was met, the last
# value, and how many times larger that is; `train` is the last RLoss on
# training images.

# %%
curve = history.dropna(subset=["test_rloss"])
lowest = curve.groupby("seed")["test_rloss"].idxmin()
lowest = curve.loc[lowest].set_index("seed")
last = curve.groupby("seed").last()
rise = pd.DataFrame({
    "lowest": lowest["test_rloss"],
    "at progress": lowest["progress"],
    "last": last["test_rloss"],
    "last / lowest": last["test_rloss"] / lowest["test_rloss"],
    "train": last["train_rloss"],
})
rise.round(3)

# %% [markdown]
# ## Figure

# %% mystnb={"figure": {"caption": "Training curves of AT. Above: RLoss on training and on test images. Middle: RLoss on all test images, and on those classified correctly and incorrectly without attack. Below: RErr; the dashed line is its level at the early-stopped epoch. Means over seeds, bands from the least to the largest.", "name": "fig02-overfitting"}} tags=["hide-input"]
fig, axes = plots.panels(rows=3, height=3.2)
overall, parts, errors = axes[:, 0]
plots.curves(history, "rloss", overall, ("train", "test"))
split = ("test_incorrect", "test", "test_correct")
plots.curves(history, "rloss", parts, split)
plots.curves(history, "rerr", errors)
early = measures[measures["which"] == "early_stopped"]
epochs = early.groupby("seed")["epoch"].first()
stopped = [
    np.interp(epochs[seed], part["epoch"], part["test_rerr"])
    for seed, part in curve.groupby("seed")
]
errors.axhline(
    np.mean(stopped), color="#444444", linestyle="--",
    label="test, early-stopped",
)
with plots.style():
    overall.set(ylim=(0, None), xlabel="")
    parts.set(ylim=(0, None), xlabel="")
    errors.set_ylim(0, 1)
    errors.legend(loc="best")
folder = paths.ROOT / "_build" / "figures" / profile
plots.save(fig, history, "stutz2021_fig02", folder)
plt.show()

# %% tags=["hide-input"]
compared = runs.source_of(profile, source), runs.source_of(profile)
if compared == ("live", "committed"):
    stored = runs.wide(pd.read_csv(paths.RESULTS / profile / "measures.csv"))
    stored = stored.loc[["at"], list(columns)].agg(["mean", "std"]).T
    beside = stored.assign(yours=wide[list(columns)].mean())
    beside[beside.index.str.startswith("rerr")] *= 100
    display(Markdown("**Your own run beside the stored results** (over seeds)"))
    display(beside.rename(columns).round(2))

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["at-rloss-overfits", "at-rerr-overfits"]
claims.table({"published": printed, "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
at = rise.mean()
Markdown(f"""
At profile `{profile}`, test RLoss is lowest, {at['lowest']:.2f}, after
{at['at progress']:.0%} of the training, and ends at {at['last']:.2f}, which is
**{at['last / lowest']:.2f} times** as much; train RLoss ends at
{at['train']:.3f} (means over {len(rise)} seeds). Early stopping took the
network after {', '.join(f'{epoch + 1}' for epoch in epochs)} of
{history['epoch'].max() + 1} epochs, for seeds
{', '.join(f'{seed}' for seed in epochs.index)}.
""")

# %% [markdown]
# Two things are worth seeing. *Which* images overfit: RLoss rises most on test
# images that the network gets wrong even without attack, where it grows ever
# more sure of the wrong class. *What* early stopping looks at: it picks the
# epoch by RErr, as in the paper. Where RErr hardly overfits, the chosen epoch
# can come late, and RLoss has then risen already; the rows "early-stopped" and
# the verdicts say how far this is so here.
