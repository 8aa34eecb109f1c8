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
# # Quick start: two networks, and what flatness tells about them
#
# Two small networks learn to tell clothes apart while an attacker changes the
# images. One is trained by plain adversarial training (AT), the other by a
# method that looks for flat minima. You train both, attack both, and measure
# how flat they are.
#
# **Claim.** The method with the lower robust loss (RLoss) ends in the flatter
# minimum.
#
# **Cost.** Two to five minutes at `fashion` on two CPU cores the first time,
# seconds at `smoke`; networks that are there already are loaded.
#
# **What to expect.** Both networks are right about most clean images. Under
# attack, plain AT is more often wrong and much more sure of its mistakes.

# %% tags=["parameters"]
profile: str = "fashion"  # smoke, fashion, digits, cifar10-cpu, cifar10
baseline: str = "at"  # plain adversarial training
better: str = "awp0.01"  # any other name in flatlib.CATALOGUE
seed: int = 0  # start of all random numbers
source: str = "auto"  # of the last figure: committed, live, or auto
images: int = 128  # test images used for the measures below

# %% tags=["hide-input"]
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown

from flatbook import live, published, relations
from flatbook.figures import curves, plate, plots
from flatlib import (
    PGD,
    average_flatness,
    data,
    evaluate,
    runs,
    slices,
    worst_flatness,
)
from flatlib.training import profiles

names = published.stutz2021()["label"]
COLORS = {baseline: "#0072B2", better: "#D55E00"}

# %% [markdown]
# ## 1. Train
#
# `runs.get` trains a network, or loads it if it was trained before. In every
# step an attack (PGD-7) first makes each image of the batch as hard as it can,
# then the weights learn from the hard images.

# %% tags=["nbval-ignore-output"]
trained = {}
for name in (baseline, better):
    trained[name] = runs.get(name, profile, seed)
models = {name: run.model() for name, run in trained.items()}
Markdown(f"Trained: {names[baseline]} and {names[better]}, seed {seed}.")

# %% [markdown]
# The training curves show *robust overfitting*: RLoss on training images
# (dotted) keeps falling, RLoss on test images (solid) soon rises again.

# %% tags=["hide-input", "nbval-ignore-output"]
fig, axes = plots.panels(height=3.4)
for name, run in trained.items():
    curves.training(run.history(), "rloss", axes[0, 0], label=names[name],
                    color=COLORS[name])
axes[0, 0].set_ylim(0, 3)
numbers = pd.concat(
    {name: run.history() for name, run in trained.items()},
    names=["method", "row"],
)
caption = (
    "RLoss under PGD-7 during training, on test (solid) and training "
    "images (dotted): profile fashion unless set otherwise, seed 0, 400 "
    "test images."
)
plate.mount(fig, numbers, "quickstart_curves", caption, profile)

# %% [markdown]
# ## 2. Attack
#
# The attacker may change every pixel by at most ε, and follows the gradient of
# the loss uphill. Both networks meet the same test images; titles say what each
# network sees in its own attacked version.

# %% tags=["nbval-ignore-output"]
eps = profiles.get(profile).eps
pgd = PGD(eps=eps, steps=20)
x, y = trained[baseline].data.test.first(images)
attacked, seen = {"clean": x}, {"clean": y}
for name, model in models.items():
    g = torch.Generator(x.device).manual_seed(seed)
    attacked[name] = pgd(model, x, y, g)
    seen[name] = model(attacked[name]).argmax(1)
Markdown(f"ε = {eps:.3g} per pixel, {pgd.steps} steps of {pgd.step:.3g}.")

# %% tags=["hide-input", "nbval-ignore-output"]
words = data.names(profiles.get(profile).dataset)
with plots.style():
    fig, axes = plt.subplots(3, 8, figsize=(6.2, 3.0))
for row, (name, pictures) in zip(axes, attacked.items()):
    row[0].set_ylabel("clean" if name == "clean" else names[name].split(" ")[0])
    for i, ax in enumerate(row):
        picture = pictures[i].permute(1, 2, 0).cpu()
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        right = bool(seen[name][i] == y[i])
        ax.set_title(words[int(seen[name][i])], pad=3, fontsize=8,
                     color="black" if right else "#D55E00",
                     weight="normal" if right else "bold")
        ax.set(xticks=[], yticks=[])
fig.tight_layout(pad=0.4)
said = {name: [words[int(k)] for k in seen[name][:8]] for name in attacked}
numbers = pd.DataFrame(said).rename_axis("image")
alt = "Images, clean and attacked, and what the networks see: " + "; ".join(
    f"{names.get(name, name)}: {', '.join(said[name])}" for name in said
)
caption = (
    "Eight test images: clean with their classes, and attacked for each "
    "network with what it then sees, orange and bold where it is wrong."
)
plate.mount(fig, numbers, "quickstart_attack", caption, profile, alt)

# %% [markdown]
# ## 3. Evaluate
#
# `evaluate` gives error and loss on clean images (Err, Loss) and under attack
# (RErr, RLoss), checks that the attack kept its promise, and reports doubts
# about it. Here: PGD with 20 steps, the worst of five random starts for each
# image.

# %% tags=["nbval-ignore-output"]
strong = replace(pgd, restarts=5)
reports = {}
for name, model in models.items():
    reports[name] = evaluate(model, x, y, strong)
    print(f"{names[name]}: {reports[name]}")

# %% [markdown]
# ## 4. How flat are the minima?
#
# *Average case*: move all weights at random, by half the length of each layer,
# attack again, and see by how much RLoss has risen. *Worst case*: let an
# adversary choose a much smaller move. Lower is flatter.

# %% tags=["nbval-ignore-output"]
flat, sharp = {}, {}
for name, model in models.items():
    how = {"reference": reports[name].robust_loss, "progress": True}
    flat[name] = average_flatness(model, x, y, pgd, xi=0.5, n=10, **how)
    sharp[name] = worst_flatness(
        model, x, y, eps, xi=0.003, restarts=5, protocol="paper", **how
    )
table = pd.DataFrame({
    names[name]: {
        "Err": report.Err, "RErr": report.RErr, "RLoss": report.RLoss,
        "average-case flatness": flat[name].value,
        "worst-case flatness": sharp[name].value,
    }
    for name, report in reports.items()
})
table["difference"] = table[names[better]] - table[names[baseline]]
table.round(3)

# %% [markdown]
# Beside it the same for the networks of the paper: CIFAR-10, a much larger
# network, and thus other values; the signs of the differences are what to
# compare.

# %%
printed = published.stutz2021().loc[[baseline, better]].T.loc[[
    "err_test", "rerr_test_pgd", "rloss_test_pgd", "avg_flatness_rloss",
    "worst_flatness_rloss",
]].astype(float)
printed.index = table.index
printed = printed.rename(columns=names.to_dict()).rename_axis(columns=None)
printed["difference"] = printed[names[better]] - printed[names[baseline]]
printed.round(3)

# %% [markdown]
# ## 5. Among other methods
#
# The same two numbers for the methods of Table 1 of the paper, measured by the
# protocol of the profile: more images, fewer draws. Your two networks are the
# coloured ones; with `source = "committed"`, those stored of the same methods.

# %% tags=["nbval-ignore-output"]
pair = [baseline, better]
stored = runs.source_of(profile, source) == "committed"
runs.train_missing("table1" if stored else pair, profile, [seed], source)
shown = live.shown("table1" if stored else pair, profile, [seed], source)
ours = relations.means(runs.wide(shown.measures))
Markdown(shown.caption)

# %% tags=["hide-input", "nbval-ignore-output"]
drawn = live.over(ours, shown.mine)
columns = {"x": "avg_flatness_rloss", "y": "rloss_test_pgd"}
ax = plots.scatter(drawn, **columns, highlight=pair)
kept = drawn[["label", *columns.values()]]
caption = (
    "RLoss on test images against average-case flatness: the two "
    "methods in colour, the others of Table 1 in grey."
)
plate.mount(ax.figure, kept, "quickstart_among", caption, profile)

# %% [markdown]
# ## 6. A walk through the landscape
#
# A picture of the same thing: RLoss while the weights move along a few random
# directions, with the network itself in the middle.

# %% tags=["nbval-ignore-output"]
walks = {
    name: slices(model, x, y, replace(pgd, steps=7), n=3, points=11)
    for name, model in models.items()
}

# %% tags=["hide-input", "nbval-ignore-output"]
fig, axes = plots.panels(height=3.4)
for name, walk in walks.items():
    curves.slices(walk, ax=axes[0, 0], label=names[name], color=COLORS[name])
numbers = pd.concat(walks, names=["method", "row"])
caption = (
    "RLoss along three random directions, scaled to half the length of "
    "each layer at both ends, and the mean of the three (thick)."
)
plate.mount(fig, numbers, "quickstart_walk", caption, profile)

# %% [markdown]
# ## Reading

# %% tags=["hide-input", "nbval-ignore-output"]
first, second = table[names[baseline]], table[names[better]]
Markdown(f"""
On {len(x)} test images, seed {seed}, profile `{profile}`, PGD-{strong.steps} ×
{strong.restarts}: {names[better]} has an RLoss of **{second['RLoss']:.2f}**
against {first['RLoss']:.2f} and an average-case flatness of
**{flat[better].value:.2f}** against {flat[baseline].value:.2f} for
{names[baseline]}; RErr is {second['RErr']:.0%} against {first['RErr']:.0%}.
The figures of the paper use more images, hence other values.
""")

# %% [markdown]
# Two networks prove nothing: the one that is flatter here could be more robust
# by chance. {doc}`Fig. 1 <stutz2021/fig01_flatness>` repeats this for all
# methods. To put a network of your own in the place of
# these two, go on with {doc}`measure_your_model`.
