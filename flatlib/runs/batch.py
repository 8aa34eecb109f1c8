"""Train and measure many runs from the command line.

``python -m flatlib.runs --methods table1 --profile digits --seeds 0 1 2`` goes on where it was
stopped, and ends with a summary of what failed and why.
"""

import argparse

import torch

from flatlib import runs
from flatlib.files import machine, paths
from flatlib.runs import campaign, results, suites
from flatlib.training import profiles


KEPT = "what is trained and measured is kept, and the next call goes on from there"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flatlib.runs", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--methods", nargs="+", default=["table1"],
        help="names from the catalogue, main, table1, all, or robustbench")  # fmt: skip
    add("--suite", nargs="+", default=["default"], choices=suites.NAMES, metavar="SUITE",
        help=f"what is measured: {', '.join(suites.NAMES)}")  # fmt: skip
    add("--profile", default=profiles.DEFAULT, help=f"one of {', '.join(profiles.PROFILES)}")
    add("--seeds", nargs="+", type=int, default=[0], help="all methods of the first seed go first")
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto: the first GPU of each worker")
    workers = 1 if torch.cuda.is_available() else machine.cpus()
    add("--workers", type=int, default=workers, help="local processes")
    add("--minutes", type=float, help="begin nothing after so long; a next call goes on from there")
    add("--drop", action="store_true", help="remove the models of runs that have all of the suite")
    add("--scheduler", help="address or scheduler file of a Dask cluster")
    add("--commit", action="store_true", help="merge what is finished into data/results")
    add("--commit-only", action="store_true", help="merge, and compute nothing")
    return parser


def _line(what) -> str:
    """A message as one line."""
    return " ".join(str(what).split()) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m flatlib.runs --help``."""
    parser = _parser()
    given = parser.parse_args(arguments)
    failed = None
    try:
        chosen = runs.select(given.methods, given.profile, given.seeds, given.device)
    except (ValueError, KeyError) as error:
        parser.exit(1, _line(error.args[0]))
    place = {seed: number for number, seed in enumerate(given.seeds)}
    chosen.sort(key=lambda run: place.get(run.seed, 0))  # stable: methods as given
    if given.commit or given.commit_only:
        try:
            results.check(chosen)
        except ValueError as error:
            parser.exit(1, _line(f"the results cannot be committed: {error}"))
    if not given.commit_only:
        try:
            campaign.carry_out(chosen, given.suite, given.workers, given.scheduler, given.minutes)
        except campaign.Refused as error:
            parser.exit(1, _line(error))
        except campaign.Failed as error:
            failed = f"{error}\n"
        except KeyboardInterrupt:
            parser.exit(130, f"stopped; {KEPT}\n")
    if given.commit or given.commit_only:
        try:
            print(results.commit(chosen, given.suite).describe())
        except (OSError, ValueError) as error:
            parser.exit(1, _line(f"writing the committed results failed: {error}"))
    if failed:
        parser.exit(1, failed)
    if not given.commit_only:
        ready = [run for run in chosen if run.done and not run.missing(given.suite)]
        there = paths.RUNS / given.profile
        print(f"{len(ready)} of {len(chosen)} runs are trained and measured in {there}")
        for run in ready if given.drop else ():
            run.drop()


if __name__ == "__main__":
    main()
