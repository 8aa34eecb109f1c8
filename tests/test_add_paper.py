"""The page on adding a paper, carried out in a copy: data set, network, methods, claim, notebook."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from flatlib import runs
from flatlib.catalogue import GROUPS
from flatlib.files.paths import ROOT

PAGE = (ROOT / "book/howto_add_paper.md").read_text()
BLOCK = re.compile(r"^```{code-block} (python|diff)\n:caption: (\S+)\n(.*?)^```", re.M | re.S)
COMMANDS = re.search(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)[1].splitlines()


def changed(text: str, diff: str) -> str:
    """``text`` with each run of "-" lines replaced by the "+" lines behind it."""
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", diff, re.M):
        before, after = (re.sub(r"^[-+]", "", part, flags=re.M).rstrip("\n") for part in (old, new))
        assert text.count(f"\n{before}") == 1, f"{before!r} is not there once"
        text = text.replace(f"\n{before}", f"\n{after}")
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("copy")
    for name in ("flatlib", "flatbook"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data").symlink_to(ROOT / "data")
    (root / "nbs").mkdir()
    shutil.copy2(ROOT / "nbs/run.py", root / "nbs")
    for name in ("pyproject.toml", "README.md"):  # a checkout is known by them
        shutil.copy2(ROOT / name, root / name)
    for kind, name, text in BLOCK.findall(PAGE):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if kind == "python" else changed(path.read_text(), text))
    return root


def run(root, *command):
    env = {**os.environ, "PYTHONPATH": str(root), "FLATLIB_RUNS": str(root / "runs")}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_notebook_trains_measures_draws_and_decides(copy):
    for command in COMMANDS:
        run(copy, *command.removeprefix(".venv/bin/python ").split())
    page = nbformat.read(copy / "out/toy2027/fig01_softer.ipynb", as_version=4)
    shown = [output["data"] for cell in page.cells for output in cell.get("outputs", ())
             if "data" in output]  # fmt: skip
    assert any("image/png" in data for data in shown)
    assert re.search("holds|fails", shown[-1]["text/plain"])
    trained = sorted(folder.name.split("-")[0] for folder in (copy / "runs/stripes").iterdir())
    assert trained == ["toy2027.at", "toy2027.softer"]


def test_what_was_there_means_what_it_meant(copy):
    code = (
        "from flatlib import runs; from flatlib.catalogue import GROUPS; "
        "from flatbook.claims import LEDGER; print(len(runs.named('all')), "
        "len(runs.named('toy2027/all')), len(LEDGER), *(r.key for r in runs.select('table1')))"
    )
    first, toy, claims, *keys = run(copy, "-c", code).split()
    from flatbook.claims import LEDGER

    assert (int(first), int(toy), int(claims)) == (len(GROUPS["all"]), 2, len(LEDGER) + 1)
    assert keys == [run.key for run in runs.select("table1")]
