"""What a batch of runs will cost, before it starts: gradient steps counted, a few of them timed."""

import statistics
import time
from dataclasses import dataclass
from functools import cache

import torch

from flatlib.attacks.attack import Attack
from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import freeze
from flatlib.files.atomic import Damaged
from flatlib.records import MEASURES
from flatlib.records.measure import WEIGHT_STEP, Size
from flatlib.training import profiles
from flatlib.training.profiles import Profile

MEASURED = 128  # images at once


@dataclass(frozen=True)
class Estimate:
    """Seconds of work in all, the number of runs, and over how many workers they are spread."""

    seconds: float
    runs: int
    workers: int

    def describe(self) -> str:
        wall = self.seconds / min(self.workers, self.runs)
        text = f"{wall / 3600:.1f} hours" if wall > 5400 else f"{max(1, round(wall / 60))} min"
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"{runs} to train and measure: about {text} with {self.workers} worker(s)"


def estimate(todo: list, suite, workers: int) -> Estimate:
    """The cost of training and measuring ``todo``, and of training what it learns from, from an
    attack step timed once per device and profile: on a batch of training, and on one of a measure.
    """
    timed = cache(seconds_per_image)
    total, untrained = 0.0, set()
    for run in todo:
        try:
            missing = run.missing(suite)
        except (Damaged, OSError):
            continue  # nothing is computed of it: the campaign will name it
        work = sum(measuring(run.profile, name, split) for name, _, split in missing)
        if any(which == "early_stopped" for _, which, _ in missing):
            work += stopping(run.method, run.profile)
        total += work * timed(run.profile, here(run), MEASURED)
        if not run.done:
            untrained |= {run, *run.teachers.values()}
    for run in untrained:
        work = 0 if run.done else training(run.method, run.profile)
        total += work * timed(run.profile, here(run), run.profile.batch)
    return Estimate(total, len(todo), workers)


def here(run) -> str:
    """The device to time a run on; workers of a cluster may have a GPU that this machine lacks."""
    return run.on if torch.cuda.is_available() or not run.on.startswith("cuda") else "cpu"


def training(method, profile: Profile) -> float:
    """Attack steps, counted per image, of training a method; test curves included."""
    steps = method.attack.steps_per_image if isinstance(method.attack, Attack) else 0
    epochs = profiles.epochs(method, profile) * method.optimiser.calls
    return epochs * (
        profile.train * (steps + WEIGHT_STEP) + 8 * profile.log_images / profile.log_every
    )


def stopping(method, profile: Profile) -> float:
    """Attack steps, counted per image, of finding the early-stopped epoch by PGD-7."""
    snapshots = profiles.epochs(method, profile) / profile.snapshot_every + 1
    return snapshots * 8 * profile.protocol.early_restarts * profile.early


def measuring(profile: Profile, name: str, split: str = "test") -> float:
    """Attack steps, counted per image, of one measure by the profile's protocol."""
    n = min(profile.test, profile.train) if split == "train" else profile.test
    return MEASURES[name].cost(Size(profile.protocol, n))


def seconds_per_image(profile: Profile, device: str, batch: int, repeat: int = 9) -> float:
    """The time of one attack step per image on this machine, of an untrained network.

    The median: the best of some steps promised campaigns a third too short.
    """
    from flatlib.runs.run import load
    from flatlib.training.methods import AT

    data = load(profile, device)
    g = torch.Generator(device).manual_seed(0)
    model = profiles.network(AT, profile, data, None).to(device).eval()
    profiles.initialise(model, g)
    x, y = data.train.first(batch)
    f, times, threads = freeze(model), [], torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker does
    for _ in range(repeat):
        started = time.perf_counter()
        PGD(steps=2)(f, x, y, g).sum().item()
        times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return statistics.median(times) / (3 * len(x))
