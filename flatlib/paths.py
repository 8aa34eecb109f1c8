"""Where things lie: one place for every folder, so that no notebook depends on the directory it is
started from.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
PUBLISHED = DATA / "published"  # the papers' printed tables
RESULTS = DATA / "results"  # our committed measurements, one folder per profile
RUNS = Path(os.environ.get("FLATLIB_RUNS", ROOT / "runs"))  # trained models and live measurements
DATASETS = Path(
    os.environ.get("FLATLIB_DATASETS", ROOT / "datasets")
)  # CIFAR-10 and other large sets
