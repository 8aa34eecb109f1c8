"""Runs and results: ``get`` is the one door to a trained model, ``collect`` the one to a table of
measurements. Nothing is computed twice, a killed run goes on where it was."""

import pandas as pd
import torch

from . import campaign, checks, measures, paths, profiles
from .checkpoints import read_table
from .methods import CATALOGUE, TABLE1, Method, differences
from .profiles import Profile
from .run import Run

SOURCES = ("auto", "committed", "live")


def default_device() -> str:
    """The first GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def named(methods) -> dict[str, Method]:
    """Methods by name from "table1", a name, a list of names, or a Method of one's own."""
    if isinstance(methods, Method):
        slots = ",".join(f"{k}={v}" for k, v in differences(methods).items()) or "at"
        return {"".join(c if c.isalnum() or c in "=.-" else "_" for c in slots)[:60]: methods}
    if methods == "table1":
        methods = TABLE1
    return {name: CATALOGUE[name] for name in ([methods] if isinstance(methods, str) else methods)}


def select(
    methods, profile: str | Profile = "digits", seeds=(0,), device: str | None = None
) -> list[Run]:
    """The runs of some methods and seeds, trained or not: nothing is computed."""
    chosen, device = profiles.get(profile), device or default_device()
    if not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds={list(seeds)!r}: whole numbers, at least 0")
    return [
        Run(name, m, chosen, seed, device) for name, m in named(methods).items() for seed in seeds
    ]


def get(
    method: str | Method, profile: str | Profile = "digits", seed: int = 0,
    device: str | None = None, progress: bool = True,
) -> Run:  # fmt: skip
    """A trained run: loaded when done, continued when begun, trained when absent."""
    (run,) = select(method, profile, (seed,), device)
    return run.train(progress)


def measure(runs: list[Run], wanted=measures.DEFAULT) -> pd.DataFrame:
    """All measures of all runs, one tidy table; only missing rows are computed."""
    return pd.concat([run.measure(wanted) for run in runs], ignore_index=True)


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


def collect(
    methods, profile="digits", seeds=(0,), source="auto", workers: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(measures, histories) of some methods and seeds, both tidy.

    From the committed tables, or live: what is missing is trained and measured first, after saying
    what it costs. Committed rows count only if they are of the methods, the profile and the
    protocol as they are now.
    """
    chosen = select(methods, profile, seeds)
    if source_of(profile, source) == "live":
        campaign.carry_out(chosen, workers=workers)
        return gathered(chosen)
    folder = paths.RESULTS / profiles.get(profile).name
    table, history = (read_table(folder / f"{name}.csv") for name in ("measures", "history"))
    asked = {(run.key, run.protocol) for run in chosen}
    table = table[[row in asked for row in zip(table.key, table.protocol)]]
    lacking = [f"{r.name} (seed {r.seed})" for r in chosen if r.key not in set(table.key)]
    if lacking:
        raise ValueError(
            f"not among the committed results of {profile!r} as they are defined now: "
            f"{', '.join(lacking)}; use source='live'"
        )
    history = history[history.key.isin({run.key for run in chosen})]
    return table.reset_index(drop=True), history.reset_index(drop=True)


def gathered(chosen: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(measures, histories) of finished runs."""
    histories = [
        run.history().assign(method=run.name, profile=run.profile.name, seed=run.seed, key=run.key)
        for run in chosen
    ]
    return measure(chosen), pd.concat(histories, ignore_index=True)


def wide(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row per (method, seed), the columns named as in the published tables (fractions, nats).

    Where a measure was taken at several radii, the first one of the protocol counts.
    """

    def column(row) -> str | None:
        early, train = row.which == "early_stopped", row.split == "train"
        if "flatness" in row.measure:
            return row.measure + ("_train" if train else "") + ("_early_stop" if early else "")
        attack = "" if row.attack == "none" else "_aa" if row.attack == "aa" else "_pgd"
        return row.measure + ("_early_stop" if early else f"_{row.split}") + attack

    table = tidy.assign(column=[column(row) for row in tidy.itertuples()])
    table = table.drop_duplicates(["method", "seed", "column"])
    return table.pivot(index=["method", "seed"], columns="column", values="value").rename_axis(
        columns=None
    )
