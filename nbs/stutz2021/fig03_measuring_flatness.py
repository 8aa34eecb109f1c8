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
# # Fig. 3: what flatness measures, on a real network
#
# **Claim.** Flatness is how much RLoss grows when the weights move within a
# ball around the network found; where it grows fast, RLoss on test images lies
# far above that on training images.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # of the table: committed, live, or auto
methods: list = ["at", "awp0.01"]  # two: a sharp one, and a flat one
seeds: list = [0]  # of the networks in the table; the first one is drawn
workers: int = 2  # networks trained at the same time, if live
images: int = 128  # test and training images that RLoss is taken on
points: int = 31  # steps along the direction

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from flatbook import claims, published, relations
from flatbook.figures import plate, plots
from flatlib import PGD, runs, slices
from flatlib.training import profiles

pd.set_option("display.max_colwidth", None)
XI = 0.5  # relative radius of the average case
LENGTH = 0.65  # how far the direction is followed, relative to the weights
COLORS = ["#D55E00", "#0072B2"]  # sharp, flat

# %% tags=["hide-input", "nbval-ignore-output"]
chosen = methods if isinstance(methods, list) else list(runs.named(methods))
pair = [chosen[0], next((m for m in chosen if m == "awp0.01"), chosen[-1])]
names = relations.printed()["label"].to_dict()
setting = profiles.get(profile)
attack = PGD(eps=setting.eps, steps=setting.protocol.line_steps)
walks = {}
for name in pair:
    run = runs.get(name, profile, seeds[0])
    for split in ("train", "test"):
        x, y = getattr(run.data, split).first(images)
        g = torch.Generator(x.device).manual_seed(seeds[0])
        walks[name, split] = slices(
            run.model(), x, y, attack, "random", 1, points, LENGTH, generator=g
        )
walks = pd.concat(walks, names=["method", "split"]).reset_index([0, 1])
walks["s"] *= LENGTH
Markdown(
    f"One random direction; RLoss by PGD-{attack.steps} with one start on the "
    f"first {len(x)} training and test images, profile {profile}, seed "
    f"{seeds[0]}."
)

# %% tags=["hide-input", "nbval-ignore-output"]
fig, axes = plots.panels(rows=2, height=3.4)
above, below = axes[:, 0]
with plots.style():
    for (name, split), walk in walks.groupby(["method", "split"], sort=False):
        color = COLORS[pair.index(name)]
        below.plot(walk["s"], walk["rloss"], ":" if split == "train" else "-",
                   color=color, label=f"{names.get(name, name)}, {split}")
    walk = walks[(walks["method"] == pair[0]) & (walks["split"] == "test")]
    above.plot(walk["s"], walk["rloss"], color=COLORS[0])
    here, there = np.interp([0, XI], walk["s"], walk["rloss"])
    above.axhline(here, color="#777777", linewidth=1, linestyle="--")
    arrow = {"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0}
    above.annotate("", (XI, there), (XI, here), arrowprops=arrow)
    above.annotate(
        f"RLoss(w + ν) − RLoss(w)\n= {there - here:.2f}", (XI, there),
        (-6, 0), textcoords="offset points", ha="right", va="bottom",
    )
    above.plot([0], [here], "o", color="black")
    above.annotate("w", (0, here), (0, -13), textcoords="offset points",
                   ha="center")
    for ax in (above, below):
        ax.axvspan(-XI, XI, color="#e8eef4", zorder=0)
        ax.set(xlabel="s, relative to the weights of each layer",
               ylabel="RLoss", xlim=(-LENGTH, LENGTH), ylim=(0, None))
        ax.annotate(f"ξ = {XI}", (XI, 1), (3, -10), textcoords="offset points",
                    xycoords=("data", "axes fraction"))
        ax.label_outer()
    above.set_title(f"one network: {names.get(pair[0], pair[0])}", loc="left")
    below.set_title("sharp and flat, training and test images", loc="left")
    below.legend(loc="upper center")
fig.subplots_adjust(hspace=0.2)
caption = (
    "Computed, not drawn by hand. Above: RLoss on test images along one "
    "random direction from the sharp network; within the ball of "
    "relative radius ξ (shaded) it grows by the length of the arrow, a "
    "flatness in this one direction. Below: the same for a sharp and a "
    "flat network, on test (solid) and training images (dotted); the "
    "gap between the two curves at s = 0 is the robust generalisation "
    "gap."
)
plate.mount(fig, walks, "stutz2021_fig03", caption, profile)

# %% [markdown]
# ## Published, measured, difference
#
# The sketch has no numbers; the two networks it would stand for have. Flatness
# is the mean over several directions and all test images of the profile.

# %% tags=["hide-input"]
runs.train_missing(pair, profile, seeds, source, workers=workers)
measures, _ = runs.collect(pair, profile, seeds, source)
wide = runs.wide(measures)
headings = {
    "avg_flatness_rloss": "average-case flatness in RLoss",
    "rloss_test_pgd": "RLoss, test", "rloss_train_pgd": "RLoss, train",
}
table = published.compare(wide, list(headings)).reindex(pair)
table = table.rename(index=names).rename_axis(None)
for column, heading in headings.items():
    display(Markdown(f"**{heading}**"), table[column].round(2))
Markdown(plots.caption(measures))

# %% [markdown]
# ## How to read it
#
# **Cost.** Two networks are needed, not only their measurements: at `digits`
# about a minute to train them on two CPU cores, once; they are those of
# {doc}`the quick start <../quickstart>`. The `cifar10` profiles need a GPU.
#
# **What to expect.** The published figure is a sketch; this one is computed.
# Walls rise on both sides of each network, steeper for the sharp one, and its
# test curve lies far above its training curve.
#
# A direction ν is drawn at random, of the length of the weights in each layer.
# The weights move to w + s ν, a little beyond the ball of radius ξ on both
# sides, and at every step the images are attacked anew by PGD. Both networks,
# and test and training images, meet the same direction.

# %% [markdown]
# ## Checks
#
# Statements of the paper that this figure is about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers. They speak of
# many networks, not of the two drawn here: with two, all stay open.

# %% tags=["hide-input"]
about = ["gap", "variants-flatter", "train-flatness"]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input", "nbval-ignore-output"]
rows = walks.groupby(["method", "split"])[["s", "rloss"]]
ends = pd.DataFrame({
    who: np.interp([-XI, 0, XI], part["s"], part["rloss"])
    for who, part in rows
}, index=["left", "middle", "right"])
rise = ends.loc[["left", "right"]].mean() - ends.loc["middle"]
gap = ends.loc["middle"].xs("test", level=1) - ends.loc["middle"].xs(
    "train", level=1
)
sharp, flat = pair
Markdown(f"""
At s = ±{XI} in this direction, RLoss on test images grows by
**{rise[sharp, 'test']:.2f}** for {names.get(sharp, sharp)} and by
**{rise[flat, 'test']:.2f}** for {names.get(flat, flat)} (mean of both sides).
At the networks themselves, RLoss on test images exceeds that on training images
by {gap[sharp]:.2f} and {gap[flat]:.2f}.
""")

# %% [markdown]
# Why flatness should help on new images: these have a landscape of their own,
# close to that of the training images but not the same. If it is shifted a
# little, a network on a steep wall loses much and one on flat ground little.
# The measured curves show a second thing that a sketch leaves out: they also
# differ in height, so that one direction of two networks cannot tell which
# difference is due to which. The tables of many networks do.
