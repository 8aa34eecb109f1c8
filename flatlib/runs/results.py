"""The committed results: small tidy tables under data/results/<profile>, read by the book."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from flatlib.catalogue import CATALOGUE
from flatlib.files import atomic, paths, tidy
from flatlib.files.tidy import COLUMNS
from flatlib.runs import robustbench, suites
from flatlib.runs.merging import GROUP, Clash, clash, merged, other_images, others, triples
from flatlib.runs.run import Run
from flatlib.training import profiles

FILES = ("measures.csv", "history.csv")


@dataclass(frozen=True)
class Committed:
    """What ``commit`` found of what it was asked for, in measurements (triples) and runs."""

    folder: Path
    runs: int
    measurements: int
    untrained: int  # runs asked for that are not trained to the end
    unmeasured: int  # measurements asked for that the trained ones lack
    damaged: tuple[str, ...] = ()  # runs left out because a table of theirs is damaged
    clashes: tuple[Clash, ...] = ()  # runs left out because the stored rows are of other weights

    def describe(self) -> str:
        found = f"{_counted(self.measurements, 'measurement')} of {_counted(self.runs, 'run')}"
        text = f"{self.folder} has {found}"
        if self.untrained or self.unmeasured:
            text += f"; missing: {_counted(self.untrained, 'run')} not trained, "
            text += f"{_counted(self.unmeasured, 'measurement')} of trained ones"
        text += f"; damaged and left out: {', '.join(self.damaged)}" if self.damaged else ""
        other = "; ".join(clash.describe() for clash in self.clashes)
        why = "of other weights than the stored rows, which they would replace only in part"
        return text + (f"; left out, {why}: {other}" if other else "")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table of measures in their fixed order, its groups sorted."""
    return table.reindex(columns=COLUMNS).sort_values(GROUP, kind="stable", ignore_index=True)


def histories(chosen: list[Run]) -> pd.DataFrame:
    """The training curves of finished runs, one table."""
    parts = [_curve(run) for run in chosen]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _curve(run: Run) -> pd.DataFrame:
    about = {"method": run.name, "profile": run.profile.name, "seed": run.seed, "key": run.key}
    return run.history().assign(**about, weights=run.last_weights)


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed (measures, history) of one profile; empty tables where there are none."""
    texts = atomic.read_together(folder, FILES)
    kinds = dict(zip(FILES, (tidy.RESULTS, tidy.CURVES)))
    return tuple(_parsed(folder / name, text, kinds[name]) for name, text in texts.items())


def _parsed(path: Path, text: str | None, kind: tidy.Kind) -> pd.DataFrame:
    if text is None:
        return pd.DataFrame(columns=kind.only)
    try:
        return tidy.parsed(text, kind)
    except ValueError as error:
        raise tidy.damaged(path, error) from error


def commit(chosen: list[Run], suite="default", folder: Path | None = None) -> Committed:
    """Merge the runs that have all of a suite into the committed tables; nothing is computed.

    Of several suites those count that a run has all of. The rows of the chosen runs replace older
    ones of the same method, seed and measurement. Those of a model with other weights than the
    stored rows replace all of the run, its curve too, or else the run is named and left out: never
    a mix of two trainings. Rows whose run or protocol is defined differently by now are dropped;
    all others stay. A run with a damaged table is named and left out. ``folder`` is that of the
    tables, by default the profile's.
    """
    profile = _profile(chosen)
    trained = [run for run in chosen if run.done]
    whole = [run for run in trained if _readable(run)]
    found = {run: (rows, _curve(run)) for run in whole if len(rows := _finished(run, suite))}
    folder = folder or paths.RESULTS / profile.name
    damaged = tuple(_who(run) for run in trained if run not in whole)
    lacking = len(chosen) - len(trained), _lacking(whole, suite), damaged
    if not found:
        return Committed(folder, 0, 0, *lacking)
    fresh, clashes = _join(found, folder, profile)
    count = sum(len(triples(rows)) for rows, _ in fresh.values())
    return Committed(folder, len(fresh), count, *lacking, clashes)


def absorb(run: Run, place: Path) -> Committed:
    """Move the tables of one run from ``place`` into those of its profile, by the rules of
    ``commit``. What cannot join them, or was measured by another protocol, stays where it is.
    """
    folder = paths.RESULTS / run.profile.name
    rows, curve = _of(run, read(place))
    if not len(rows) or len(run.current(rows)) < len(rows):
        return Committed(folder, 0, 0, 0, 0)
    fresh, clashes = _join({run: (rows, curve)}, folder, run.profile)
    if fresh:
        shutil.rmtree(place)
    count = sum(len(triples(rows)) for rows, _ in fresh.values())
    return Committed(folder, len(fresh), count, 0, 0, (), clashes)


def complete(run: Run, table: pd.DataFrame, suite) -> bool:
    """Whether a table of measures has all of a suite for this run, by the present protocol."""
    mine = run.current(table[table.key == run.key])
    return set(run.wanted(suite)) <= triples(mine)


def _join(found: dict, folder: Path, profile: profiles.Profile) -> tuple[dict, tuple[Clash, ...]]:
    """Merge runs' (rows, curve) into the tables of ``folder``: those that joined, and why others
    did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # beside what it protects: runs may lie in several folders
        atomic.finish(folder)
        stored = tuple(_current(table, profile) for table in read(folder))
        for rows, _ in found.values():
            if why := other_images(stored[0], rows):
                raise ValueError(f"{folder}: {why}; tables of one profile are of the same images")
        clashes = _clashes(found, stored)
        fresh = {run: tables for run, tables in found.items() if run not in clashes}
        if fresh:
            texts = [
                table.to_csv(index=False, float_format=digits)
                for table, digits in zip(_merged(stored, fresh), ("%.6g", "%.4g"))
            ]
            atomic.write_together(folder, dict(zip(FILES, texts)))
    return fresh, tuple(clashes.values())


def _who(run: Run) -> str:
    return f"{run.name} of seed {run.seed}"


def check(chosen: list[Run]) -> None:
    """Refuse, before any work, runs that ``commit`` could not store, and damaged tables."""
    read(paths.RESULTS / _profile(chosen).name)


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
    except (atomic.Damaged, OSError):
        return False
    return True


def _finished(run: Run, suite) -> pd.DataFrame:
    """The rows of the suites, of those asked for, that the run has all of."""
    several = not isinstance(suite, str) and all(isinstance(part, str) for part in suite)
    whole = [part for part in (suite if several else [suite]) if not run.missing(part)]
    return suites.rows(run.measured(), {triple for part in whole for triple in run.wanted(part)})


def _lacking(trained: list[Run], suite) -> int:
    return sum(len(run.missing(suite)) for run in trained)


def _clashes(found: dict[Run, tuple], stored: tuple) -> dict[Run, Clash]:
    """The runs whose rows cannot join what is stored of them, and why."""
    parts = {run: clash(_who(run), _of(run, stored), tables) for run, tables in found.items()}
    return {run: why for run, why in parts.items() if why is not None}


def _of(run: Run, tables: tuple) -> tuple[pd.DataFrame, ...]:
    return tuple(table[table.key == run.key] for table in tables)


def _merged(stored: tuple, fresh: dict[Run, tuple]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The stored (measures, history) with the rows of runs replaced: all of those on other weights,
    otherwise what was measured again.
    """
    table, curves = stored
    other = [run for run, tables in fresh.items() if others(_of(run, stored), tables)]
    table = table[~table.key.isin({run.key for run in other})]
    table = ordered(merged(table, [rows for rows, _ in fresh.values()], GROUP))
    curves = merged(curves, [curve for _, curve in fresh.values()], ["method", "seed"])
    order = ["method", "seed", "epoch"]
    names = [*order, *(c for c in curves if c not in (*order, "seconds", "weights")), "weights"]
    return table, curves[names].sort_values(order, kind="stable", ignore_index=True)


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
