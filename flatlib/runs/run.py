"""One run: a method trained at a profile from a seed, its folder, snapshots, measurements."""

import json
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

from flatlib import checks
from flatlib.data import Dataset, pool_file
from flatlib.files import atomic, clock, paths, tidy
from flatlib.files.atomic import Damaged
from flatlib.files.provenance import provenance
from flatlib.keys import digest
from flatlib.networks import parts
from flatlib.records import MEASURES
from flatlib.records.subject import Subject
from flatlib.runs import suites
from flatlib.training import early_stopping, profiles, snapshots
from flatlib.training.methods import Method, differences
from flatlib.training.profiles import Profile
from flatlib.training.train import fit

# Part of every key: raised when a change of the code changes what a method trains.
TRAINING = 2


def default_device() -> str:
    """The first GPU of this machine if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Run:
    """One method, trained at one profile from one seed.

    Its folder is named by method, content key and seed. It holds ``method.json`` (what was asked
    for), the state and snapshots of training, ``history.csv``, ``measures.csv`` and, once trained,
    ``done``. Files are written atomically; a damaged one is named and left alone. The device "auto"
    is chosen where the work is done, which may be another machine than where the run was selected.
    """

    name: str
    method: Method
    profile: Profile
    seed: int
    device: str = "cpu"

    @property
    def on(self) -> str:
        """The device of this machine that the run is trained and measured on."""
        return default_device() if self.device == "auto" else self.device

    @cached_property
    def key(self) -> str:
        """Ten hex digits of what decides the training: method, the profile's settings, seed."""
        return digest(self.identity, 10)

    @property
    def identity(self) -> dict:
        what = {"method": differences(self.method), "profile": self.profile.training()}
        file = pool_file(self.profile.dataset, self.profile.train)
        if file is not None and self.method.data.unlabelled:
            what["pool"] = f"{file.name}, {file.stat().st_size} bytes"
        return what | {"seed": self.seed, "training": TRAINING}

    def protocol(self, measure: str) -> str:
        """Six hex digits of how the profile takes this measure: part of every row."""
        return digest(MEASURES[measure].protocol(self.profile), 6)

    @property
    def folder(self) -> Path:
        return paths.RUNS / self.profile.name / self.title

    @property
    def title(self) -> str:
        """What its folder is called."""
        return f"{self.name.replace('/', '.')}-{self.key}-s{self.seed}"

    @property
    def teachers(self) -> dict[str, "Run"]:
        """The runs that this one learns from, trained before it and never twice."""
        wanted = profiles.teachers(self.method, self.profile)
        return {name: replace(self, name=name, method=method) for name, method in wanted.items()}

    @property
    def done(self) -> bool:
        return (self.folder / "done").exists()

    def lock(self) -> FileLock:
        """Held while training or measuring: a second process that wants the same run waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    @contextmanager
    def held(self, until: float | None):
        """Holding the lock: ``TimeIsUp`` if another process has it until then."""
        try:
            lock = self.lock().acquire(timeout=clock.left(until))
        except Timeout:
            raise clock.TimeIsUp from None
        with lock:
            atomic.sweep(self.folder)
            yield

    def busy(self) -> bool:
        """Whether another process trains or measures it at this moment."""
        try:
            with self.lock().acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # a full disk, say: whoever trains it will be told
            return False

    def train(self, progress: bool = False, until: float | None = None) -> "Run":
        """Train, or go on training, until done; ``TimeIsUp`` after ``until`` (``time.time()``)."""
        if not self.done:
            with self.held(until):
                if not self.done:
                    self._train(progress, until)
        snapshots.record(self.folder)  # refused if damaged
        self._clear()
        return self

    def _train(self, progress: bool, until: float | None) -> None:
        self._state_what()
        taught = {name: run.train(progress, until).model() for name, run in self.teachers.items()}
        _, history = fit(
            self.method, self.profile, self.seed, self.folder, self.on, progress, until, taught
        )
        snapshots.complete(self.folder, self.expected)
        record = provenance(self.on) | {"weights": snapshots.hashes(self.folder)}
        atomic.write(self.folder / "history.csv", history.to_csv(index=False))
        atomic.write(self.folder / "done", json.dumps(record, indent=1))

    def _state_what(self) -> None:
        """Write what was asked for, or compare it with what an earlier call wrote."""
        path = self.folder / "method.json"
        what = json.dumps(self.identity, indent=1, sort_keys=True)
        if path.exists() and path.read_text() != what:
            raise Damaged(f"{path} describes another run than its folder's name: move it away")
        atomic.write(path, what)

    def _clear(self) -> None:
        """Remove what a finished run needs no more, also behind a kill, if no other is at it."""
        state = self.folder / "state.safetensors"
        if state.exists():
            with suppress(Timeout, OSError), self.lock().acquire(blocking=False):
                state.unlink(missing_ok=True)

    @property
    def hashes(self) -> dict[str, str]:
        """The weights of the kept models by epoch; none of runs from before they were kept."""
        return snapshots.record(self.folder).get("weights", {}) if self.done else {}

    @property
    def last_weights(self) -> str:
        """The weights of the last model, "" if they are not known."""
        return self.hashes.get(str(max(self.expected)), "")

    @property
    def expected(self) -> list[int]:
        """The epochs whose models are kept."""
        return snapshots.expected(self.method, self.profile)

    def history(self) -> pd.DataFrame:
        """A row per epoch: the training curves."""
        path = self.folder / "history.csv"
        table = tidy.read(path, tidy.HISTORY)
        if table.epoch.tolist() != list(range(max(self.expected) + 1)):
            raise tidy.damaged(path, ValueError(f"its epochs are {table.epoch.tolist()}"))
        return table

    def snapshots(self) -> dict[int, Path]:
        """Kept models by epoch, ascending; epochs count from 0."""
        return snapshots.kept(self.folder)

    def drop(self) -> None:
        """Remove the models of a finished run: its tables stay, nothing more can be measured. Those
        of a run that another process is at are left to it.
        """
        if self.done and self.snapshots():
            with suppress(Timeout), self.lock().acquire(blocking=False):
                for file in self.snapshots().values():
                    file.unlink()

    def _kept(self) -> dict[int, Path]:
        """The snapshots of a finished run, all of them; of another one those there are."""
        if self.done:
            return snapshots.complete(self.folder, self.expected)
        if not self.snapshots():
            why = "no model is there yet: call runs.get(...) first"
            raise FileNotFoundError(f"{self.folder}: {why}")
        return self.snapshots()

    def model(self, which: str | int = "last") -> nn.Module:
        """The model in eval mode: "last", "early_stopped", "epoch-NNN" or the number of a kept
        epoch, or "scaled-S": the last one, its convolutions times S.
        """
        known, kept = self.hashes, self._kept()
        epoch = which if isinstance(which, int) else self.epoch(which)
        checks.choice("which", epoch, kept)
        net = profiles.evaluated(profiles.network(self.method, self.profile, self.data))
        model = snapshots.fill(net.to(self.on), kept[epoch], known.get(str(epoch)), self.name)
        s = suites.factor(which)
        return (parts.scaled(model, s) if s else model).eval()

    @property
    def data(self) -> Dataset:
        return load(self.profile, self.on)

    def epoch(self, which: str) -> int:
        """The epoch of the model that ``which`` names; see ``early_stopping`` for one of them."""
        suites.check_which(which)
        if which.startswith("epoch-"):
            return int(which.removeprefix("epoch-"))
        if not self.done and self._kept():
            raise FileNotFoundError(
                f"{self.folder}: not trained to the end, which={which!r} is not there yet: call "
                "runs.get(...) first"
            )
        return early_stopping.stopped(self) if which == "early_stopped" else max(self.expected)

    def measured(self) -> pd.DataFrame:
        """The tidy rows there are by the profile's present protocol."""
        path = self.folder / "measures.csv"
        empty = pd.DataFrame({name: [] for name in ("asked", "which", "split", "protocol")})
        return self.current(self._own(path) if path.exists() else empty).reset_index(drop=True)

    def _own(self, path: Path) -> pd.DataFrame:
        return snapshots.rows(path, self.key, self.hashes)

    def current(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a tidy table whose measure was taken by the profile's present protocol."""
        now = {measure: self.protocol(measure) for measure in MEASURES}
        return table[table.protocol == table.asked.map(now)]

    def wanted(self, suite="default") -> tuple[suites.Triple, ...]:
        """The (measure, which, split) of a suite: its name, several names, or triples."""
        return suites.triples(suite, self.method, self.profile)

    def missing(self, suite="default") -> list[suites.Triple]:
        """What of a suite has no rows yet."""
        table = self.measured()
        there = set(zip(table.asked, table.which, table.split))
        return [w for w in self.wanted(suite) if w not in there]

    def measure(self, suite="default", until: float | None = None) -> pd.DataFrame:
        """The tidy rows of a suite; only missing ones are computed, each kept at once.

        ``TimeIsUp`` before the first measure that would begin after ``until`` (``time.time()``).
        """
        if self.missing(suite):
            with self.held(until):
                subjects: dict = {}
                for triple in self.missing(suite):
                    clock.check(until)
                    self._add(self._rows(*triple, subjects))
        return suites.rows(self.measured(), self.wanted(suite))

    def _rows(self, name: str, which: str, split: str, subjects: dict) -> pd.DataFrame:
        """Computed, or copied where the early-stopped model is the last one."""
        if which == "early_stopped" and self.epoch(which) == self.epoch("last"):
            there = suites.rows(self.measured(), [(name, "last", split)])
            if len(there):
                return there.assign(which=which, seconds=0.0)
        return self._compute(name, which, split, subjects)

    def _compute(self, name: str, which: str, split: str, subjects: dict) -> pd.DataFrame:
        started, where = time.perf_counter(), (which, split)
        if where not in subjects:
            subjects.clear()  # one model at a time
            model = snapshots.finite(self.model(which), f"{self.name}, {which}")
            subjects[where] = Subject(model, self.data, self.profile, split)
        rows = pd.DataFrame(MEASURES[name].rows(subjects[where]))
        about = {"method": self.name, "profile": self.profile.name, "seed": self.seed}
        about |= {"images": self.data.origin} if self.data.origin else {}
        about |= {"key": self.key, "weights": snapshots.weights(subjects[where].model)}
        about |= {"protocol": self.protocol(name), "asked": name, "which": which}
        about |= {"epoch": self.epoch(which), "seconds": round(time.perf_counter() - started, 2)}
        return rows.assign(**about, **provenance(self.on))

    def _add(self, rows: pd.DataFrame) -> None:
        path = self.folder / "measures.csv"
        table = pd.concat([self._own(path), rows]) if path.exists() else rows
        atomic.write(path, table.to_csv(index=False))


@cache
def load(profile: Profile, device: str = "cpu") -> Dataset:
    """The data of a profile, loaded once per process."""
    return profile.load().to(device)
