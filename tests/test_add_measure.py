"""The page on adding a measure, carried out in a copy of the library."""

import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from flatlib import runs
from flatlib.files.paths import ROOT
from flatlib.records import MEASURES

PAGE = (ROOT / "book/howto_add_measure.md").read_text()
FILE = re.compile(r"^```{code-block} python\n:caption: (\S+)\n(.*?)^```", re.M | re.S)
FILES = dict(FILE.findall(PAGE))
LIST = "flatlib/records/__init__.py"
USED = textwrap.dedent("""
    from flatlib import runs
    from flatlib.records import MEASURES, columns
    from flatlib.runs import costs

    run = runs.get("at", "smoke", device="cpu", progress=False)
    wide = runs.wide(run.measure(("robustness", "margin", ("margin", "early_stopped", "train"))))
    print(sorted(column for column in wide if "margin" in column))
    print(columns.words("margin_train_early_stop"), costs.measuring(run.profile, "margin"))
    print(*(run.protocol(name) for name in MEASURES if name != "margin"))
""")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The library, with the files of the page and the list as the page says."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "flatlib", root / "flatlib", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests").mkdir()
    imports, _, entry = FILES[LIST].partition("\n\n_LISTED = (\n    ...\n")
    before = (root / LIST).read_text()
    old = next(line for line in before.splitlines() if line.startswith("from flatlib.records"))
    assert imports.startswith(old) and entry.endswith("\n)\n")
    listed = before.replace(old, imports).replace("\n)\n", "\n" + entry, 1)
    for name, text in (FILES | {LIST: listed}).items():
        (root / name).write_text(text)
    return root


def python(root, *arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_what_is_added_is_measured_named_and_counted(copy):
    there, words, protocols = python(copy, "-c", USED)
    assert there == "['margin', 'margin_train_early_stop']"
    assert words == "margin of the logits (train, early stopping) 20.0"
    (run,) = runs.select("at", "smoke")
    assert protocols.split() == [run.protocol(name) for name in MEASURES]


def test_its_own_test_holds(copy):
    assert "1 passed" in python(copy, "-m", "pytest", "-q", "tests")[-1]
