"""What a page shows: the stored networks, and over them those that its reader has trained."""

from typing import NamedTuple

import pandas as pd

from flatbook import relations
from flatbook.figures import plots
from flatlib import runs
from flatlib.catalogue import CATALOGUE
from flatlib.files import paths
from flatlib.runs import results
from flatlib.training import profiles


class Shown(NamedTuple):
    """Measures and histories as ``runs.collect`` gives them, and the reader's own beside them."""

    measures: pd.DataFrame
    history: pd.DataFrame
    own: pd.DataFrame | None = None  # measures of networks trained here; None: nothing beside
    own_history: pd.DataFrame | None = None

    @property
    def mine(self) -> pd.DataFrame | None:
        """``relations.means`` of the reader's own networks, if they stand beside stored ones."""
        return None if self.own is None else relations.means(runs.wide(self.own))

    @property
    def caption(self) -> str:
        """``plots.caption`` of what is shown, and of the reader's own networks."""
        stored = plots.caption(self.measures)
        return stored if self.own is None else f"{stored} Your own: {plots.caption(self.own)}"


def shown(methods, profile, seeds=(0,), source="auto", all_of=None) -> Shown:
    """What is stored of some methods and seeds; with the source "live" the networks trained here
    beside all that is stored, of the methods ``all_of`` or of whatever there is, or alone where
    nothing is.

    Arguments and errors are those of ``runs.collect``; nothing is computed.
    """
    if runs.source_of(profile, source) == "committed":
        return Shown(*runs.collect(methods, profile, seeds, "committed"))
    own = runs.collect(methods, profile, seeds, "live")
    stored = _stored(profile, all_of)
    return Shown(*stored, *own) if len(stored[0]) else Shown(*own)


def _stored(profile, methods) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All that is stored at a profile, whatever the seeds; empty if that is nothing."""
    table, _ = results.read(paths.RESULTS / profiles.get(profile).name)
    known = [m for m in runs.named(methods or list(CATALOGUE)) if (table.method == m).any()]
    seeds = sorted(map(int, table.seed.unique())) or [0]
    return runs.collect(known or "at", profile, seeds, "committed", needed=False)


def over(stored: pd.DataFrame, mine: pd.DataFrame | None) -> pd.DataFrame:
    """A table of means for a scatter that highlights methods: the reader's own networks under the
    names of their methods, coloured, over the stored ones, grey; without any the stored ones.
    """
    if mine is None:
        return stored
    return pd.concat([stored.rename(index="{}, stored".format), mine])


def lit(methods, mine: pd.DataFrame | None) -> list[str]:
    """What a scatter of ``over`` highlights: these methods, and all of the reader's own."""
    return list(dict.fromkeys([*methods, *(() if mine is None else mine.index)]))


def added(stored: pd.DataFrame, mine: pd.DataFrame | None) -> pd.DataFrame:
    """The same for a picture with a legend of families: the reader's own are one of them."""
    if mine is None:
        return stored
    return pd.concat([stored, mine.rename(index="{}, yours".format).assign(family="yours")])


def beside(stored: pd.DataFrame, mine: pd.DataFrame | None, columns) -> pd.DataFrame | None:
    """Rows of the reader's own methods: columns (column, "yours" or "stored"), means over seeds."""
    if mine is None:
        return None
    both = {"yours": mine, "stored": stored.reindex(mine.index)}
    pairs = {(c, name): df[c] for c in columns for name, df in both.items() if c in df}
    return pd.DataFrame(pairs)
