"""Many runs: train and measure any set of (method, seed) at a profile, on local processes or a Dask cluster.

``python -m flatlib.batch --methods table1 --profile digits --seeds 0 1 2`` goes on where it was stopped, and ends
with a summary of what failed and why; one failed run never stops the others.
"""

import argparse
import os
import sys
import time

import torch
from tqdm.auto import tqdm

from . import checkpoints, costs, measures, paths, profiles, runs
from .runs import Run


def work(run: Run, wanted) -> float:
    """Train and measure one run on one thread; the seconds it took. What is finished is kept."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    run.train()
    run.measure(wanted)
    return time.perf_counter() - started


def campaign(
    chosen: list[Run], wanted=measures.DEFAULT, workers: int = 1, scheduler: str | None = None
) -> None:
    """Train and measure ``chosen``; raises at the end if any run failed.

    ``workers`` local processes of one thread each (1: in this process), or the Dask cluster at ``scheduler``
    ("tcp://..." or the path of a scheduler file). Says beforehand what it will cost.
    """
    todo = [run for run in chosen if not _finished(run, wanted)]
    if not todo:
        return
    tqdm.write(costs.estimate(todo, wanted, workers).describe(), file=sys.stderr)
    failed = {}
    with tqdm(total=len(todo), unit="run", disable=None) as bar:
        for run, error in _results(todo, wanted, workers, scheduler):
            bar.update()
            bar.set_postfix_str(run.name)
            if error is not None:
                failed[run] = error
    if failed:
        lines = [
            f"  {run.name}, seed {run.seed}: {type(e).__name__}: {e}" for run, e in failed.items()
        ]
        raise RuntimeError(
            "\n".join([f"{len(failed)} of {len(todo)} runs failed, the others are kept:", *lines])
        )


def _finished(run: Run, wanted) -> bool:
    path = run.folder / "measures.csv"
    if not (run.done and path.exists()):
        return False
    table = runs.read_table(path)
    return {tuple(w) for w in wanted} <= set(zip(table.asked, table.which, table.split))


def _results(todo: list[Run], wanted, workers: int, scheduler: str | None):
    """(run, its exception or None) as they finish."""
    if workers == 1 and scheduler is None:
        threads = torch.get_num_threads()
        try:
            for run in todo:
                yield run, _attempt(run, wanted)
        finally:
            torch.set_num_threads(threads)
        return
    from dask.distributed import as_completed

    with _client(workers, scheduler) as client:
        futures = {client.submit(_attempt, run, wanted, pure=False, retries=2): run for run in todo}
        for future in as_completed(futures):
            error = future.exception() or future.result()
            yield futures[future], error


def _attempt(run: Run, wanted) -> Exception | None:
    try:
        work(run, wanted)
    except Exception as error:  # handed on to the summary: one failed run must not stop the others
        return error
    return None


def _client(workers: int, scheduler: str | None):
    import logging

    from dask.distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        return Client(scheduler) if "://" in scheduler else Client(scheduler_file=scheduler)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        memory_limit=0,
        processes=True,
    )
    return Client(cluster)


def commit_results(chosen: list[Run]) -> None:
    """Write the tables of finished runs to data/results/<profile>, where the book reads them."""
    tables = dict(zip(("measures", "history"), runs.gathered(chosen)))
    tables["history"] = tables["history"].drop(columns="seconds")
    folder = paths.RESULTS / chosen[0].profile.name
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.6g")
        checkpoints.write(folder / f"{name}.csv", text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flatlib.batch", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--methods", nargs="+", default=["table1"], help="names from the catalogue, or table1"
    )
    parser.add_argument(
        "--profile", default="digits", help=f"one of {', '.join(profiles.PROFILES)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="local processes, one thread each"
    )
    parser.add_argument("--scheduler", help="address or scheduler file of a Dask cluster")
    parser.add_argument("--commit", action="store_true", help="write the tables to data/results")
    given = parser.parse_args(arguments)
    methods = given.methods[0] if given.methods == ["table1"] else given.methods
    try:
        chosen = runs.select(methods, given.profile, given.seeds)
        campaign(chosen, workers=given.workers, scheduler=given.scheduler)
    except (ValueError, KeyError, RuntimeError) as error:
        parser.exit(1, f"{error.args[0] if error.args else error}\n")
    if given.commit:
        commit_results(chosen)
    print(f"{len(chosen)} runs are trained and measured in {paths.RUNS / given.profile}")


if __name__ == "__main__":
    main()
