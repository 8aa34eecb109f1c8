"""The queue of a profile: which networks are trained and measured, in which order and with what.

``python -m flatlib.runs.queue --profile cifar10-cpu`` works through it beside whatever else the
machine does: at the lowest priority, one network after the other on one core, to be stopped at any
moment. Several such processes share the work. What a part of the queue asks of a network is done in
one go; the rows then lie in ``data/results/<profile>/pending``, which no notebook reads, until
``--merge`` moves them into the tables. ``--list`` says how far it is.
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

LAST = ("radii", "lines", "offsets")  # of the last model, beside the default suite
THROUGH = ("training", "training_worst")
REMEDIES = ("trades6", "awp0.01", "wd0.05", "autoaugment", "mart6")
TABLE1 = GROUPS["table1"]
REST = tuple(name for name in GROUPS["all"] if name not in TABLE1)


class Part(NamedTuple):
    """Some methods, each with these seeds, and the suites that all of them are measured with."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    suites: tuple[str, ...]


class Task(NamedTuple):
    """What one part asks of one run."""

    run: Run
    suites: tuple[str, ...]


QUEUES = {
    "cifar10-cpu": (
        Part(TABLE1, (0,), ("default", "hessian")),
        Part(("at", *REMEDIES), (1, 2), ("default", "hessian")),
        Part(("at", *REMEDIES), (0,), (*LAST, *THROUGH)),
        Part(TABLE1, (0,), LAST),
        Part(("at",), (0,), ("scaled", "choices", "training_radii")),
        Part(TABLE1, (0,), THROUGH),
        Part(TABLE1, (1, 2), ("default",)),
        Part(REST, (0,), ("default",)),
    ),
    "fashion": tuple(Part(TABLE1, (seed,), ("default",)) for seed in range(3)),
    "smoke": (Part(("at",), (0,), ("default", "offsets")), Part(("wd0.05",), (0,), ("default",))),
}


def ordered(profile: str) -> list[Task]:
    """What a profile's queue asks for, in its order; no suite of a run twice."""
    if profile not in QUEUES:
        raise ValueError(f"profile={profile!r}: queues are there for {sorted(QUEUES)}")
    found, asked = [], set()
    for part in QUEUES[profile]:
        for run in runs.select(part.methods, profile, part.seeds):
            suites = tuple(suite for suite in part.suites if (run, suite) not in asked)
            asked |= {(run, suite) for suite in suites}
            found += [Task(run, suites)] if suites else []
    return found


def pending(profile: str) -> Path:
    """The folder of finished rows that are not in the tables yet, one folder for each run."""
    return paths.RESULTS / profiles.get(profile).name / "pending"


def waiting(run: Run, folder: Path) -> Path:
    """Where the rows of one run wait."""
    return folder / run.title


def left(profile: str, folder: Path) -> list[Task]:
    """What of the queue neither the tables nor the waiting rows have."""
    stored = results.read(paths.RESULTS / profile)[0]

    def there(run: Run, suites) -> bool:
        new = results.read(waiting(run, folder))[0]
        return results.complete(run, stored, suites) or results.complete(run, new, suites)

    return [task for task in ordered(profile) if not there(*task)]


def work(profile: str, folder: Path, limit: float | None = None) -> list[str]:
    """Train and measure what is left, in order, for ``limit`` minutes at most; the rows of each
    task are written to ``folder`` at once, a run that another process is at is left to it. What
    went wrong, a line each.
    """
    until = None if limit is None else time.time() + 60 * limit
    todo, failed = left(profile, folder), []
    campaign.possible([task.run for task in todo])
    progress.say(f"{len(todo)} of {len(ordered(profile))} tasks are left; {_cost(todo)}")
    for run, suites in todo:
        with _claimed(run) as mine:
            if not mine or run.busy() or (run, suites) not in left(profile, folder):
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


def _cost(todo: list[Task]) -> str:
    """Each run is trained once, whatever the number of its tasks."""
    suites: dict[Run, tuple[str, ...]] = {}
    for task in todo:
        suites[task.run] = (*suites.get(task.run, ()), *task.suites)
    alike: dict[tuple, list[Run]] = {}
    for run, asked in suites.items():
        alike.setdefault(asked, []).append(run)
    seconds = sum(costs.estimate(part, asked, 1).seconds for asked, part in alike.items())
    return f"about {seconds / 3600:.1f} hours of one core"


def merge(profile: str) -> list[results.Committed]:
    """Move the waiting rows of a profile into its tables, run by run. Those that cannot join the
    stored ones stay where they are, and are named.
    """
    found = []
    for run in dict.fromkeys(task.run for task in ordered(profile)):
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
            for run, suites in left(given.profile, folder):
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
