"""Runs and results: ``get`` is the one door to a trained model, ``collect`` the one to a table of
measurements. Nothing is computed twice, a killed run goes on where it was."""

import json

import pandas as pd
import torch

from flatlib import checks
from flatlib.catalogue import CATALOGUE, GROUPS
from flatlib.files import paths, progress
from flatlib.records import columns
from flatlib.runs import campaign, results, robustbench, suites
from flatlib.runs.run import Run
from flatlib.training import profiles
from flatlib.training.methods import Method, differences
from flatlib.training.profiles import DEFAULT, Profile

SOURCES = ("auto", "committed", "live")
NAMED = 12  # methods that a caption names one by one


def named(methods) -> dict[str, Method]:
    """Methods by name: one or a group of the catalogue ("table1", "all"), a list of these, or a
    Method of one's own.
    """
    if isinstance(methods, Method):
        slots = ",".join(f"{k}={v}" for k, v in differences(methods).items()) or "at"
        return {"".join(c if c.isalnum() or c in "=.-" else "_" for c in slots)[:60]: methods}
    asked = _listed(methods)
    return {name: CATALOGUE[name] for part in asked for name in GROUPS.get(part, (part,))}


def _listed(methods) -> list[str]:
    """Names as a list; papermill's command line hands a list on as text, "[at, trades6]"."""
    if not isinstance(methods, str):
        return list(methods)
    inside = methods.strip().removeprefix("[").removesuffix("]")
    return [part.strip(" '\"") for part in inside.split(",")] if "[" in methods else [methods]


def select(
    methods, profile: str | Profile = DEFAULT, seeds=(0,), device: str | None = "auto"
) -> list[Run]:
    """The runs of some methods and seeds, trained or not: nothing is computed.

    ``methods`` as for ``named``, and "robustbench" or names of its networks, at profiles of
    CIFAR-10: they have one run, whatever the seeds. The device "auto" is the first GPU, if there is
    one, of the machine that trains or measures.
    """
    chosen, device = profiles.get(profile), _device(device)
    given, seeds = seeds, _several(seeds)
    if not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds={given!r}: whole numbers, at least 0")
    external, own = _external(methods)
    others = [robustbench.run(name, chosen, device) for name in external]
    mine = [Run(name, m, chosen, seed, device) for name, m in named(own).items() for seed in seeds]
    return mine + others


def _several(seeds) -> list:
    """Seeds as a list; one may be given by itself, and text as papermill's command line hands a
    list on, "[0, 1]".
    """
    try:
        given = json.loads(seeds) if isinstance(seeds, str) else checks.plain(seeds)
        return [given] if isinstance(given, int) else [checks.plain(seed) for seed in given]
    except (TypeError, ValueError):
        raise ValueError(f"seeds={seeds!r}: whole numbers, such as 0 or [0, 1]") from None


def _device(device: str | None) -> str:
    """A device by name, here or on another machine; "auto" for none."""
    try:
        return str(torch.device(device)) if device not in (None, "auto") else "auto"
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r}: auto, cpu, cuda or cuda:1") from None


def _external(methods) -> tuple[list[str], object]:
    """The networks of RobustBench among ``methods`` ("robustbench": all), and the rest."""
    if isinstance(methods, Method):
        return [], methods
    asked = _listed(methods)
    names = {"robustbench": list(robustbench.NAMES)} | {n: [n] for n in robustbench.NAMES}
    external = dict.fromkeys(n for part in asked for n in names.get(part, ()))
    return list(external), [part for part in asked if part not in names]


def get(
    method: str | Method, profile: str | Profile = DEFAULT, seed: int = 0,
    device: str | None = "auto", progress: bool = True,
) -> Run:  # fmt: skip
    """A trained run: loaded when done, continued when begun, trained when absent."""
    chosen = select(method, profile, (seed,), device)
    if len(chosen) != 1:
        raise ValueError(f"method={method!r}: one method wanted, these are {len(chosen)}")
    (run,) = chosen
    return run.train(progress)


def measure(runs: list[Run], suite="default") -> pd.DataFrame:
    """The measures of a suite for all runs, one tidy table; only missing rows are computed."""
    if not runs:
        return pd.DataFrame(columns=results.COLUMNS)
    return pd.concat([run.measure(suite) for run in runs], ignore_index=True)


def source_of(profile: str | Profile, source: str = "auto") -> str:
    """What ``source`` means here: "auto" is "committed" where results are, else "live"."""
    checks.choice("source", source, SOURCES)
    there = (paths.RESULTS / profiles.get(profile).name / "measures.csv").exists()
    if source == "committed" and not there:
        have = sorted(p.parent.name for p in paths.RESULTS.glob("*/measures.csv"))
        raise ValueError(
            f"source='committed': no results of profile {profile!r}, only of {have}; "
            "use source='live'"
        )
    return ("committed" if there else "live") if source == "auto" else source


def train_missing(
    methods, profile=DEFAULT, seeds=(0,), source="live", suite="default", workers: int = 1
) -> None:
    """Where ``source`` means live: train and measure what is not there yet, after saying what it
    costs. Nothing is done where it means the committed tables, or where nothing is missing.

    Runs that fail are told; ``campaign.Failed`` if no other is there to be read either.
    """
    chosen = select(methods, profile, seeds)
    if source_of(profile, source) == "committed":
        return
    try:
        campaign.carry_out(chosen, suite, workers)
    except campaign.Failed as error:
        if not any(campaign.finished(run, suite) for run in chosen):
            raise
        progress.say(str(error))


def collect(
    methods, profile=DEFAULT, seeds=(0,), source="auto", suite="default", needed: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(measures, histories) of some methods and seeds, both tidy, read and never computed.

    From the committed tables or, live, from the runs on this machine (``train_missing`` makes
    them); ``suite`` says which measures. Rows count only if they are of the methods, the profile
    and the protocol as they are now; what they lack is named in ``attrs["lacking"]`` of the
    measures, which captions show. If nothing is there, a ValueError says how to get it; with
    ``needed=False`` the tables are empty.
    """
    chosen = select(methods, profile, seeds)
    chosen[0].wanted(suite)  # refused by name where it means nothing
    try:
        read = _from_here if source_of(profile, source) == "live" else _from_tables
        parts, history = read(chosen, suite)
        if not parts:
            raise ValueError(_nothing(methods, profile, seeds, source, suite))
    except ValueError:
        if needed:
            raise
        return pd.DataFrame(columns=results.COLUMNS), pd.DataFrame()
    table = pd.concat(parts.values(), ignore_index=True)
    if lacking := [run for run in chosen if run not in parts]:
        table.attrs["lacking"] = f"not measured yet: {_described(lacking, chosen)}"
    return table, history.reset_index(drop=True)


def _from_tables(chosen: list[Run], suite) -> tuple[dict[Run, pd.DataFrame], pd.DataFrame]:
    """The rows of those runs that the committed tables have all of, and their histories."""
    table, history = results.read(paths.RESULTS / chosen[0].profile.name)
    parts = {run: _committed(run, table, suite) for run in chosen}
    parts = {run: part for run, part in parts.items() if part is not None}
    return parts, history[history.key.isin({run.key for run in parts})]


def _from_here(chosen: list[Run], suite) -> tuple[dict[Run, pd.DataFrame], pd.DataFrame]:
    """The rows of those runs of this machine that have all of the suite, and their histories."""
    there = [run for run in chosen if campaign.finished(run, suite)]
    parts = {run: suites.rows(run.measured(), run.wanted(suite)) for run in there}
    return parts, results.histories(there)


def _nothing(methods, profile, seeds, source, suite) -> str:
    """What to do where nothing is there to be read."""
    asked = f"methods={methods!r}, seeds={_several(seeds)}"
    where = f"of profile {profiles.get(profile).name!r} (suite {suite!r})"
    if source_of(profile, source) == "live":
        return f"{asked}: none is among the runs {where}; runs.train_missing(...) trains them"
    return (
        f"{asked}: none is among the committed results {where} as they are defined now; use "
        "source='live'"
    )


def _described(lacking: list[Run], chosen: list[Run]) -> str:
    """Runs by seed: all of them, their names, or only how many they are."""
    parts = []
    for seed in sorted({run.seed for run in lacking}):
        names = [run.name for run in lacking if run.seed == seed]
        whole = len(names) == sum(run.seed == seed for run in chosen)
        some = ", ".join(names) if len(names) <= NAMED else f"{len(names)} methods"
        parts.append(f"seed {seed} of {'all methods' if whole else some}")
    return "; ".join(parts)


def _committed(run: Run, table: pd.DataFrame, suite) -> pd.DataFrame | None:
    """The rows of a suite for one run, or None if any is not there by the present definitions."""
    wanted = run.wanted(suite)
    mine = suites.rows(run.current(table[table.key == run.key]), wanted)
    there = set(zip(mine.asked, mine.which, mine.split))
    return mine.assign(method=run.name) if there == set(wanted) else None


def wide(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row per (method, seed), the columns named as in the published tables (fractions, nats).

    Flatness is that at the protocol's own radius, kept in ``attrs["xi"]`` by column, and what
    varies has its standard deviation (of flatness, over weight draws) as "<column>_std". Of the
    models only the last and the early-stopped one enter. Where the protocol itself takes several
    radii, its first one counts.
    """
    tidy = tidy.reindex(columns=[*dict.fromkeys((*tidy, "std", "xi"))])  # not all have them
    table = columns.named(tidy[tidy.which.isin(("last", "early_stopped"))])
    table = table[~table.column.str.contains("@")]
    table = table.drop_duplicates(["method", "seed", "column"])
    spread = table[table["std"].notna()]
    spread = spread.assign(column=spread.column + "_std", value=spread["std"])
    found = pd.concat([table, spread]).pivot(
        index=["method", "seed"], columns="column", values="value"
    )
    found.attrs["xi"] = columns.radii(table)
    return found.rename_axis(columns=None)
