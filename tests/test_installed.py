"""Installed from a wheel, away from any checkout: it measures, and writes to the user's folders."""

import json
import os
import shutil
import subprocess
import sys
from zipfile import ZipFile

import pytest

from flatlib.files.paths import ROOT

PARTS = ("flatlib", "flatbook", "data", "pyproject.toml", "README.md", "LICENSE")
WORK = """
import json
import torch
from flatbook import published, relations
from flatlib import PGD, average_flatness, data, evaluate, runs
from flatlib.files import paths

images = data.load("fashion", 100, 100, 100)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(196, 10))
x, y = images.test.first(8)
flat = average_flatness(model, x, y, PGD(eps=0.06, steps=2), n=2)
stored, _ = runs.collect("at", "digits", [0], "committed")
run = runs.get("at", "smoke", progress=False)
print(json.dumps({"package": paths.__file__, "runs": str(run.folder), "flat": flat.value,
                  "root": str(paths.ROOT), "printed": len(published.stutz2021()),
                  "points": len(relations.means(runs.wide(stored)))}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what a wheel of this checkout installs."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    hidden = shutil.ignore_patterns("__pycache__", ".*", "pending")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, source / part, **({"ignore": hidden} if (ROOT / part).is_dir() else {}))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", wheels, source], check=True,
    )  # fmt: skip
    (wheel,) = wheels.glob("*.whl")
    folder = tmp_path_factory.mktemp("site-packages")
    with ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_a_wheel_measures_and_writes_to_the_users_folders(site, tmp_path):
    before = {p for p in site.rglob("*") if "__pycache__" not in p.parts}
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FLATLIB_")}
    done = subprocess.run(
        [sys.executable, "-c", WORK], cwd=tmp_path, capture_output=True, text=True,
        env=clean | home | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["package"].startswith(str(site)) and found["flat"] == pytest.approx(found["flat"])
    assert found["runs"].startswith(str(tmp_path)) and found["root"].startswith(str(tmp_path))
    assert found["printed"] > 70 and found["points"] == 1
    assert {p for p in site.rglob("*") if "__pycache__" not in p.parts} == before
