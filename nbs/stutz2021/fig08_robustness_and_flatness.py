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

# %% tags=["hide-input", "parameters"]
profile: str = "fashion"  # smoke, fashion, digits, cifar10-cpu, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "table1"  # table1, all, or the name of one method
seeds: list = [0, 1, 2]  # one network per method and seed
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, live, published, relations
from flatbook.figures import plate, plots, scatters
from flatlib import data, losses, runs
from flatlib.training import profiles

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
GUESSING = losses.guessing(data.classes(profiles.get(profile).dataset))
RLOSS, RERR = "rloss_test_pgd", "rerr_test_aa"
AVERAGE, WORST = "avg_flatness_rloss", "worst_flatness_rloss"
COLUMNS = {  # what is drawn -> axis label
    RLOSS: "RLoss (test)", RERR: "RErr (test)",
    AVERAGE: "average-case flatness", WORST: "worst-case flatness",
}
VIEWS = {
    "RErr against RLoss": (RLOSS, RERR),
    "RLoss against average-case flatness": (AVERAGE, RLOSS),
    "RErr against average-case flatness": (AVERAGE, RERR),
    "RLoss against worst-case flatness": (WORST, RLOSS),
}

# %% tags=["hide-input"]
runs.train_missing(methods, profile, seeds, source, workers=workers)
shown = live.shown(methods, profile, seeds, source)
measures, mine = shown.measures, shown.mine
wide = runs.wide(measures)  # a row for each network
aa = profiles.get(profile).protocol.autoattack
Markdown(
    f"{shown.caption} AutoAttack here: {', '.join(aa.attacks)} with "
    f"{aa.iterations} iterations; published: the full ensemble, 100 iterations."
)

# %% tags=["hide-input"]
printed, ours = relations.printed(), relations.means(wide)
tables = {"published": printed, "measured": ours}
found = relations.correlations(tables, VIEWS)

table1 = published.table1().index
fig, axes = plots.panels(2, 2, height=3.0, legend=0.6, gap=0.85)
for ax, (view, (x, y)) in zip(axes.flat, VIEWS.items()):
    fit = GUESSING if x == RLOSS else "line"
    plots.scatter(printed, x, y, ax, table1, fit, labels=False, crop=True)
    ax.set(xlabel=COLUMNS[x], ylabel=COLUMNS[y])
    scatters.heading(ax, found=found.loc[view, "published"])
told = ["label", "family", *COLUMNS]
caption = (
    "Published, CIFAR-10. Upper left: RErr against RLoss, with a least- "
    "squares line on each side of 2.3, the loss of guessing among ten "
    "classes. Upper right: RLoss against average-case flatness. Lower "
    "left: RErr against average-case flatness. Lower right: RLoss "
    "against worst-case flatness. Methods of Table 1 in colour, the "
    "others in grey; titles give Pearson's coefficient with its 95 % "
    "interval."
)
plate.mount(fig, printed[told], "stutz2021_fig08_published", caption, profile)

# %% tags=["hide-input"]
drawn, lit = live.over(ours, mine), live.lit(table1, mine)
fig, axes = plots.panels(2, 2, height=3.0, legend=0.6, gap=0.85)
for ax, (view, (x, y)) in zip(axes.flat, VIEWS.items()):
    fit = GUESSING if x == RLOSS else "line"
    plots.scatter(drawn, x, y, ax, lit, fit, labels=False, crop=True)
    ax.set(xlabel=COLUMNS[x], ylabel=COLUMNS[y])
    scatters.heading(ax, found=found.loc[view, "measured"])
told += [f"{column}_std" for column in COLUMNS if f"{column}_std" in ours]
caption = (
    "Measured here, the same four views. Dotted: least-squares lines. "
    "Means over seeds, bars of one standard deviation where there are "
    "several seeds; bars, unlike points, may leave the frame."
)
plate.mount(fig, drawn[told], "stutz2021_fig08_measured", caption, profile)

# %% tags=["hide-input"]
panels = {f"measured, {view}": (drawn, *pair) for view, pair in VIEWS.items()}
Markdown(plots.outside(panels))

# %% [markdown]
# ## How to read it
#
# **Cost.** With `source = "committed"` seconds. Live, it needs the networks of
# Fig. 1: once there, they are kept.
#
# **What to expect.** In the published figure a clear trend in the upper right
# view, weaker ones in the lower two, and a kink in the upper left one where
# RLoss reaches the loss of guessing. The measured figure need not agree in all
# of this; the checks say where it does.

# %% [markdown]
# ## Published, measured, difference
#
# RErr in percent. `measured` is the mean over seeds, `std` its standard
# deviation. Fig. 1 has the same table for average-case flatness and RLoss.

# %% tags=["scroll-output"]
table = published.compare(wide, [RERR, WORST])
names = published.stutz2021()["label"].to_dict()
table = table.rename(index=names).rename_axis(None)
display(Markdown(f"**{plots.axis_label(RERR, wide)}, in %**"))
display(table[RERR].mul(100).round(1))
display(Markdown(f"**{plots.axis_label(WORST, wide)}**"))
display(table[WORST].round(2))

# %% [markdown]
# ### Correlation in each view
#
# `low` to `high` is the 95 % bootstrap interval of Pearson's coefficient; a
# method counts once, by its mean over seeds.

# %%
found.round(2)

# %% tags=["hide-input"]
if mine is not None:
    display(Markdown("**Your own networks beside the stored ones** (means)"))
    own = live.beside(ours, mine, [RERR, WORST])
    display(own.rename(index=names).round(3))

# %% [markdown]
# ## Checks
#
# Statements of the paper that these figures are about, each decided by a rule
# fixed beforehand, on the printed and on the measured numbers.

# %% tags=["hide-input"]
about = [
    "kink", "pearson", "spearman", "flatness-rerr", "worst-case-related",
    "worst-case-weaker",
]
claims.table({"published": claims.printed(), "measured": wide}, about)

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
both = found["pearson"].unstack("source").round(2).loc[list(VIEWS)]
_, average, errors, worst = both.itertuples(index=False)
high, theirs = ((df[RLOSS] > GUESSING).sum() for df in (ours, printed))
Markdown(f"""
At profile `{profile}`, average-case flatness correlates with RLoss
({average.measured:.2f}; published {average.published:.2f}) and with RErr
({errors.measured:.2f}; published {errors.published:.2f}), worst-case flatness
with RLoss ({worst.measured:.2f}; published {worst.published:.2f}). Of
{len(ours)} methods {high} have an RLoss above {GUESSING:.2f}, the loss of
guessing; of the {len(printed)} published ones {theirs}.
""")

# %% [markdown]
# RErr counts, RLoss weighs. An attacked image that is just misclassified and
# one that is confidently misclassified count the same in RErr, so RErr can
# stand still while RLoss goes on rising: that is the kink. Worst-case flatness
# looks at the single worst direction in weight space, which depends on the
# curvature there and on how the activation bends; it can rank methods quite
# differently. Where too few methods lie on one side of the kink, its check
# reads "open".
