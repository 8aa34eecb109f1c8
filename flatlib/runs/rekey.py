"""Give the stored results today's keys, after a change of the code that renamed settings and moved
no number.

``python -m flatlib.runs.rekey OLD`` asks a checkout of the code that the tables belong to, and this
one, for the keys of every run and the protocols of every measure, and replaces the one by the
other. A row that OLD does not know is refused, and nothing is written. All other text stays as it
is.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from filelock import FileLock

from flatlib.files import atomic, paths
from flatlib.runs import results

# Asked of either checkout: "at 0" -> its key, "average" -> its protocol. What a checkout lacks must
# not come from an installed copy, which setuptools finds for one installed in place.
_QUESTION = """
import json, sys
sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in getattr(f, "__name__", "")]
from flatlib import runs
try:
    from flatlib.records import MEASURES
except ImportError:  # where measures have no records of their own, or modules no rooms
    try:
        from flatlib.runs.measurements import MEASURES
    except ImportError:
        from flatlib.measures import MEASURES
profile, methods, seeds = json.loads(sys.argv[1])
chosen = runs.select(methods, profile, seeds)
keys = {f"{run.name} {run.seed}": run.key for run in chosen}
protocols = {name: chosen[0].protocol(name) for name in MEASURES}
print(json.dumps([keys, protocols]))
"""


def definitions(root: Path, profile: str, table: pd.DataFrame) -> tuple[dict, dict]:
    """(key by run, protocol by measure) of the runs in ``table``, as the code in ``root`` has
    them.
    """
    asked = [profile, sorted(set(table.method)), sorted(map(int, set(table.seed)))]
    done = subprocess.run(
        [sys.executable, "-c", _QUESTION, json.dumps(asked)], text=True, cwd=root,
        stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    return tuple(json.loads(done.stdout))


def rekey(folder: Path, old: Path, new: Path = paths.ROOT) -> None:
    """Replace the keys and protocols in the tables of ``folder``, those of one profile."""
    with FileLock(folder / ".lock"):
        atomic.finish(folder)
        was = {name: _text(folder / name) for name in results.FILES}
        rows, curves = was
        before, after = (definitions(root, folder.name, was[rows]) for root in (old, new))
        now = {name: renamed(table, before, after) for name, table in was.items()}
        now[rows] = now[rows].reindex(columns=results.COLUMNS, fill_value="")
        now[curves] = now[curves].assign(weights=now[curves].get("weights", ""))
        texts = {name: table.to_csv(index=False) for name, table in now.items()}
        atomic.write_together(folder, texts)


def _text(path: Path) -> pd.DataFrame:
    """A table of which every field is text, so that no number changes."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def renamed(table: pd.DataFrame, before: tuple, after: tuple) -> pd.DataFrame:
    """A table of text with the keys, and protocols if it has some, of ``after``."""
    runs = table.method + " " + table.seed
    changes = {"key": _changed(runs, table.key, before[0], after[0])}
    if "protocol" in table:
        changes["protocol"] = _changed(table.asked, table.protocol, before[1], after[1])
    return table.assign(**changes)


def _changed(names: pd.Series, there: pd.Series, before: dict, after: dict) -> pd.Series:
    unknown = names[there != names.map(before)]
    if len(unknown):
        raise ValueError(
            f"line {unknown.index[0] + 2}, {unknown.iloc[0]}: {there[unknown.index[0]]} is not "
            f"what the old code says, {before.get(unknown.iloc[0])}; nothing was written"
        )
    return names.map(after)


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m flatlib.runs.rekey --help``."""
    parser = argparse.ArgumentParser(prog="python -m flatlib.runs.rekey", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout that the stored tables belong to")
    old = parser.parse_args(arguments).old.resolve()
    for file in sorted(paths.RESULTS.glob("*/measures.csv")):
        rekey(file.parent, old)


if __name__ == "__main__":
    main()
