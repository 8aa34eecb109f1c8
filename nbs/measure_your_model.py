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
# # Measure your own model
#
# Any PyTorch module will do that maps images `(N, C, H, W)` with pixels in
# [0, 1] to logits `(N, K)`. This notebook measures how robust it is and how
# flat its minimum, and shows where it falls in Fig. 1.
#
# **Claim.** None of a paper: the numbers are about *your* model.
#
# **Cost.** At `digits` about half a minute on two CPU cores, half of it for
# training the example; seconds at `smoke`, if the networks of Fig. 1 are
# there.
#
# **What to expect.** Err, RErr and RLoss under two attacks, both kinds of
# flatness, a line through the loss landscape, and a red star in the figure.

# %% tags=["parameters"]
profile: str = "digits"  # smoke or digits: data, ε, other networks
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "table1"  # the networks to compare with: also main, or names
seeds: list = [0, 1, 2]  # theirs
epochs: int = 40  # training of the example model
seed: int = 0  # of the example model and all random numbers

# %% tags=["hide-input"]
from dataclasses import replace

import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

from flatbook import published
from flatbook.figures import curves, plate, plots
from flatlib import (
    PGD,
    average_flatness,
    evaluate,
    layers,
    runs,
    slices,
    worst_flatness,
)
from flatlib.training import profiles

# %% [markdown]
# ## Your model and your data
#
# Replace the next two cells by your own.
#
# | name | what it must be | for example |
# |---|---|---|
# | `x`, `y` | test images `(N, C, H, W)` in [0, 1], integer labels `(N,)` | 1000 images; 128 for a first look |
# | `eps` | the largest change of a pixel | `8/255` for CIFAR-10 |
# | `model` | a `torch.nn.Module` on the device of `x` | `flatlib.vision.models.resnet18(num_classes=10)`, torchvision's, with your weights |
#
# As an example: the digits of scikit-learn, with the split and ε of the
# profile.

# %%
chosen = profiles.get(profile)
data = runs.select("at", profile)[0].data
x, y = data.test.first(chosen.test)
eps = chosen.eps
print(f"images {tuple(x.shape)}, labels 0 to {int(y.max())}, eps = {eps}")

# %% [markdown]
# And a plain network of two convolutions, adversarially trained in a few lines:

# %% tags=["nbval-ignore-output"]
_ = torch.manual_seed(seed)
g = torch.Generator(x.device).manual_seed(seed)
model = nn.Sequential(
    nn.Conv2d(x.shape[1], 32, 3, padding=1), nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
    nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
).to(x.device)
optimiser = torch.optim.Adam(model.parameters(), lr=0.002)
pgd7 = PGD(eps=eps, steps=7)
for _ in range(epochs):
    order = torch.randperm(len(data.train), generator=g, device=x.device)
    for batch in order.split(50):
        images, labels = data.train.x[batch], data.train.y[batch]
        hard = pgd7(model, images, labels, g)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(hard), labels)
        loss.backward()
        optimiser.step()
_ = model.eval()
print(f"RLoss of the last batch: {loss.item():.3f}")

# %% [markdown]
# ## Six lines
#
# The protocol is the one of the networks to compare with: the same steps and
# random starts, ξ = 0.5 for random and ξ = 0.003 for adversarial moves of the
# weights.

# %% tags=["hide-input"]
steps, starts = chosen.protocol.steps, chosen.protocol.restarts
some = chosen.protocol.autoattack
print(f"eps = {eps}, PGD-{steps} × {starts}, n = {len(x)}")
print(f"AutoAttack: {', '.join(some.attacks)}, {some.iterations} iterations")

# %% tags=["nbval-ignore-output"]
pgd = PGD(eps=eps, steps=steps)
report = evaluate(model, x, y, replace(pgd, restarts=starts))
broken = evaluate(model, x, y, replace(some, eps=eps), batch=len(x))
flat = average_flatness(model, x, y, pgd, xi=0.5, n=10)
sharp = worst_flatness(
    model, x, y, eps, xi=0.003, restarts=starts, protocol=chosen.protocol.worst
)  # as the stored ones it is set beside
walk = slices(model, x[:128], y[:128], pgd, n=5, points=15)

# %% [markdown]
# AutoAttack has the settings of the profile here, a part of the ensemble with
# fewer iterations. For numbers to report, put `flatlib.AutoAttack(eps=eps)`
# in its place, the standard ensemble.

# %% tags=["nbval-ignore-output"]
print(report)
pd.Series({
    "Err": report.Err,
    f"RErr, PGD-{steps} × {starts}": report.RErr,
    "RErr, AutoAttack": broken.RErr,
    f"RLoss, PGD-{steps} × {starts}": report.RLoss,
    "average-case flatness, ξ = 0.5": flat.value,
    "its standard deviation over draws": flat.std,
    "worst-case flatness, ξ = 0.003": sharp.value,
}, name="your model").round(3).to_frame()

# %% [markdown]
# ### Can the attack be trusted?
#
# Robust numbers are only as good as the attack. `report.doubts` lists what
# speaks against it: random outputs, vanishing gradients, random noise that
# breaks images which the attack did not. And if AutoAttack breaks many more
# images than PGD, the gradients of the model mislead.

# %% tags=["nbval-ignore-output"]
for doubt in report.doubts or ["no doubts"]:
    print(doubt)
print(f"RErr: AutoAttack minus PGD = {broken.RErr - report.RErr:+.1%}")

# %% [markdown]
# ### Which weights are moved?
#
# Every trainable tensor except those of normalisation layers, each by its own
# length:

# %%
for name, weight in layers(model).items():
    print(name, tuple(weight.shape))

# %% [markdown]
# ## A line through the landscape

# %% tags=["hide-input", "nbval-ignore-output"]
fig, axes = plots.panels(height=3.4)
curves.slices(walk, ax=axes[0, 0])
caption = (
    "RLoss of your model along five random directions, scaled to half "
    "the length of each layer at both ends, and their mean (thick); at "
    "most 128 test images."
)
plate.mount(fig, walk, "yours_walk", caption, profile)

# %% [markdown]
# ## Where it falls in Fig. 1
#
# The other points are methods of Table 1 at the same profile: same images,
# ε and protocol. Points of other data do not belong in this figure.

# %%
runs.train_missing(methods, profile, seeds, source)
measures, histories = runs.collect(methods, profile, seeds, source)
X, Y = "avg_flatness_rloss", "rloss_test_pgd"
others = published.table1()[["label", "family"]]
others = others.join(runs.wide(measures).groupby("method")[[X, Y]].mean())
Markdown(plots.caption(measures))

# %% tags=["hide-input", "nbval-ignore-output"]
everything = others.copy()
everything.loc["yours"] = ["your model", "yours", flat.value, report.RLoss]
fig, axes = plots.panels(height=4.6, legend=0.6)
plots.scatter(everything, X, Y, axes[0, 0])
caption = (
    "Your model among the methods of Table 1 (means over seeds where "
    "there are several): RLoss on test images against average-case "
    "flatness."
)
plate.mount(
    fig, everything.rename_axis("method"),
    "yours_fig01", caption, profile,
)

# %% tags=["hide-input", "nbval-ignore-output"]
Markdown(f"""
Of the {len(others)} methods, {(others[Y] < report.RLoss).sum()} have a lower
RLoss than your model ({report.RLoss:.2f}) and
{(others[X] < flat.value).sum()} a flatter minimum ({flat.value:.2f}).
Measured on n = {len(x)} test images, seed {seed}, profile `{profile}`.
""")

# %% [markdown]
# The example is another kind of network than the others, without normalisation
# layers. A move of the weights by half their length does not mean quite the
# same for both, so it need not lie on their line: compare flatness first of all
# between networks of one architecture.
#
# ## What can go wrong
#
# Input that does not fit is refused before any work, and the message names it.
# Five ways to get it wrong:

# %%
bad = {
    "pixels from 0 to 255": (model, 255 * x, y),
    "normalised images": (model, (x - x.mean()) / x.std(), y),
    "a missing channel": (model, x[:, 0], y),
    "labels as one-hot vectors": (model, x, F.one_hot(y, 10)),
    "logits of the wrong shape": (model[:-4], x, y),
}
for mistake, (network, pixels, targets) in bad.items():
    try:
        evaluate(network, pixels, targets)
    except ValueError as error:
        print(f"{mistake}\n    {error}\n")

# %% [markdown]
# - **Normalisation belongs inside the model.** If yours expects normalised
#   images, put a layer in front that subtracts the mean and divides by the
#   standard deviation; {doc}`../book/howto_your_model` has one. Otherwise ε
#   would not be measured on pixels, and a wrong ε is not noticed by anything.
# - **Probabilities instead of logits** are doubted by `evaluate`: leave the
#   softmax out. The loss of a softmax of a softmax has tiny gradients, and the
#   model looks robust.
# - **Dropout and batch normalisation** need no care: the model is measured in
#   evaluation mode and gets its own mode back.
# - **Fewer than ten classes**: AutoAttack in its standard form needs ten; use
#   `flatlib.AutoAttack(eps=eps, attacks=("apgd-ce", "square"))`.
# - **A GPU**: put model and images on it; everything is computed where they
#   are.
