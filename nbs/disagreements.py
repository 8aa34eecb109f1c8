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
# # Where paper and released code disagree
#
# The text of Stutz et al., its printed tables and the code released with it do
# not always say the same. Anyone who repeats the paper has to choose. This page
# lists the disagreements that matter, with our choice, and measures what some
# of the choices are worth on one trained network.
#
# The released configurations cannot have made all the printed tables, and their
# README says so. We take the printed numbers as the target of a comparison, not
# as something that must come out to the last digit.
#
# **Cost.** With `source = "committed"` seconds. Live, one network is trained
# and measured with thirteen variants of a measure: two or three minutes at
# `digits` on two CPU cores.

# %% [markdown]
# ## How flatness is measured
#
# | Topic | Paper | Released code | Here |
# |---|---|---|---|
# | Who shares a weight perturbation $\nu$ | the 128 images of a batch | all 1000 images | a batch; `scope="dataset"` on request |
# | Random $\nu$ | anywhere with $\lVert\nu_l\rVert \le \xi\lVert w_l\rVert$ | on the surface of that ball | on the surface |
# | Radius of worst-case flatness | 0.00075 in Sec. 4, 0.003 in the supplement | both | 0.003: only this fits the size of the printed values |
# | Weight step of the joint attack | 0.001 | 0.01, larger than the ball | 0.001 |
# | Which restart counts | highest loss | in most places the surest wrong class | highest loss for RLoss, any break for RErr |
# | Draws for the clean loss | 10 | 50 | 10 |
# | Perturbed weights of a clipped network | not said | clipped again | not clipped |
# | Images for Err and Loss | the first 1000 | all 10 000 | those of the profile, the same for all measures |
# | Hessian eigenvalues | of the loss | gradients summed over four batches, so four times as large | of the mean loss; [Table 2](stutz2021/tab02_hessian.ipynb) shows both |
# | Directions of loss curves | layers scaled by L2 norm; adversarial length 0.025; maximum over ten | by largest entry; 0.01; mean | as in the paper |
# | AutoAttack | the standard ensemble | without its fourth attack, Square | the ensemble, unless the profile says otherwise |
#
# ## How networks are trained
#
# | Topic | Paper | Released code | Here |
# |---|---|---|---|
# | Weight decay of the baseline | 0.005 | 0.0005 | 0.0005: the tables list 0.005 as another row |
# | Weight decays of the sweep | 0.001 to 0.05 | 0.001 whatever is asked for | as in the paper |
# | Momentum | 0.9, "standard" SGD | 0.9, Nesterov | Nesterov |
# | Cropping | up to 4 pixels a side | pads, then shrinks the image back: never crops | pad and crop |
# | Label smoothing, other classes | $\tau/(K-1)$ each | $\tau/K$ each, the true class gets the rest | as the code: it is the mean of label noise, which the text wants |
# | Label noise | a share $\tau$ of each batch | every image with probability $\tau$ | as the code |
# | Weight averaging | $\tau$ from 0.98 to 0.9975 | 0.9975 whatever is asked for | as in the paper |
# | AT-AWP | one ascent step on the weights | the step is lost: the weights before it are returned | as in the paper and in Wu et al. |
# | Cyclic rates, 2 to 4 cycles | 30 epochs a cycle | 30 epochs in all | 30 epochs a cycle |
# | Constant rates | 0.05, 0.01, 0.005 | 0.1, 0.01, 0.005 | as in the paper |
# | Weight clipping | after each step | before each pass and at the end of an epoch | after each step |
# | Unlabelled images | half of a batch | 70 % of a batch, with AutoAugment | half, usual augmentation |
# | Self-supervision | all images attacked | half of them | half: this fits the printed clean errors |
# | PGD-7-τ on images that never flip | last iterate | the clean image | the clean image |
# | TRADES and MART, start of the attack | as the official code | as adversarial training | as adversarial training |
# | Entropy-SGD, learning rate | not said | constant 0.05, no momentum | as the code |
# | GELU | $x\,\sigma(1.702x)$ | exact | exact |
#
# ## In the printed numbers
#
# | Topic | Printed | What speaks against it | Here |
# |---|---|---|---|
# | Average-case flatness of "Weight clipping 0.025" | 0 | its neighbours, and its RLoss of 2.37 | missing |
# | Pearson of worst-case flatness and RLoss | 0.54 | Table 5 and 6 give 0.50 | computed from the tables |
# | "Larger ε" in Table 1 | 8/255 | the text and Table 5: 9/255 | 9/255 |
# | "Cyclic" in Table 1 | one cycle | its numbers are those of two cycles | Cyclic ×2 |
# | Flatness in Tables 1 and 5 | differs by up to 0.03 | – | Table 5 |

# %% tags=["parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0]  # one network of AT per seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from flatbook import published
from flatbook.figures import plate, plots
from flatlib import runs

pd.set_option("display.max_colwidth", None)
PAIRS = {  # what is changed -> the usual way, the other way
    "ν shared by all images (average)": ("average_batch", "average_dataset"),
    "ν uniform in the ball": ("average_batch", "average_ball"),
    "ν of any length up to the radius": ("average_batch", "average_any"),
    "50 draws for the clean loss": ("clean_few", "clean_many"),
    "ν shared by all images (worst)": ("worst_paper", "worst_dataset"),
    "weight step 0.01": ("worst_paper", "worst_step"),
    "shared ν and step 0.01, as released": ("worst_paper", "worst_code"),
    "worst-case radius 0.00075": ("worst_paper", "worst_radius"),
    "restart by wrong class": ("restarts_loss", "restarts_wrong"),
}

# %% [markdown]
# ## What choosing otherwise is worth
#
# One network, trained by AT, measured both ways. The first four rows are
# average-case flatness (the fourth of the clean loss), the next four worst-case
# flatness, the last one is RLoss. In the second and third row the same $\nu$
# are made shorter; elsewhere random numbers are drawn afresh. `std` is over the
# draws of $\nu$ in the first rows (their mean varies less, by the root of the
# number of draws) and over restarts of the joint attack in those of the worst
# case.

# %%
runs.train_missing("at", profile, seeds, source, "choices", workers=workers)
measures, _ = runs.collect("at", profile, seeds, source, "choices")
names = measures["measure"].str.removeprefix("choice_")
both = measures.assign(measure=names).groupby("measure")
both = both[["value", "std"]].mean()
rows = {
    what: {
        "usual": both.loc[usual, "value"],
        "otherwise": both.loc[other, "value"],
        "ratio": both.loc[other, "value"] / both.loc[usual, "value"],
        "std": both.loc[other, "std"],
    }
    for what, (usual, other) in PAIRS.items()
}
effect = pd.DataFrame(rows).T
at = measures.iloc[0]
about = f"Measured at profile {profile}, seed {', '.join(map(str, seeds))}"
print(f"{about}, on {at['n']} test images")
effect.round(3)

# %% tags=["hide-input"]
fig, axes = plots.panels(height=3.8)
ax = axes[0, 0]
with plots.style():
    spread = (effect["std"] / effect["usual"]).abs().fillna(0)
    place = np.arange(len(effect))
    ax.errorbar(
        effect["ratio"], place, xerr=spread, fmt="o", color="#0072B2",
        ecolor="#56B4E9",
    )
    ax.axvline(1, color="#444444", linestyle="--")
    ax.set_yticks(place, effect.index)
    ax.invert_yaxis()
    ax.set_xlabel("the other way, as a multiple of the usual one")
    fig.subplots_adjust(left=0.44)
caption = (
    "What a choice is worth: the measure taken the other way, as a "
    "multiple of the usual one (dashed line), for one network trained "
    "by AT. Bars: one standard deviation over draws or restarts; where "
    "none is shown there are no draws."
)
plate.mount(
    fig, effect.rename_axis("choice"),
    "stutz2021_disagreements", caption, profile,
)

# %% [markdown]
# ## Label smoothing
#
# Here no measurement is needed. With $K$ classes, the paper's form at $\tau$ is
# the code's form at $\tau K / (K - 1)$: both put the same weight on the true
# class and share the rest evenly. For ten classes, $\tau = 0.3$ in one form is
# 0.333 in the other. The printed sweep over $\tau$ says how much that is.

# %%
K = 10
columns = ["rloss_test_pgd", "rerr_test_aa", "avg_flatness_rloss"]
sweep = published.stutz2021().loc[["smooth0.2", "smooth0.3"], columns]
step = 0.3 * K / (K - 1) - 0.3
pd.DataFrame({
    "printed at τ = 0.3": sweep.loc["smooth0.3"],
    "change for τ + 0.033": sweep.diff().loc["smooth0.3"] * step / 0.1,
}).rename({name: plots.axis_label(name, sweep) for name in columns}).round(3)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
ratio = effect["ratio"]
code = ratio["shared ν and step 0.01, as released"]
Markdown(f"""
At profile `{profile}`, drawing ν on the surface or uniformly in the ball makes
a factor of {ratio['ν uniform in the ball']:.2f}, and sharing it among all
images one of {ratio['ν shared by all images (average)']:.2f} in the average
case: such choices hardly matter. Others do. A ν of *any* length up to the
radius would give {ratio['ν of any length up to the radius']:.2f} times the
flatness. One ν for all images, where the paper has one per batch, gives
{ratio['ν shared by all images (worst)']:.2f} times the worst-case flatness, and
the released step on top {code:.2f} times. The smaller of the two worst-case
radii gives {ratio['worst-case radius 0.00075']:.2f} times. Which restart counts
changes RLoss by a factor of {ratio['restart by wrong class']:.3f}.
""")

# %% [markdown]
# Most of these change the scale of a measure, not the order of methods, so the
# paper's main statement does not hang on them. A number is comparable with
# another one only where scope, radius and step are the same: every row of
# results in this project names them.
