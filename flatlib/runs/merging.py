"""How rows of runs join a stored table: what they replace, and that no run is ever a mix.

The rows of a run, and its training curve, belong to one training, which the hash of each measured
model's weights tells. Trained again, perhaps on another machine, a run may replace its stored rows
only as a whole.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

TRIPLE = ["asked", "which", "split"]
GROUP = ["method", "seed", *TRIPLE]  # what is replaced as one
SHOWN = 3  # stored measurements that a message names one by one


@dataclass(frozen=True)
class Clash:
    """Rows of a run that may not join its stored ones: weights of both, and what they lack."""

    run: str
    stored: str
    measured: str
    lacking: tuple[str, ...]  # stored measurements that would be left behind

    def describe(self) -> str:
        more = len(self.lacking) - SHOWN
        some = ", ".join(self.lacking[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        without = f", without {some}" if self.lacking else ""
        return f"{self.run} (stored {self.stored}, measured {self.measured}{without})"


def models(rows: pd.DataFrame, curve: pd.DataFrame) -> dict[str, set[str]]:
    """The weights behind the rows of one run, by model; its curve belongs to the last one. Unknown
    ones are "".
    """
    pairs = [*zip(rows.get("which", ()), _weights(rows))]
    found: dict[str, set[str]] = {}
    for which, weights in [*pairs, *(("last", weights) for weights in _weights(curve))]:
        found.setdefault(which, set()).add(weights)
    return found


def _weights(table: pd.DataFrame) -> pd.Series:
    return table.get("weights", pd.Series("", table.index, dtype=str)).fillna("")


def others(stored: tuple, fresh: tuple) -> list[str]:
    """The models that (rows, curve) of a run in ``stored`` and in ``fresh`` both have, and that are
    not known to be the same.
    """
    was, now = models(*stored), models(*fresh)
    return [k for k in was if k in now and (was[k] != now[k] or "" in now[k])]


def clash(name: str, stored: tuple, fresh: tuple) -> Clash | None:
    """Why the rows and the curve of a run, ``fresh``, may not join its ``stored`` ones, if so.

    They may if every model that both have is the same: the rows then complete each other. Otherwise
    they must replace all that is stored.
    """
    was, now = models(*stored), models(*fresh)
    mixed = [which for which, weights in now.items() if len(weights) > 1]
    lacking = triples(stored[0]) - triples(fresh[0])
    why = mixed or (others(stored, fresh) if lacking else [])
    if not why:
        return None
    left = tuple(" ".join(triple) for triple in sorted(lacking))
    return Clash(name, _named(was.get(why[0], ())), _named(now[why[0]]), left)


def _named(weights) -> str:
    return " and ".join(sorted(w or "unknown weights" for w in weights)) or "nothing"


def triples(rows: pd.DataFrame) -> set[tuple]:
    """The (measure, which, split) that rows belong to."""
    return set(zip(*(rows[c] for c in TRIPLE))) if len(rows) else set()


def merged(table: pd.DataFrame, fresh: list[pd.DataFrame], group: list[str]) -> pd.DataFrame:
    """``table`` with its rows of the groups in ``fresh`` replaced."""
    fresh = [part for part in fresh if len(part)]
    there = {key for part in fresh for key in zip(*(part[c] for c in group))}
    kept = [key not in there for key in zip(*(table[c] for c in group))]
    parts = [part for part in (table[np.array(kept, bool)], *fresh) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def other_images(stored: pd.DataFrame, fresh: pd.DataFrame) -> str | None:
    """Why rows may not stand in one table with those of other runs, if they are of other images."""
    stored = stored[~stored["key"].isin(set(fresh["key"]))]
    was, now = (set(table.get("images", pd.Series()).dropna()) for table in (stored, fresh))
    if was and now and was != now:
        return f"measured on {' and '.join(sorted(now))}, stored {' and '.join(sorted(was))}"
    return None
