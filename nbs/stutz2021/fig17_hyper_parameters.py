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
# # Fig. 17: training curves across hyper-parameters
#
# **Claim.** Hyper-parameters decide whether a method overfits: strong weight
# decay or small batches lessen and delay robust overfitting, and throughout,
# less of it comes with a higher RLoss on training images.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all that are drawn here, or of these only table1
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live
trades: str = "trades6"  # a TRADES network, attacked in two ways (first seed)

# %% tags=["hide-input"]
import string

import pandas as pd
import torch
from IPython.display import Markdown, display

from flatbook import claims, published, training_curves
from flatbook.figures import curves, plate, plots
from flatlib import PGD, evaluate, runs
from flatlib.training import profiles

pd.set_option("display.max_colwidth", None)
SWEEPS = {  # title: methods, from weak to strong
    "weight decay": "wd0 at wd0.001 wd0.005 wd0.01 wd0.05",
    "batch size": "batch512 batch256 at batch64 batch32 batch16 batch8",
    "learning rate": "lr0.01 at lr0.1 lr0.2",
    "label smoothing, τ": "at smooth0.1 smooth0.2 smooth0.3",
    "label noise, τ": "at noise0.1 noise0.2 noise0.3 noise0.4 noise0.5",
    "weight averaging, τ": "at ema0.98 ema0.985 ema0.99 ema0.9975",
    "weight clipping, w_max": "at clip0.025 clip0.01 clip0.005",
    "AT-AWP, ξ": "at awp0.001 awp0.005 awp0.01",
    "TRADES, λ": "at trades1 trades3 trades6 trades9",
    "MART, λ": "at mart1 mart3 mart6 mart9",
    "self-supervision, λ": "at ssl0.5 ssl1 ssl2 ssl4 ssl8",
    "Entropy-SGD, L": "at entropy1 entropy2 entropy3 entropy5",
}
Y, STOPPED = "rloss_test_pgd", "rloss_early_stop_pgd"

# %% tags=["hide-input"]
known = runs.named(methods)
wanted = dict.fromkeys(" ".join(SWEEPS.values()).split())
shown = [name for name in wanted if name in known] or list(known)
runs.train_missing(shown, profile, seeds, source, workers=workers)
measures, history = runs.collect(shown, profile, seeds, source)
shown = [name for name in shown if name in set(measures["method"])]
wide = runs.wide(measures)
Markdown(plots.caption(measures))

# %% tags=["hide-input"]
fig, axes = plots.panels(6, 2, width=7.0, height=2.6)
for ax, (title, part) in zip(axes.flat, SWEEPS.items()):
    colors = curves.shades(part.split(), first=["at"])
    values = {name: name.lstrip(string.ascii_lowercase) for name in colors}
    values["at"] = "AT"
    curves.compare(history, colors, "rloss", ax, names=values, legend="above")
    curves.headroom(ax)
    with plots.style():
        ax.set_title(title, loc="left", y=1.2)
        ax.label_outer()
curves.share(axes)
fig.subplots_adjust(hspace=0.52, wspace=0.1)
fig.set_dpi(120)  # many panels: keeps the notebook small
caption = (
    "Training curves for the settings of twelve hyper-parameters, "
    "measured: RLoss on test images solid, on training images dotted. "
    "From dark (weak) to light (strong), AT with its default settings "
    "in black. Curves of MART and TRADES on training images are of "
    "their own attacks. At profile digits those of weight averaging "
    "coincide with AT. Means over seeds, bands of one standard "
    "deviation where there are several."
)
numbers = history.dropna(subset="test_rloss")
numbers = numbers.filter(regex="method|seed|epoch|rloss|rerr")
plate.mount(fig, numbers, "stutz2021_fig17", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` some seconds, and once the training of
# one network for the last figure: half a minute at `digits` on two CPU cores.
# Live, all networks drawn here are trained and measured: `methods = "table1"`
# is the smaller choice; the `cifar10` profiles need a GPU. What was finished
# once is kept.
#
# **What to expect.** In each panel, curves ordered by the strength of a
# setting, from dark (weak) to light (strong), with AT in black.

# %% [markdown]
# ## Published, measured, difference
#
# Training curves are not printed; their ends are: RLoss of the last and of the
# early-stopped network on test images. `measured` is the mean over seeds, `std`
# its standard deviation.

# %% tags=["scroll-output"]
names = published.stutz2021()["label"].to_dict()
headings = {Y: "RLoss, test, last", STOPPED: "RLoss, test, early-stopped"}
table = published.compare(wide, list(headings)).reindex(shown)
table = table.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), table[column].round(2))

# %% [markdown]
# What the curves say, in the order of the panels: lowest test RLoss, the
# progress (epoch / epochs) at which it was met, the last value, and how many
# times larger that is; `train` is the last RLoss on training images.

# %% tags=["scroll-output"]
rise = training_curves.overfitting(history).groupby("method").mean()
rise = rise.reindex(shown)
rise.rename(names).rename_axis(None).round(3)

# %% [markdown]
# ### One network, two attacks
#
# TRADES trains on adversarial examples that move the prediction away from the
# clean one (they maximise a KL divergence) and never asks for the label. The
# curves above are under the usual attack, which maximises the cross-entropy
# (CE). Here the stored networks of one TRADES run meet both attacks, each by
# PGD-7 on the same test images.

# %% tags=["hide-input", "nbval-ignore-output"]
run = runs.get(trades, profile, seeds[0])
chosen = profiles.get(profile)
x, y = run.data.test.first(chosen.log_images)
attacks = {kind: PGD(eps=chosen.eps, maximise=kind) for kind in ("kl", "ce")}
rows = []
for epoch in run.snapshots():
    model = run.model(epoch)
    progress = (epoch + 1) / len(run.history())
    for kind, attack in attacks.items():
        g = torch.Generator(x.device).manual_seed(epoch)
        report = evaluate(model, x, y, attack, g, doubts=False)
        rows.append((progress, kind, report.RLoss, report.RErr))
both = pd.DataFrame(rows, columns=["progress", "attack", "RLoss", "RErr"])
both.pivot(index="progress", columns="attack").iloc[[0, -1]].round(3)

# %% tags=["hide-input", "nbval-ignore-output"]
fig, axes = plots.panels(height=3.0)
ax = axes[0, 0]
with plots.style():
    for (kind, part), line in zip(both.groupby("attack"), (":", "-")):
        ax.plot(part["progress"], part["RLoss"], line, color="#0072B2",
                label=f"attack maximises {kind.upper()}")
    ax.set(xlabel="epoch / epochs", ylabel="RLoss (test)", xlim=(0, 1))
    ax.legend(loc="best")
curves.headroom(ax, after=0)
caption = (
    "RLoss of the networks of one TRADES run on the same test images, "
    "under the attack it was trained with (KL, solid) and under the "
    "usual one (CE, dotted), by PGD-7 with one start."
)
plate.mount(fig, both, "stutz2021_fig17_trades", caption, profile)

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
    "weight-decay-reduces", "small-batches-reduce", "weak-awp-overfits",
    "label-noise-rerr", "fit-against-overfitting",
]
measured = {"wide": wide, "history": history}
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
order = rise["last / lowest"].dropna().sort_values()
calm, steep = order.index[0], order.index[-1]
fits = rise["train"].corr(rise["last / lowest"], "spearman")
Markdown(f"""
At profile `{profile}`, over {len(order)} settings, test RLoss ends between
{order.iloc[0]:.2f} ({names.get(calm, calm)}) and {order.iloc[-1]:.2f}
({names.get(steep, steep)}) times its lowest value. The rank correlation of this
ratio with the last RLoss on training images is **{fits:.2f}**: below zero means
that settings which fit the training images less overfit less.
""")

# %% [markdown]
# A setting that regularises strongly enough mostly keeps RLoss on training
# images up, and so RLoss on test images down; weight decay on the digits
# manages the second without the first. Batch sizes are scaled with the profile:
# where it trains with smaller batches than the paper's 128, "8" stands for a
# sixteenth of its own. The two attacks on TRADES show why curves under
# different attacks must not be compared: the attack by KL does not know the
# label, and leaves an image alone that the network gets wrong already.
