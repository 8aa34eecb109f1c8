"""The table of the 74 methods: in the terminal, and in the book as it is now."""

from dataclasses import replace

import pytest

from flatbook import methods_page, published
from flatlib import AT, CATALOGUE
from flatlib.files.paths import ROOT
from flatlib.training.optimisers import SGD

PAGE = ROOT / "book" / "methods.md"


def test_a_row_per_method_with_its_printed_row():
    df = methods_page.table()
    assert list(df.index) == list(CATALOGUE)
    df = df[df.row > 0]  # without methods of one's own
    assert sorted(df.row) == list(range(1, 75)) and df.table1.sum() == 19
    printed = published.load("stutz2021_table5")
    assert printed.rerr_test_aa.is_monotonic_increasing
    names = published.names().set_index("method").table5
    assert all(printed.index[row.row - 1] == names[name] for name, row in df.iterrows())


def test_a_method_of_ones_own_is_listed_without_a_printed_row(monkeypatch):
    mine = replace(AT, optimiser=SGD(lr=0.3))
    monkeypatch.setitem(CATALOGUE, "mine", mine)
    row = methods_page.table().loc["mine"]
    assert tuple(row) == ("own", "mine", 0, False, "optimiser=SGD(lr=0.3)")
    assert methods_page.markdown().endswith("| `mine` | mine | – | `optimiser=SGD(lr=0.3)` |")


def test_what_differs_is_said_and_tells_methods_apart():
    said = methods_page.table().differences
    assert said["at"] == "" and said.nunique() == len(CATALOGUE)
    assert said["awp0.01"] == "perturbation=AWP(xi=0.01)"
    assert said["batch8"] == "data=Batches(size=8)"
    assert said["eps9"] == "attack=PGD(eps=0.03529, lr=0.007)"


def test_the_page_is_up_to_date():
    """If not: .venv/bin/python -m flatbook.methods_page --page book/methods.md"""
    text = PAGE.read_text("utf-8")
    assert methods_page.paged(text) == text


def test_the_command_prints_and_writes(capsys, tmp_path):
    methods_page.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 75 and lines[1].split()[0] == "at"
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\nold\n".join(methods_page.MARKS) + "\nafter\n")
    methods_page.main(["--page", str(page)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="once each"):
        methods_page.paged("no marks")
