"""Runs and results: ``get`` is the one door to a trained model, ``collect`` the one to a table of measurements.

A run folder is named by method, content key and seed. It holds ``method.json`` (what was asked for), the state and
snapshots of training, ``history.csv``, ``measures.csv`` and, at the end of training, ``done``. Every file is written
atomically; a killed run goes on where it was; a damaged file is named and left alone.
"""

import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from torch import nn

from . import checkpoints, checks, measures, paths, profiles
from .attacks import PGD
from .checkpoints import Damaged
from .data import Dataset
from .evaluate import evaluate
from .methods import CATALOGUE, TABLE1, Method, differences
from .profiles import Profile
from .train import fit

TRAINING = 1  # raised when a change of the code changes what a method trains
SOURCES = ("auto", "committed", "live")
EARLY_RESTARTS = 5


@dataclass(frozen=True)
class Run:
    """One method, trained at one profile from one seed."""

    name: str
    method: Method
    profile: Profile
    seed: int
    device: str = "cpu"

    @cached_property
    def key(self) -> str:
        """Ten hex digits of what decides the training: differences from AT, profile, seed."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()[
            :10
        ]

    def _identity(self) -> dict:
        what = {
            "method": differences(self.method),
            "profile": self.profile.training(),
            "seed": self.seed,
        }
        return what | {"training": TRAINING}

    @property
    def folder(self) -> Path:
        return paths.RUNS / self.profile.name / f"{self.name}-{self.key}-s{self.seed}"

    @property
    def done(self) -> bool:
        return (self.folder / "done").exists()

    def train(self, progress: bool = False) -> "Run":
        """Train, or go on training, until done. A second process that wants the same run waits for the first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not self.done:
                self._state_what()
                _, history = fit(
                    self.method, self.profile, self.seed, self.folder, self.device, progress
                )
                checkpoints.write(self.folder / "history.csv", history.to_csv(index=False))
                checkpoints.write(self.folder / "done", json.dumps(provenance(self.device)))
                (self.folder / "state.safetensors").unlink()
        return self

    def _state_what(self) -> None:
        """Write what was asked for, or compare it with what an earlier call wrote."""
        path, what = (
            self.folder / "method.json",
            json.dumps(self._identity(), indent=1, sort_keys=True),
        )
        if path.exists() and path.read_text() != what:
            raise Damaged(
                f"{path} describes another run than its folder's name; move the folder away"
            )
        checkpoints.write(path, what)

    def history(self) -> pd.DataFrame:
        """A row per epoch: the training curves."""
        return read_table(self.folder / "history.csv")

    def snapshots(self) -> dict[int, Path]:
        """Kept models by epoch, ascending; numbered from 0."""
        return {
            int(p.stem.split("-")[1]): p for p in sorted(self.folder.glob("epoch-*.safetensors"))
        }

    def model(self, which: str | int = "last") -> nn.Module:
        """The model in eval mode: "last", "early_stopped", or of the epoch with this number."""
        kept = self.snapshots()
        if not kept:
            raise FileNotFoundError(
                f"{self.folder} holds no trained model: call runs.get(...) first"
            )
        epoch = {"last": max(kept), "early_stopped": None}.get(which, which)
        epoch = self.early_epoch() if epoch is None else epoch
        checks.choice("which", epoch, kept)
        tensors, _ = checkpoints.load(kept[epoch], self.device)
        model = profiles.evaluated(profiles.network(self.method, self.profile, self._data)).to(
            self.device
        )
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise Damaged(
                f"{kept[epoch]} does not fit the network of {self.name}: {error}"
            ) from error
        return model.eval()

    @property
    def _data(self) -> Dataset:
        return load(self.profile, self.device)

    def early_epoch(self) -> int:
        """The snapshot of smallest RErr under PGD-7 with 5 restarts on the early-stopping images, the first on ties."""
        path = self.folder / "early_stopping.csv"
        if not path.exists():
            attack = PGD(eps=self.profile.eps, restarts=EARLY_RESTARTS)
            rows = []
            for epoch in self.snapshots():
                report = evaluate(
                    self.model(epoch), *self._data.early, attack, batch=256, doubts=False
                )
                rows.append({"epoch": epoch, "rerr": report.RErr, "rloss": report.RLoss})
            checkpoints.write(path, pd.DataFrame(rows).to_csv(index=False))
        table = read_table(path)
        return int(table.epoch[table.rerr.idxmin()])

    def measure(self, wanted=measures.DEFAULT) -> pd.DataFrame:
        """The measures (name, which model, which split) as tidy rows; only missing ones are computed."""
        for name, which, split in wanted:
            checks.choice("measure", name, measures.MEASURES)
            checks.choice("which", which, ("last", "early_stopped"))
            checks.choice("split", split, ("test", "train"))
        path = self.folder / "measures.csv"
        with FileLock(self.folder / ".lock"):
            table = read_table(path) if path.exists() else pd.DataFrame()
            protocol = hashlib.sha256(repr(self._protocol()).encode()).hexdigest()[:6]
            there = (
                set()
                if table.empty
                else set(zip(table.asked, table.which, table.split, table.protocol))
            )
            subjects: dict = {}
            for name, which, split in wanted:
                if (name, which, split, protocol) not in there:
                    rows = self._measured(name, which, split, subjects)
                    table = pd.concat([table, rows.assign(protocol=protocol)], ignore_index=True)
                    checkpoints.write(path, table.to_csv(index=False))
        return table[table.protocol == protocol].reset_index(drop=True)

    def _protocol(self) -> tuple:
        return self.profile.protocol, self.profile.test

    def _measured(self, name: str, which: str, split: str, subjects: dict) -> pd.DataFrame:
        import time

        started = time.perf_counter()
        if (which, split) not in subjects:
            model = self.model(which)
            subjects[which, split] = measures.Subject(model, self._data, self.profile, split)
        rows = pd.DataFrame(measures.MEASURES[name](subjects[which, split]))
        epoch = max(self.snapshots()) if which == "last" else self.early_epoch()
        about = {
            "method": self.name,
            "profile": self.profile.name,
            "seed": self.seed,
            "key": self.key,
        }
        about |= {"asked": name, "which": which, "epoch": epoch}
        about |= {"seconds": round(time.perf_counter() - started, 2)} | provenance(self.device)
        return rows.assign(**about)


@cache
def load(profile: Profile, device: str = "cpu") -> Dataset:
    """The data of a profile, loaded once per process."""
    return profile.load().to(device)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV written by flatlib; a damaged one is named."""
    try:
        return pd.read_csv(StringIO(path.read_text()), comment=None)
    except (ValueError, UnicodeDecodeError) as error:
        raise Damaged(
            f"{path} is damaged ({error}). Nothing was overwritten: move it away to compute it anew"
        ) from error


@cache
def provenance(device: str = "cpu") -> dict[str, str]:
    """Code, libraries and hardware behind a number."""
    git = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(
            git, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    name = (
        torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu ({platform.machine()})"
    )
    return {"commit": commit, "torch": torch.__version__, "device": name}


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def named(methods) -> dict[str, Method]:
    """Methods by name from "table1", a name, a Method, or a list of names; unknown names are refused."""
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
    method: str | Method, profile: str | Profile = "digits", seed: int = 0, device: str | None = None,
    progress: bool = True,
) -> Run:  # fmt: skip
    """A trained run: loaded when done, continued when begun, trained when absent."""
    (run,) = select(method, profile, (seed,), device)
    return run.train(progress)


def measure(runs: list[Run], wanted=measures.DEFAULT) -> pd.DataFrame:
    """All measures of all runs, one tidy table; only missing rows are computed."""
    return pd.concat([run.measure(wanted) for run in runs], ignore_index=True)


def source_of(profile: str | Profile, source: str = "auto") -> str:
    """ "committed" or "live": what "auto" means for this profile is committed wherever results are."""
    checks.choice("source", source, SOURCES)
    there = (paths.RESULTS / profiles.get(profile).name / "measures.csv").exists()
    if source == "committed" and not there:
        have = sorted(p.parent.name for p in paths.RESULTS.glob("*/measures.csv"))
        raise ValueError(
            f"source='committed': no results of profile {profile!r}, only of {have}; use source='live'"
        )
    return ("committed" if there else "live") if source == "auto" else source


def collect(
    methods, profile="digits", seeds=(0,), source="auto", workers: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(measures, histories) of some methods and seeds, both tidy.

    From the committed tables, or live: what is missing is trained and measured first, after saying what it costs.
    """
    chosen = select(methods, profile, seeds)
    if source_of(profile, source) == "committed":
        folder = paths.RESULTS / profiles.get(profile).name
        tables = (read_table(folder / f"{name}.csv") for name in ("measures", "history"))
        wanted = pd.MultiIndex.from_tuples([(run.name, run.seed) for run in chosen])
        found = [t[pd.MultiIndex.from_frame(t[["method", "seed"]]).isin(wanted)] for t in tables]
        missing = wanted.difference(pd.MultiIndex.from_frame(found[0][["method", "seed"]]))
        if len(missing):
            raise ValueError(
                f"not among the committed results of {profile!r}: {list(missing)}; use source='live'"
            )
        return tuple(t.reset_index(drop=True) for t in found)
    from .batch import campaign

    campaign(chosen, workers=workers)
    return gathered(chosen)


def gathered(chosen: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(measures, histories) of finished runs."""
    about = [{"method": run.name, "profile": run.profile.name, "seed": run.seed} for run in chosen]
    histories = [run.history().assign(**row) for run, row in zip(chosen, about)]
    return measure(chosen), pd.concat(histories, ignore_index=True)


_SIDES = {"last": "", "early_stopped": "_early_stop"}


def wide(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row per (method, seed), the columns named as in the published tables (fractions, nats).

    Where a measure was taken at several radii the profile's first one counts (the largest worst-case xi).
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
