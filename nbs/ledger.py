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
# # The ledger: every claim, printed and measured
#
# Stutz et al. make many quantitative statements. Each is an entry here: in our
# words, with its place in the paper (a link to the page that shows it) and a
# rule, fixed beforehand, that decides it on a table of numbers. Where a
# sentence has no number, the one asked for is ours and is said. The rules are
# applied to the printed tables and to what was measured here; no verdict is
# written by hand, and "fails" is a result like "holds".
#
# *Not printed* means that the paper shows it in a figure only. *Open* means
# that what the rule needs was not measured, or of too few networks: with
# `source = "committed"` everything stored is used, live only what every method
# is measured with. A page of a figure decides a claim on the networks it shows,
# this ledger on all that are there; the two can differ.
#
# **Cost.** With `source = "committed"` under a minute. Live, the networks of
# `methods` are trained and measured, if they are not there yet.

# %% tags=["parameters"]
profile: str = "digits"  # smoke, digits, cifar10-smoke, cifar10-small, cifar10
source: str = "auto"  # committed, live, or auto (committed if there)
methods: str = "all"  # all, table1, or a list of names
seeds: list = [0, 1, 2]  # networks per method, as far as there are several
workers: int = 2  # networks trained at the same time, if live

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from flatbook import claims, tables
from flatbook.claims import evidence
from flatbook.figures import plate, plots
from flatlib import runs
from flatlib.files import paths

# %% [markdown]
# ## Sources

# %%
runs.train_missing(methods, profile, seeds, source, workers=workers)
ours = evidence.gather(methods, profile, seeds, source)
sources = {"printed": claims.printed(), profile: ours}
for folder in sorted(paths.RESULTS.glob("*/measures.csv")):
    other = folder.parent.name
    if other not in (profile, "smoke"):
        sources[other] = evidence.gather("all", other, seeds, "committed")
found = claims.verdicts(sources)
evidence.describe(sources)

# %% [markdown]
# Of ours: how the numbers were taken.

# %% tags=["hide-input"]
Markdown(plots.caption(ours["tidy"]))

# %% [markdown]
# ## In one look

# %%
counts = found.pivot_table(
    index="topic", columns=["source", "verdict"], values="id", aggfunc="count",
    fill_value=0, sort=False,
)
order = list(dict.fromkeys(found["topic"]))
counts = counts.loc[order, list(sources)]
counts.columns.names, counts.index.name = [None, None], None
counts.loc["all claims"] = counts.sum()
counts

# %% tags=["hide-input"]
kinds = {
    "holds": dict(color="#009E73"),
    "fails": dict(color="#D55E00", hatch="///", edgecolor="white"),
    "open": dict(color="white", edgecolor="#888888"),
}
named = found["verdict"].where(found["verdict"].isin(kinds), "open")
parts = found.assign(kind=named).groupby(["source", "topic", "kind"]).size()
fig, axes = plots.panels(len(sources), height=2.5, legend=0.3)
with plots.style():
    for ax, name in zip(axes[:, 0], sources):
        left = pd.Series(0, index=order)
        for kind, look in kinds.items():
            size = parts[name].unstack(fill_value=0).get(kind, 0 * left)
            size = size.reindex(order, fill_value=0)
            ax.barh(order, size, left=left, height=0.7, label=kind, **look)
            left = left + size
        ax.invert_yaxis()
        ax.set_title(name, loc="left")
    axes[-1, 0].set_xlabel("claims")
    fig.subplots_adjust(left=0.36)
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncols=3)
caption = (
    "Claims of Stutz et al. by topic: how many hold (filled), fail "
    "(hatched) and are open (outlined), on the printed numbers and on "
    "what was measured here. The rules are the same for every source."
)
plate.mount(fig, found, "stutz2021_ledger", caption, profile)

# %% [markdown]
# ## All claims
#
# Numbers in brackets are a 95 % interval: bootstrap over methods for
# correlations, Wilson's for shares of methods; a range over seeds is said to be
# one. Where there is neither, one network speaks for a method, and small
# differences should not be trusted.

# %% tags=["hide-input"]
for topic in order:
    part = found[found["topic"] == topic]
    display(Markdown(f"### {topic}"), tables.Ledger(part))

# %% [markdown]
# ## Reading

# %% tags=["hide-input"]
verdict = found.pivot(index="id", columns="source", values="verdict")
total = verdict.apply(pd.Series.value_counts).reindex(kinds).fillna(0)
decided = verdict.isin(["holds", "fails"])
both = verdict[decided[["printed", profile]].all(axis=1)]
same = (both["printed"] == both[profile]).sum()
Markdown(f"""
On the printed numbers, {total.loc['holds', 'printed']:.0f} of {len(verdict)}
claims hold and {total.loc['fails', 'printed']:.0f} do not; the others are shown
in figures only. At profile `{profile}`, {decided[profile].sum()} can be
decided: {total.loc['holds', profile]:.0f} hold and
{total.loc['fails', profile]:.0f} fail. Of the {len(both)} decided on both
sides, {same} get the same verdict. What the differences may mean is the subject
of the page [What we found](found.ipynb).
""")
