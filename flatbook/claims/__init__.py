"""The ledger decided: every claim on every source, printed or measured. Nothing is typed by hand.

`ledger` holds the claims, `predicates`, `comparisons` and `trajectories` what decides them,
`evidence` makes the tables they are decided on.
"""

import math
from dataclasses import fields, is_dataclass

import pandas as pd

from flatbook.claims import evidence
from flatbook.claims.evidence import printed
from flatbook.claims.ledger import GUESSING, LEDGER
from flatbook.claims.predicates import Claim, Verdict

__all__ = ["GUESSING", "LEDGER", "Claim", "Verdict", "find", "printed", "table", "verdicts"]
COLUMNS = ("id", "paper", "topic", "place", "item", "statement", "source", "verdict", "value",
           "low", "high", "shown")  # fmt: skip
OPEN = {"printed": "not printed", "published": "not printed"}  # source -> what is said of a gap


def verdicts(tables, ledger=None):
    """A row per claim and source: fields of the claim, source, verdict, value, low, high, shown.

    tables: source name -> a wide table, or a dict of the tables of `evidence.tables`. verdict is
    "holds" or "fails", decided on means over seeds, or "open" ("not printed" for a source called
    printed or published) where columns or rows are missing or NaN, or too few. low and high: the
    95 % interval of the value over methods, else its range over seeds; NaN if there is neither.
    """
    rows = []
    for source, given in tables.items():
        ready = evidence.tables(given)
        for claim in LEDGER if ledger is None else ledger:
            there = claim.reads in ready
            found = _decide(claim, _alike(claim, ready[claim.reads])) if there else None
            rows.append(_row(claim, source, found))
    df = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {claim.id: k for k, claim in enumerate(LEDGER if ledger is None else ledger)}
    return df.sort_values("id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)


def find(ids, paper="stutz2021"):
    """The claims of these ids, in their order; one without a paper in front is of ``paper``."""
    known = {claim.id: claim for claim in LEDGER}
    full = [i if i in known else f"{paper}-{i}" for i in ids]
    unknown = [i for i, name in zip(ids, full) if name not in known]
    if unknown:
        raise ValueError(f"ids={unknown!r} name no claim of {paper!r}; all: {list(known)}")
    return [known[name] for name in full]


def table(tables, ids, paper="stutz2021"):
    """Statement by source, in words: verdict and finding of the claims of these ids.

    tables: as for `verdicts`; ids as for `find`: "pearson" is "stutz2021-pearson".
    """
    found = verdicts(tables, find(ids, paper))
    found["words"] = (found["verdict"] + ": " + found["shown"]).str.removesuffix(": ")
    words = found.pivot(index="statement", columns="source", values="words")
    words = words.reindex(index=list(dict.fromkeys(found["statement"])), columns=list(tables))
    return words.rename_axis(index=None, columns=None)


def _alike(claim, table):
    """Of each method the seeds that have every column the claim names, if any has: suites are
    measured of different seeds, and numbers of one are not compared with those of another.
    """
    if claim.reads != "models" or "seed" not in table:
        return table
    asked = [column for column in dict.fromkeys(_words(claim.predicate)) if column in table]
    whole = table[asked].notna().all(axis=1)
    return table[whole | ~whole.groupby(table["method"]).transform("any")]


def _words(part):
    """All texts among the settings of a predicate, at any depth."""
    if isinstance(part, str):
        yield part
    inside = [getattr(part, f.name) for f in fields(part)] if is_dataclass(part) else part
    for one in inside if isinstance(inside, (list, tuple)) else ():
        yield from _words(one)


def _decide(claim, seeds):
    """The verdict on the mean over seeds, with the range over seeds where it has no interval."""
    found = claim.predicate(evidence.means(claim.reads, seeds))
    if found is None or not math.isnan(found.low) or "seed" not in seeds:
        return found
    each = [claim.predicate(evidence.means(claim.reads, part)) for _, part in seeds.groupby("seed")]
    values = [verdict.value for verdict in each if verdict is not None]
    if len(values) < 2:
        return found
    low, high = float(min(values)), float(max(values))
    shown = f"{found.shown} ({low:.2f} to {high:.2f} over {len(values)} seeds)"
    return found._replace(low=low, high=high, shown=shown)


def _row(claim, source, found):
    fields = (claim.id, claim.paper, claim.topic, claim.place, claim.item, claim.statement, source)
    if found is None:
        return (*fields, OPEN.get(source, "open"), *(math.nan,) * 3, "")
    verdict = "holds" if found.holds else "fails"
    return (*fields, verdict, float(found.value), float(found.low), float(found.high), found.shown)
