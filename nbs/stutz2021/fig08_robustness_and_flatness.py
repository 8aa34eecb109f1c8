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
# # Fig. 8: robustness and flatness, in four views
#
# **Claim.** RLoss, not robust error (RErr), is what goes together with
# flatness: above a certain RLoss more of it hardly costs more RErr, and
# worst-case flatness tells less than average-case flatness.
#
# **Cost.** With `source = "committed"` seconds. Live, `smoke` takes half a
# minute and `digits` seven minutes for each seed, on two CPU cores; the
# `cifar10` profiles need a GPU. The networks are those of Fig. 1: once there,
# they are kept.
#
# **What to expect.** In the published figure a clear trend in the upper right
# view, weaker ones in the lower two, and a kink in the upper left one where
# RLoss reaches the loss of guessing. The measured figure need not agree in all
# of this; the checks say where it does.

# %% tags=["parameters"]
profile: str = "digits"  # smoke, digits, cifar10-small or cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from flatlib import claims, paths, plots, profiles, published, runs

pd.set_option("display.max_colwidth", None)
RLOSS, RERR = "rloss_test_pgd", "rerr_test_aa"
AVERAGE, WORST = "avg_flatness_rloss", "worst_flatness_rloss"
SHORT = {  # axis labels
    RLOSS: "RLoss (test)", RERR: "RErr (test)",
    AVERAGE: "average-case flatness", WORST: "worst-case flatness",
}

# %% [markdown]
# ## Runs

# %%
measures, _ = runs.collect("table1", profile, seeds, source, workers)
wide = runs.wide(measures)  # a row for each network
aa = profiles.get(profile).protocol.autoattack
Markdown(
    f"{plots.caption(measures)} AutoAttack here: {', '.join(aa.attacks)} with "
    f"{aa.iterations} iterations; published: the full ensemble, 100 iterations."
)

# %% [markdown]
# ## Published, measured, difference
#
# RErr in percent. `measured` is the mean over seeds, `std` its standard
# deviation. Fig. 1 has the same table for average-case flatness and RLoss.

# %%
table1 = published.table1()
printed = published.stutz2021()
printed["label"] = table1["label"].combine_first(printed["label"])
table = published.compare(wide, [RERR, WORST], printed)
table = table.rename(index=printed["label"].to_dict()).rename_axis(None)
display(Markdown(f"**{plots.axis_label(RERR)}, in %**"))
display(table[RERR].mul(100).round(1))
display(Markdown(f"**{plots.axis_label(WORST)}**"))
display(table[WORST].round(2))

# %% [markdown]
# ### Correlation in each view
#
# Published: all methods of the printed tables; measured: the methods of Table
# 1.

# %%
means = wide.groupby("method").mean()
views = {
    "RErr against RLoss": (RLOSS, RERR),
    "RLoss against average-case flatness": (AVERAGE, RLOSS),
    "RErr against average-case flatness": (AVERAGE, RERR),
    "RLoss against worst-case flatness": (WORST, RLOSS),
}
found = pd.DataFrame({
    (where, kind): {
        view: df[list(pair)].corr(kind).iloc[0, 1]
        for view, pair in views.items()
    }
    for where, df in {"published": printed, "measured": means}.items()
    for kind in ("pearson", "spearman")
})
found.round(2)

# %% [markdown]
# ## Figures

# %% mystnb={"figure": {"caption": "Published, CIFAR-10. Upper left: RErr against RLoss, with a line on each side of 2.3, the loss of guessing among ten classes. Upper right: RLoss against average-case flatness. Lower left: RErr against average-case flatness. Lower right: RLoss against worst-case flatness. Methods of Table 1 in colour.", "name": "fig08-published"}} tags=["hide-input"]
fig, axes = plots.panels(2, 2, width=5.4, height=2.7, legend=0.6)
fig.subplots_adjust(hspace=0.45, wspace=0.42)
for ax, (view, (x, y)) in zip(axes.flat, views.items()):
    fit = "split" if x == RLOSS else "line"
    plots.scatter(printed, x, y, ax, table1.index, fit, labels=False)
    ax.set(xlabel=SHORT[x], ylabel=SHORT[y])
    pearson = found.loc[view, ("published", "pearson")]
    ax.set_title(f"Pearson {pearson:.2f}", loc="left")
folder = paths.ROOT / "_build" / "figures" / profile
columns = ["label", "family", RLOSS, RERR, AVERAGE, WORST]
plots.save(fig, printed[columns], "stutz2021_fig08_published", folder)
plt.show()

# %% mystnb={"figure": {"caption": "Measured here, the same four views. Means over seeds, bars of one standard deviation.", "name": "fig08-measured"}} tags=["hide-input"]
ours = table1[["label", "family"]].join(means[columns[2:]])
ours = ours.join(wide[columns[2:]].groupby("method").std().add_suffix("_std"))
fig, axes = plots.panels(2, 2, width=5.4, height=2.7, legend=0.6)
fig.subplots_adjust(hspace=0.45, wspace=0.42)
for ax, (view, (x, y)) in zip(axes.flat, views.items()):
    fit = "split" if x == RLOSS else "line"
    plots.scatter(ours, x, y, ax, None, fit, labels=False)
    ax.set(xlabel=SHORT[x], ylabel=SHORT[y])
    pearson = found.loc[view, ("measured", "pearson")]
    ax.set_title(f"Pearson {pearson:.2f}", loc="left")
plots.save(fig, ours, "stutz2021_fig08_measured", folder)
plt.show()

# %% tags=["hide-input"]
compared = runs.source_of(profile, source), runs.source_of(profile)
if compared == ("live", "committed"):
    stored = pd.read_csv(paths.RESULTS / profile / "measures.csv")
    stored = runs.wide(stored).groupby("method")[[RERR, WORST]]
    beside = {"yours": means, "stored": stored.mean(), "std": stored.std()}
    display(Markdown("**Your own run beside the stored results** (over seeds)"))
    for column in (RERR, WORST):
        part = pd.DataFrame({name: df[column] for name, df in beside.items()})
        part = part.loc[table1.index].set_axis(table1["label"].rename(None))
        display(Markdown(plots.axis_label(column)), part.round(3))

# %% [markdown]
# ## Checks
#
# Statements of the paper that these figures are about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = ["kink", "pearson", "worst-case-weaker"]
claims.table({"published": printed, "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
both = found.xs("pearson", axis=1, level=1).round(2)
_, average, errors, worst = both.itertuples(index=False)
high, theirs = ((df[RLOSS] > plots.KINK).sum() for df in (means, printed))
Markdown(f"""
At profile `{profile}`, average-case flatness correlates with RLoss
({average.measured:.2f}; published {average.published:.2f}) and with RErr
({errors.measured:.2f}; published {errors.published:.2f}), worst-case flatness
with RLoss ({worst.measured:.2f}; published {worst.published:.2f}). Of
{len(means)} methods {high} have an RLoss above {plots.KINK:.2f}, the loss of
guessing; of the {len(printed)} published ones {theirs}.
""")

# %% [markdown]
# RErr counts, RLoss weighs. An attacked image that is just misclassified and
# one that is confidently misclassified count the same in RErr, so RErr can
# stand still while RLoss goes on rising: that is the kink. Worst-case flatness
# looks at the single worst direction in weight space, which depends on the
# curvature there and on how the activation bends; it can rank methods quite
# differently. Where too few methods lie on one side of the kink, its check
# reads "not yet measured".
