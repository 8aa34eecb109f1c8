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
# # Table 2: largest Hessian eigenvalue and convexity
#
# **Claim.** Neither the largest eigenvalue λ_max of the Hessian nor the ratio
# |λ_min| / λ_max says across methods how robust a network is; and λ_max can be
# made four times or a quarter as large by scaling weights, which changes
# nothing else.

# %% tags=["hide-input", "parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all, table1, or a list of names; those of Table 2 count
seeds: list = [0]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from flatbook import claims, published, tables
from flatbook.figures import plate, plots
from flatlib import runs
from flatlib.training import profiles

pd.set_option("display.max_colwidth", None)
RERR, LAMBDA, RATIO = "rerr_test_aa", "lambda_max", "convexity_ratio"
COLUMNS = {
    RERR: ("RErr, test", 1),
    "as_printed": ("λ_max, summed loss", 0),
    LAMBDA: ("λ_max, mean loss", 1),
    RATIO: ("|λ_min| / λ_max", 3),
}

# %% tags=["hide-input"]
printed = published.table2()
known = runs.named(methods)
chosen = [method for method in printed.index if method in known]
asked = [(m, "last", "test") for m in ("robustness", "autoattack", "hessian")]
runs.train_missing(chosen, profile, seeds, source, asked, workers=workers)
measures, _ = runs.collect(chosen, profile, seeds, source, asked)
stated = plots.caption(measures)
scales = ["scaled-0.5", "scaled-2"] if "at" in chosen else []
asked = [(m, s, "test") for m in ("robustness", "hessian") for s in scales]
if scales:
    runs.train_missing("at", profile, seeds, source, asked, workers=workers)
    scaled, _ = runs.collect("at", profile, seeds, source, asked)
    versions = scaled.assign(method="at, " + scaled["which"], which="last")
    measures = pd.concat([measures, versions], ignore_index=True)
wide = runs.wide(measures).rename(columns={"convexity": RATIO})
images = min(profiles.get(profile).protocol.hessian_images,
             profiles.get(profile).test)
Markdown(f"{stated} Eigenvalues: the first {images} of them.")

# %% tags=["hide-input"]
quarter = printed.assign(
    as_printed=printed[LAMBDA],
    lambda_max=printed[LAMBDA] / published.SUMMED,
)
ours = wide.assign(as_printed=published.SUMMED * wide[LAMBDA])
table = published.compare(ours, list(COLUMNS), quarter)
table = table.drop(columns=[("as_printed", "difference")])

rows = [m for m in printed.index if not m.startswith("at,")]
names = published.stutz2021().loc[rows, ["label", "family"]]
frames = {
    "published, CIFAR-10": names.join(quarter.loc[rows, [LAMBDA, RERR]]),
    f"measured, {profile}": names.join(
        ours.groupby("method")[[LAMBDA, RERR]].mean(), how="inner"
    ),
}
fig, axes = plots.side_by_side(frames, x=LAMBDA, y=RERR, labels=True)
for ax in axes:
    ax.set_xscale("log")
axes[-1].set_xlabel("λ_max of the mean clean loss")
caption = (
    "Robust error under AutoAttack against the largest Hessian "
    "eigenvalue of the mean clean loss (published: a quarter of the "
    "printed value), on a logarithmic axis, without the scaled "
    "versions. Above: published, CIFAR-10; below: measured here."
)
plate.mount(fig, tables.flat(table), "stutz2021_tab02", caption, profile)

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, the networks are those of
# Fig. 1, and their eigenvalues take some seconds each; `batch8` and `adam` are
# trained in addition unless `methods = "table1"`.
#
# **What to expect.** The ratios 4 and ¼ are almost exact anywhere. Eigenvalues
# themselves are those of other images and another network: their size means
# nothing beside the printed ones, their relation to robust error may.
#
# The Hessian is that of the *clean* loss, averaged over images, in evaluation
# mode; weights of layers, without biases. Scaled networks are the trained one
# with all its convolutions multiplied by ½ or 2.

# %% [markdown]
# ## Published, measured, difference
#
# In the released code gradients are *summed* over four batches of images, where
# the loss is a mean. Its eigenvalues are thus four times those of the Hessian
# of the mean loss, which is what is measured here. If the printed ones were
# made with this code, a quarter of them is what to compare with: both are
# shown, and the difference is to the quarter. The ratio is not affected.

# %%
tables.sheet(table, COLUMNS, printed["label"].to_dict())

# %% [markdown]
# A network and its scaled versions: λ_max in units of that of the network as
# trained, and RErr by PGD, which is measured for all three.

# %%
parts = ["at", *(f"at, {scale}" for scale in scales)] if scales else []
there = printed.reindex(parts)
mean = ours.groupby("method").mean().reindex(parts)
pd.DataFrame({
    "published, × λ_max": there[LAMBDA] / printed.loc["at", LAMBDA],
    "measured, × λ_max": mean[LAMBDA] / mean[LAMBDA].get("at"),
    "RErr by PGD": mean.get("rerr_test_pgd"),
}).round(3).rename(printed["label"]).rename_axis(None)

# %% [markdown]
# ## Checks
#
# Statements of the paper that this table is about, each decided by a rule fixed
# beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "lambda-across", "convexity-across", "convexity-small", "scaling-lambda",
    "scaling-robustness",
]
own = [method in known for method in wide.index.get_level_values("method")]
trained = wide[own]  # without the scaled versions
measured = {"wide": trained.rename(columns={RATIO: "convexity"})}
if scales:
    runs.train_missing("at", profile, seeds, source, workers=workers)
    first, _ = runs.collect("at", profile, seeds, source)
    measured["tidy"] = pd.concat([first, measures, scaled])
claims.table({"published": claims.printed(), "measured": measured}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
two = frames[f"measured, {profile}"]
Markdown(f"""
At profile `{profile}`, λ_max of {len(two)} methods lies between
{two[LAMBDA].min():.3g} and {two[LAMBDA].max():.3g}; its rank correlation with
robust error is {two[LAMBDA].corr(two[RERR], method='spearman'):.2f} (published:
{quarter.loc[rows, LAMBDA].corr(quarter.loc[rows, RERR], method='spearman'):.2f}
over {len(rows)}). So few methods leave a wide margin around such a number.
""")

# %% [markdown]
# Why does scaling do this? Batch normalisation divides by the size of what a
# convolution gives, so a convolution with half the weights computes the same.
# But the same *absolute* step in weight space is now twice as long relative to
# the weights, and second derivatives grow by four. The flatness measures of
# this book take steps relative to the weights and do not change.
