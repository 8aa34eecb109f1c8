"""Train and measure many runs from the command line.

``python -m flatlib.batch --methods table1 --profile digits --seeds 0 1 2`` goes on where it was
stopped, and ends with a summary of what failed and why.
"""

import argparse
import os

import torch

from . import campaign, checkpoints, paths, profiles, runs
from .run import Run


def commit_results(chosen: list[Run]) -> None:
    """Write the tables of finished runs to data/results/<profile>, where the book reads them."""
    tables = dict(zip(("measures", "history"), runs.gathered(chosen)))
    tables["history"] = tables["history"].drop(columns="seconds")
    folder = paths.RESULTS / chosen[0].profile.name
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.6g")
        checkpoints.write(folder / f"{name}.csv", text)


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m flatlib.batch --help``."""
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
    workers = 1 if torch.cuda.is_available() else os.cpu_count()
    parser.add_argument("--workers", type=int, default=workers, help="local processes")
    parser.add_argument("--scheduler", help="address or scheduler file of a Dask cluster")
    parser.add_argument("--commit", action="store_true", help="write the tables to data/results")
    given = parser.parse_args(arguments)
    methods = given.methods[0] if given.methods == ["table1"] else given.methods
    try:
        chosen = runs.select(methods, given.profile, given.seeds)
        campaign.carry_out(chosen, workers=given.workers, scheduler=given.scheduler)
    except (ValueError, KeyError, RuntimeError) as error:
        parser.exit(1, f"{error.args[0] if error.args else error}\n")
    if given.commit:
        commit_results(chosen)
    print(f"{len(chosen)} runs are trained and measured in {paths.RUNS / given.profile}")


if __name__ == "__main__":
    main()
