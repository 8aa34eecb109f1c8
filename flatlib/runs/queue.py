"""The queue of a profile: which networks are trained and measured, in which order and with what.

``python -m flatlib.runs.queue --profile cifar10-cpu`` works through it beside whatever else the
machine does: at the lowest priority, one network after the other on one core, to be stopped at any
moment. Several such processes share the work. A network is trained and measured in one go; its rows
then lie in ``data/results/<profile>/pending``, which no notebook reads, until ``--merge`` moves
them into the tables. ``--list`` says how far it is.
"""

import argparse
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

from flatlib import runs
from flatlib.catalogue import GROUPS
from flatlib.files import clock, paths, progress
from flatlib.runs import campaign, costs, results
from flatlib.runs.batch import KEPT
from flatlib.runs.run import Run
from flatlib.training import profiles

SHOWN = ("default", "radii", "hessian", "lines", "offsets", "training", "training_worst")
EVERY = (*SHOWN, "training_radii", "scaled", "choices")
REMEDIES = ("trades6", "awp0.01", "wd0.05", "autoaugment", "mart6")
TABLE1 = GROUPS["table1"]
REST = tuple(name for name in GROUPS["all"] if name not in TABLE1)


class Part(NamedTuple):
    """Some methods, each with these seeds, and the suites that all of them are measured with."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    suites: tuple[str, ...]


QUEUES = {
    "cifar10-cpu": (
        Part(("at",), (0,), EVERY),
        Part(TABLE1, (0,), SHOWN),
        Part(("at", *REMEDIES), (1, 2), ("default", "hessian", "offsets")),
        Part(TABLE1, (1, 2), ("default",)),
        Part(REST, (0,), ("default",)),
    ),
    "fashion": tuple(Part(TABLE1, (seed,), ("default",)) for seed in range(3)),
    "smoke": (Part(("at",), (0,), ("default", "offsets")), Part(("wd0.05",), (0,), ("default",))),
}


def ordered(profile: str) -> dict[Run, tuple[str, ...]]:
    """The runs of a profile's queue in their order, each with all suites it is asked for."""
    if profile not in QUEUES:
        raise ValueError(f"profile={profile!r}: queues are there for {sorted(QUEUES)}")
    found: dict[Run, tuple[str, ...]] = {}
    for part in QUEUES[profile]:
        for run in runs.select(part.methods, profile, part.seeds):
            found[run] = tuple(dict.fromkeys((*found.get(run, ()), *part.suites)))
    return found


def pending(profile: str) -> Path:
    """The folder of finished rows that are not in the tables yet, one folder for each run."""
    return paths.RESULTS / profiles.get(profile).name / "pending"


def waiting(run: Run, folder: Path) -> Path:
    """Where the rows of one run wait."""
    return folder / run.title


def left(profile: str, folder: Path) -> dict[Run, tuple[str, ...]]:
    """What of the queue neither the tables nor the waiting rows have."""
    stored = results.read(paths.RESULTS / profile)[0]

    def there(run: Run, suites) -> bool:
        new = results.read(waiting(run, folder))[0]
        return results.complete(run, stored, suites) or results.complete(run, new, suites)

    return {run: suites for run, suites in ordered(profile).items() if not there(run, suites)}


def work(profile: str, folder: Path, limit: float | None = None) -> list[str]:
    """Train and measure what is left, in order, for ``limit`` minutes at most; each run's rows are
    written to ``folder`` at once, one that another process is at is left to it. What went wrong, a
    line each.
    """
    until = None if limit is None else time.time() + 60 * limit
    todo, failed = left(profile, folder), []
    campaign.possible(list(todo))
    progress.say(f"{len(todo)} of {len(ordered(profile))} runs are left; {_cost(todo)}")
    for run, suites in todo.items():
        with _claimed(run) as mine:
            if not mine or run.busy() or run not in left(profile, folder):
                continue
            started = time.time()
            try:
                run.train(until=until).measure(suites, until)
                results.commit([run], suites, waiting(run, folder))
            except clock.TimeIsUp:
                break
            except Exception as error:  # one failed run must not stop the others
                failed.append(f"{run.name}, seed {run.seed}: {type(error).__name__}: {error}")
                progress.say(failed[-1])
            else:
                minutes = (time.time() - started) / 60
                progress.say(f"{run.name}, seed {run.seed}: finished, {minutes:.1f} min")
    return failed


@contextmanager
def _claimed(run: Run):
    """Whether this process may work on a run: no other one that works through the queue does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / ".queue")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _cost(todo: dict) -> str:
    alike: dict[tuple, list[Run]] = {}
    for run, suites in todo.items():
        alike.setdefault(suites, []).append(run)
    seconds = sum(costs.estimate(part, suites, 1).seconds for suites, part in alike.items())
    return f"about {seconds / 3600:.1f} hours of one core"


def merge(profile: str) -> list[results.Committed]:
    """Move the waiting rows of a profile into its tables, run by run. Those that cannot join the
    stored ones stay where they are, and are named.
    """
    found = []
    for run in ordered(profile):
        place = waiting(run, pending(profile))
        if place.exists():
            found.append(results.absorb(run, place))
    return found


def _parser() -> argparse.ArgumentParser:
    summary, *_ = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(prog="python -m flatlib.runs.queue", description=summary)
    add = parser.add_argument
    add("--profile", default="cifar10-cpu", choices=sorted(QUEUES))
    add("--minutes", type=float, help="begin nothing after so long; a next call goes on from there")
    add("--pending", type=Path, help="folder of finished rows, if not that of this checkout")
    add("--list", action="store_true", help="say what is left, and compute nothing")
    add("--merge", action="store_true", help="move finished rows into the tables")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m flatlib.runs.queue --help``."""
    parser = _parser()
    given = parser.parse_args(arguments)
    progress.until_the_pipe_breaks()
    folder = given.pending or pending(given.profile)
    try:
        if given.merge:
            for done in merge(given.profile):
                print(done.describe())
        elif given.list:
            for run, suites in left(given.profile, folder).items():
                print(f"{run.name:20} seed {run.seed}  {' '.join(suites)}")
        else:
            os.nice(19)
            torch.set_num_threads(1)
            if failed := work(given.profile, folder, given.minutes):
                parser.exit(1, "\n".join([f"{len(failed)} runs failed:", *failed, ""]))
    except (OSError, ValueError) as error:  # refused, damaged
        parser.exit(1, " ".join(str(error).split()) + "\n")
    except KeyboardInterrupt:
        parser.exit(130, f"stopped; {KEPT}\n")


if __name__ == "__main__":
    main()
