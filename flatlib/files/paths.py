"""Where things lie: one place for every folder, so that no notebook depends on the directory it is
started from.
"""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parents[1]
_CARRIED = _PACKAGE / "_data"  # what a wheel has of the folder data of the repository
INSTALLED = _CARRIED.exists()  # and not in a checkout: nothing is written beside the package then
ROOT = platformdirs.user_data_path("flatlib", False) if INSTALLED else _PACKAGE.parent
DATA = _CARRIED if INSTALLED else ROOT / "data"
PUBLISHED = DATA / "published"  # the papers' printed tables
RESULTS = DATA / "results"  # our committed measurements, one folder per profile


def named(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, "~" and relative paths included; the default
    where it is empty. The whole path is put into the environment: to processes started later, in
    whatever folder, the variable means the same.
    """
    given = os.environ.get(variable, "").strip()
    if not given:
        return default
    os.environ[variable] = os.path.abspath(os.path.expanduser(given))
    return Path(os.environ[variable])


RUNS = named("FLATLIB_RUNS", ROOT / "runs")  # trained models and live measurements
DATASETS = named("FLATLIB_DATASETS", ROOT / "datasets")  # CIFAR-10 and other large sets
