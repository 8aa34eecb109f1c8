"""A campaign trains and measures many runs, in this process, on local processes or a Dask cluster.

It goes on where it was stopped; one failed run never stops the others. Several campaigns on one
folder share the work: each takes what no other is at.
"""

import logging
import sys
import tempfile
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from flatlib.files import paths, progress
from flatlib.files.atomic import Damaged
from flatlib.files.clock import TimeIsUp
from flatlib.runs import costs
from flatlib.runs.run import Run, load

# How glibc keeps large buffers in a worker (see the Makefile): a training step on a CPU is about
# 1.2 times faster than without, and Dask's own setting is the opposite.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": 33554432, "MALLOC_TRIM_THRESHOLD_": 134217728}


ANSWER = 10  # seconds that a cluster has to answer


class Refused(ValueError):
    """What cannot be carried out, told before any work begins."""


class Failed(RuntimeError):
    """Runs that failed, each with what went wrong; the others are kept."""


def carry_out(
    chosen: list[Run], suite="default", workers: int = 1, scheduler: str | None = None,
    minutes: float | None = None,
) -> None:  # fmt: skip
    """Train ``chosen``, measure a suite of each, in their order; ``Failed`` at the end if any did.

    ``workers`` local processes of one thread each (1: in this process), or the Dask cluster at
    ``scheduler`` ("tcp://..." or the path of a scheduler file). Says beforehand what it will cost.
    After ``minutes`` no further epoch and no further measure begins; what remains is said.
    """
    todo = _left(chosen, suite, workers, minutes)
    if not todo:
        return
    possible(todo, local=scheduler is None)
    _reachable(workers, scheduler)
    progress.say(costs.estimate(todo, suite, workers).describe())
    failed, late = {}, []
    until = None if minutes is None else time.time() + 60 * minutes
    with progress.bar(total=len(todo), unit="run") as bar:
        for run, error in _results(todo, (suite, until), workers, scheduler):
            bar.update()
            bar.set_postfix_str(run.name)
            if isinstance(error, TimeIsUp):
                late.append(run)
            elif error is not None:
                failed[run] = error
    if late:
        progress.say(f"the time is up: {len(late)} of {len(todo)} runs are left for a next call")
    if failed:
        lines = [
            f"  {run.name}, seed {run.seed}: {type(e).__name__}: {e}" for run, e in failed.items()
        ]
        raise Failed(
            "\n".join([f"{len(failed)} of {len(todo)} runs failed, the others are kept:", *lines])
        )


def _left(chosen: list[Run], suite, workers: int, minutes: float | None) -> list[Run]:
    """What is not finished, once the numbers are ones that work can be done with."""
    if minutes is not None and not minutes > 0:
        raise Refused(f"minutes={minutes!r}: a time above 0, or None for no limit")
    if workers < 1:
        raise Refused(f"workers={workers!r}: a number of processes, at least 1")
    return [run for run in chosen if not finished(run, suite)]


def finished(run: Run, suite) -> bool:
    """Whether a run is trained and has all of a suite. A damaged one is not: it is named when its
    turn comes, and the others go on.
    """
    try:
        return run.done and not run.missing(suite) and run.history() is not None
    except (Damaged, OSError):
        return False


def possible(todo: list[Run], local: bool = True) -> None:
    """Refuse what no run could be trained or kept with, before any work begins."""
    _writable(paths.RUNS)
    absent = {run.on for run in todo if run.on.startswith("cuda") and not torch.cuda.is_available()}
    if local and absent:
        raise Refused(f"device={absent.pop()!r}: PyTorch finds no GPU here")
    for profile, device in dict.fromkeys((run.profile, costs.here(run)) for run in todo):
        try:
            load(profile, device)
        except (OSError, ValueError) as error:
            raise Refused(f"the data of profile {profile.name!r}: {error}") from error


def _writable(folder: Path) -> None:
    """Refuse a folder that no run can be kept in, before any work begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room")
            file.flush()
    except OSError as error:
        raise Refused(
            f"runs cannot be kept in {folder} ({error}); the environment variable FLATLIB_RUNS "
            "names another folder"
        ) from error


def _reachable(workers: int, scheduler: str | None) -> None:
    """Refuse a cluster that does not answer, and local processes that would start this very script
    again, each of them with further processes.
    """
    if scheduler is None:
        main = sys.modules["__main__"]
        script = Path(getattr(main, "__file__", None) or "")
        plain = script.is_file() and getattr(main, "__spec__", None) is None
        if workers > 1 and plain and "__name__" not in script.read_text(errors="replace"):
            raise Refused(
                f"workers={workers!r}: its processes would run {script} again; put what it does "
                'under "if __name__ == \'__main__\':", or take workers=1'
            )
        return
    if "://" not in scheduler and not Path(scheduler).is_file():
        raise Refused(f"scheduler={scheduler!r}: no such file, and no address such as tcp://...")
    try:
        with _client(1, scheduler):
            pass
    except (OSError, ValueError, TypeError) as error:  # a time-out is an OSError
        why = " ".join(str(error).split())
        raise Refused(f"scheduler={scheduler!r} does not answer: {why}") from error


def _results(todo: list[Run], how, workers: int, scheduler: str | None):
    """(run, its exception or None) as they finish; ``how`` are the suite and the time to stop."""
    if workers == 1 and scheduler is None:
        threads = torch.get_num_threads()
        try:
            for run in _free_first(todo):
                yield run, _attempt(run, *how)
        finally:
            torch.set_num_threads(threads)
        return
    from dask.distributed import as_completed

    with _client(workers, scheduler) as client:
        kept = {"pure": False, "retries": 2}
        futures = {
            client.submit(_attempt, run, *how, priority=-place, **kept): run
            for place, run in enumerate(todo)
        }
        for future in as_completed(futures):
            yield futures[future], _outcome(future)


def _free_first(todo: list[Run]):
    """In order, but those that another process is at when their turn comes go to the end."""
    later = []
    for run in todo:
        if run.busy():
            later.append(run)
        else:
            yield run
    yield from later


def _outcome(future) -> BaseException | None:
    """What went wrong, if anything did: in the run, with its worker, or with the whole cluster."""
    try:
        return future.exception() or future.result()
    except CancelledError as error:
        return error


def _attempt(run: Run, suite, until: float | None) -> Exception | None:
    """Train and measure one run on one thread; what went wrong, if anything did."""
    torch.set_num_threads(1)
    try:
        run.train(until=until).measure(suite, until)
        run.history()  # of a run that was finished before: refused if damaged
    except Exception as error:  # handed on to the summary: one failed run must not stop the others
        return error
    return None


@contextmanager
def _client(workers: int, scheduler: str | None):
    """A Dask client: of the given cluster, or of local processes that end with it."""
    from dask import config
    from dask.distributed import Client, LocalCluster

    logger = logging.getLogger("distributed")
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        if scheduler is None:
            own = {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in MALLOC.items()}
            stack.enter_context(config.set(own))  # a variable of the user's environment comes first
            how = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
            given = {"address": stack.enter_context(LocalCluster(n_workers=workers, **how))}
        else:
            given = {"address" if "://" in scheduler else "scheduler_file": scheduler}
        client = stack.enter_context(Client(**given, timeout=ANSWER))
        stack.callback(logger.setLevel, logging.CRITICAL)  # while closing: farewells are no errors
        yield client
