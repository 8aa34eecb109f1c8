"""Notebooks: their form, their pairing with a text, and that each one runs with parameters."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter

import jupytext
import nbformat
import pandas as pd
import pytest
import yaml

from flatlib.files.paths import ROOT

NBS = ROOT / "nbs"
sys.path.insert(0, str(NBS))
import proofread  # noqa: E402  (scripts beside the notebooks, no package)
import stage  # noqa: E402

NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if not any(
    part.startswith((".", "_")) for part in p.relative_to(NBS).parts))  # fmt: skip
NAMES = [p.relative_to(NBS).with_suffix("").as_posix() for p in NOTEBOOKS]
FIRST = {"quickstart", "measure_your_model", "stutz2021/fig01_flatness",
         "stutz2021/fig02_robust_overfitting", "stutz2021/fig08_robustness_and_flatness",
         "stutz2021/tab01_methods"}  # fmt: skip
LARGEST = 2_000_000  # bytes, outputs included; Fig. 20 has 148 panels
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def cells(path, kind="code"):
    """The cells of one kind, as stored."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def code(cell):
    """The syntax tree of a cell; lines of IPython magic left out."""
    lines = cell.source.splitlines()
    return ast.parse("\n".join(line for line in lines if not line.startswith("%")))


def texts(path):
    """Everything a notebook shows except pictures, as (cell number, text)."""
    for number, cell in enumerate(cells(path)):
        for output in cell.outputs:
            shown = output.get("data", {})
            yield number, output.get("text", "")
            for mime, content in shown.items():
                if mime.startswith("text/"):
                    yield number, content


def test_the_first_notebooks_are_there():
    assert FIRST <= set(NAMES)


@each
def test_text_and_notebook_are_a_pair(path):
    """Same cells, kinds, sources, tags and captions; whatever the times of the files say."""

    def content(notebook):
        return [(c.cell_type, c.source, tags(c), c.metadata.get("mystnb")) for c in notebook.cells]

    text = jupytext.read(path.with_suffix(".py"))
    assert content(text) == content(nbformat.read(path, as_version=4))


@each
def test_one_cell_of_parameters_literals_with_a_comment_each(path):
    cell, *others = cells(path)
    assert "parameters" in tags(cell), "parameters come before all other code"
    assert not any("parameters" in tags(c) for c in others)
    lines = cell.source.splitlines()
    tree = ast.parse(cell.source).body
    assert len(tree) == len(lines), "one parameter per line"
    for line, node in zip(lines, tree):
        assert isinstance(node, ast.AnnAssign), f"{line}: name: type = literal"
        value = ast.literal_eval(node.value)
        assert type(value).__name__ == node.annotation.id, f"{line}: type and value disagree"
        assert re.search(r"\S  # \S", line), f"{line}: say what it is in a comment"
    assert re.match(r"profile: str = \"(fashion|digits)\"", lines[0])


@each
def test_executed_from_top_to_bottom_without_error(path):
    stored = cells(path)
    assert [c.execution_count for c in stored] == list(range(1, len(stored) + 1))
    for cell in stored:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\nwrote {output.get('text')}"
        assert "execution" not in cell.metadata, "time stamps: see 'make notebooks'"


@each
def test_no_function_or_class_is_defined(path):
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in cells(path):
        assert not [n for n in ast.walk(code(cell)) if isinstance(n, forbidden)], cell.source


@each
def test_lines_fit_the_page(path):
    for cell in cells(path):
        assert all(len(line) <= 80 for line in cell.source.splitlines()), cell.source


@each
def test_small_and_free_of_places(path):
    assert path.stat().st_size < LARGEST
    place = re.compile(r"(?<![\w.])/(home|work|root|tmp|Users|usr|var|opt)/\S*|[A-Z]:\\\S*")
    for number, text in texts(path):
        found = place.search(text)
        assert not found, f"cell {number} shows {found}"


@each
def test_figures_have_captions_and_distinct_names(path):
    shown = [(c, o) for c in cells(path) for o in c.outputs if "image/png" in o.get("data", {})]
    assert shown
    for cell, output in shown:
        about = cell.metadata.get("mystnb", {}).get("figure", {})
        if output.metadata.get("flatbook"):
            html = output.data["text/html"]
            assert re.search(r"<figcaption>[^<]{40,}", html) and re.search('aria-label="[^"]', html)
        else:
            assert about.get("caption") and about.get("name")


def test_every_notebook_is_in_the_book_and_every_figure_has_its_own_name():
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    files = [chapter["file"] for part in yaml.safe_load(contents)["parts"]
             for chapter in part["chapters"]]  # fmt: skip
    assert {f"nbs/{name}" for name in NAMES} <= set(files)
    outputs = [o for path in NOTEBOOKS for c in cells(path) for o in c.get("outputs", ())]
    figures = Counter(o.metadata.flatbook.name for o in outputs if "flatbook" in o.get("metadata", {}))
    assert len(figures) > 30 and set(figures.values()) == {1}


def run(tmp_path, *arguments, cwd=ROOT):
    """nbs/run.py in a process of its own, its runs in a folder of their own."""
    environment = os.environ | {"FLATLIB_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(NBS / "run.py"), *arguments, "--out", str(tmp_path / "out")]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("wrong", [["fig01", "-p", "profil", "smoke"], ["fig99"],
                                   ["--all", "-p", "sourse", "live"]], ids=" ".join)  # fmt: skip
def test_what_a_notebook_does_not_have_is_refused_before_anything_runs(tmp_path, wrong):
    done = run(tmp_path, *wrong)
    assert done.returncode == 2
    assert "choose from" in done.stderr or "valid are" in done.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_a_bad_value_fails_and_names_the_choices(tmp_path):
    done = run(tmp_path, "fig02", "-p", "profile", "digit")
    assert done.returncode == 1 and "digits" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_book_is_staged_with_the_stored_pages_beside_the_executed_ones(tmp_path):
    own = tmp_path / "nbs" / "found.ipynb"
    own.parent.mkdir()
    own.write_text("mine")
    stage.main(str(tmp_path))
    assert own.read_text() == "mine"
    for path in NOTEBOOKS:
        copy = tmp_path / path.relative_to(ROOT)
        assert copy == own or copy.read_bytes() == path.read_bytes()
    assert (tmp_path / "_toc.yml").read_bytes() == (ROOT / "_toc.yml").read_bytes()
    assert (tmp_path / "book" / "intro.md").is_file()


def page(*outputs):
    """A notebook of one cell that shows these outputs."""
    shown = [nbformat.v4.new_output("stream", text=o) if isinstance(o, str) else
             nbformat.v4.new_output("display_data", o) for o in outputs]  # fmt: skip
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=shown)])


def test_a_poorer_page_is_told():
    def claims(verdict):
        table = pd.DataFrame({"published": ["holds: 1"], "measured": [verdict]}, ["Flat is robust"])
        return {"text/html": table.to_html(), "text/plain": str(table)}

    gap = {"text/html": pd.DataFrame({"a": [float("nan")]}).to_html()}
    stored = page(claims("holds: 0.9"), gap)
    assert proofread.blemishes(stored, stored) == []
    new = page(claims("open"), "fig01: 2 empty panels\n", {"text/markdown": "r is **nan**, nan"})
    assert proofread.blemishes(new, stored) == [
        "1 more NaN than the stored page", "fig01: 2 empty panels",
        "“Flat is robust” reads holds, open; stored: holds, holds",
    ]  # fmt: skip
    assert proofread.blemishes(stored, new) == [
        "“Flat is robust” reads holds, holds; stored: holds, open"
    ]


def test_stored_pages_are_looked_through(tmp_path, capsys):
    stage.main(str(tmp_path))
    proofread.main(str(tmp_path / "nbs"))
    assert capsys.readouterr().out == f"Looked through {len(NOTEBOOKS)} pages: nothing to look at\n"


def test_every_notebook_runs_at_the_smoke_profile(tmp_path):
    """From another folder, live, one seed, a few methods; models are shared."""
    given = {"profile": "smoke", "seeds": "[0]", "workers": "1", "source": "live",
             "methods": "[at, awp0.01, trades6]"}  # fmt: skip
    done = run(tmp_path, "--all", *(w for p in given.items() for w in ("-p", *p)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        executed = tmp_path / "out" / f"{name}.ipynb"
        assert "smoke" in " ".join(text for _, text in texts(executed)), name
