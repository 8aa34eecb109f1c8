"""The committed results: small tidy tables under data/results/<profile>, read by the book."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from . import checkpoints, paths, profiles, robustbench, suites
from .methods import CATALOGUE
from .run import Run

COLUMNS = (
    "method", "seed", "asked", "which", "epoch", "split", "measure", "attack", "xi", "scope",
    "draws", "at", "n", "value", "std", "seconds", "profile", "key", "protocol", "commit", "torch",
    "device", "images",
)  # fmt: skip
CURVE = ["method", "seed", "key", "epoch"]  # and what was logged
GROUP = ["method", "seed", "asked", "which", "split"]  # what is replaced as one


@dataclass(frozen=True)
class Committed:
    """What ``commit`` found of what it was asked for, in measurements (triples) and runs."""

    folder: Path
    runs: int
    measurements: int
    untrained: int  # runs asked for that are not trained to the end
    unmeasured: int  # measurements asked for that the trained ones lack
    damaged: tuple[str, ...] = ()  # runs left out because a table of theirs is damaged

    def describe(self) -> str:
        found = f"{_counted(self.measurements, 'measurement')} of {_counted(self.runs, 'run')}"
        text = f"{self.folder} has {found}"
        if self.untrained or self.unmeasured:
            text += f"; missing: {_counted(self.untrained, 'run')} not trained, "
            text += f"{_counted(self.unmeasured, 'measurement')} of trained ones"
        return text + (f"; damaged and left out: {', '.join(self.damaged)}" if self.damaged else "")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table of measures in their fixed order, its groups sorted."""
    return table.reindex(columns=COLUMNS).sort_values(GROUP, kind="stable", ignore_index=True)


def histories(chosen: list[Run]) -> pd.DataFrame:
    """The training curves of finished runs, one table."""
    parts = [
        run.history().assign(method=run.name, profile=run.profile.name, seed=run.seed, key=run.key)
        for run in chosen
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed (measures, history) of one profile; empty tables where there are none."""
    empty = {"measures": pd.DataFrame(columns=COLUMNS), "history": pd.DataFrame(columns=CURVE)}
    files = {name: folder / f"{name}.csv" for name in empty}
    return tuple(checkpoints.read_table(f) if f.exists() else empty[k] for k, f in files.items())


def commit(chosen: list[Run], suite="default") -> Committed:
    """Merge the runs that have all of a suite into the committed tables; nothing is computed.

    Of several suites those count that a run has all of. The rows of the chosen runs replace older
    ones of the same method, seed and measurement. Rows whose run or protocol is defined differently
    by now are dropped; all others stay. A run with a damaged table is named and left out.
    """
    profile = _profile(chosen)
    trained = [run for run in chosen if run.done]
    whole = [run for run in trained if _readable(run)]
    found = {run: rows for run in whole if len(rows := _finished(run, suite))}
    fresh = list(found.values())
    folder = paths.RESULTS / profile.name
    damaged = tuple(f"{run.name} of seed {run.seed}" for run in trained if run not in whole)
    lacking = len(chosen) - len(trained), _lacking(whole, suite), damaged
    if not fresh:
        return Committed(folder, 0, 0, *lacking)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # beside what it protects: runs may lie in several folders
        table, curves = read(folder)
        table = tidy(_merged(_current(table, profile), fresh, GROUP))
        curves = _curves(_current(curves, profile), histories(list(found)))
        _write(folder / "measures.csv", table, "%.6g")
        _write(folder / "history.csv", curves, "%.4g")
    count = sum(len(part.drop_duplicates(GROUP)) for part in fresh)
    return Committed(folder, len(fresh), count, *lacking)


def _profile(chosen: list[Run]) -> profiles.Profile:
    """The profile of runs that can be committed: those that a later commit would know again."""
    if not chosen:
        raise ValueError("no runs are given: there is nothing to commit")
    profile = chosen[0].profile
    for run in chosen:
        now = _defined(run.name, run.seed, profile)
        if now is None or now.key != run.key:
            raise ValueError(
                f"{run.name!r} (seed {run.seed}, key {run.key}) is no method of the catalogue at "
                f"profile {profile.name!r}: the next commit would drop its rows, so none are stored"
            )
    return profile


def _readable(run: Run) -> bool:
    try:
        run.measured(), run.history()
    except (checkpoints.Damaged, FileNotFoundError):
        return False
    return True


def _finished(run: Run, suite) -> pd.DataFrame:
    """The rows of the suites, of those asked for, that the run has all of."""
    several = not isinstance(suite, str) and all(isinstance(part, str) for part in suite)
    whole = [part for part in (suite if several else [suite]) if not run.missing(part)]
    return suites.rows(run.measured(), {triple for part in whole for triple in run.wanted(part)})


def _lacking(trained: list[Run], suite) -> int:
    return sum(len(run.missing(suite)) for run in trained)


def _curves(table: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    merged = _merged(table, [fresh], ["method", "seed"]).drop(columns="seconds", errors="ignore")
    order = ["method", "seed", "epoch"]
    first = [*order, *(c for c in merged if c not in order)]
    return merged[first].sort_values(order, kind="stable", ignore_index=True)


def _merged(table: pd.DataFrame, fresh: list[pd.DataFrame], group: list[str]) -> pd.DataFrame:
    """``table`` with its rows of the groups in ``fresh`` replaced."""
    fresh = [part for part in fresh if len(part)]
    there = {key for part in fresh for key in zip(*(part[c] for c in group))}
    kept = [key not in there for key in zip(*(table[c] for c in group))]
    parts = [part for part in (table[np.array(kept, bool)], *fresh) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def _current(table: pd.DataFrame, profile: profiles.Profile) -> pd.DataFrame:
    """The rows whose run, and protocol if they have one, are defined now as they were then."""
    asked = {who: _defined(*who, profile) for who in set(zip(table.method, table.seed))}
    known = {who: run for who, run in asked.items() if run is not None}
    now = {who: run.key for who, run in known.items()}
    kept = [
        now.get((name, seed)) == key for name, seed, key in zip(table.method, table.seed, table.key)
    ]
    table = table[np.array(kept, bool)]
    if "protocol" in table and len(table):
        table = next(iter(known.values())).current(table)
    return table


def _defined(name: str, seed: int, profile: profiles.Profile) -> Run | None:
    """The run of this name as it is defined now, if there is one."""
    if name in CATALOGUE:
        return Run(name, CATALOGUE[name], profile, int(seed))
    return robustbench.run(name, profile) if name in robustbench.NAMES else None


def _write(path: Path, table: pd.DataFrame, digits: str) -> None:
    checkpoints.write(path, table.to_csv(index=False, float_format=digits))
