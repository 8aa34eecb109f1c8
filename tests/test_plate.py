"""Figures on a page: their files, their words, their colours, and what is told of a poor one."""

import base64
import importlib.util
import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flatbook import published
from flatbook.figures import plate, plots
from flatlib.files import atomic, paths

X, Y = "avg_flatness_rloss", "rloss_test_pgd"
PRINTED = published.stutz2021()
spec = importlib.util.spec_from_file_location("plates", paths.ROOT / "book/_ext/plates.py")
plates = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plates)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path / "_build" / "figures"


def drawn(name="fig01", **how):
    numbers = PRINTED.loc[:, [X, Y]].head(4)
    fig = plots.scatter(PRINTED, X, Y, labels=False, **how).figure
    return plate.mount(fig, numbers, name, "RLoss < 2 & flat.", "smoke")


def test_files_are_complete_and_the_same_again(root):
    one = drawn()
    kept = {path.suffix[1:]: path.read_bytes() for path in (root / "smoke").iterdir()}
    assert kept == one.files == drawn().files and set(kept) == set(plate.KINDS)
    assert b"<dc:date>" not in kept["svg"] and kept["pdf"].startswith(b"%PDF")
    back = pd.read_csv(io.BytesIO(kept["csv"]), index_col="method")
    pd.testing.assert_frame_equal(back, PRINTED[[X, Y]].head(4))
    with Image.open(io.BytesIO(kept["png"])) as image:
        assert image.width > 400


def test_the_drawing_is_well_formed_and_takes_the_colours_of_the_page(root):
    html = drawn().html()
    svg = ET.fromstring(re.search("<svg.*</svg>", html, re.S)[0])
    assert svg.get("role") == "img" and "73 points" in svg.get("aria-label")
    assert svg.get("width") is svg.get("height") is None and svg.get("viewBox")
    assert "var(--c-1a1a1a, #1a1a1a)" in html and not re.search(r"[:;] ?#[0-9a-f]{6}", html)
    assert "RLoss &lt; 2 &amp; flat." in html
    names = [e.get("id") for e in svg.iter() if e.get("id")]
    assert all(name.startswith("fig01-") for name in names) and len(names) == len(set(names))
    used = re.findall(r'href="#([^"]+)|url\(#([^)]+)', html)
    assert used and {a or b for a, b in used} <= set(names)


def test_a_figure_that_cannot_be_kept_is_shown(root, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(atomic.os, "replace", full)
    assert "<svg" in drawn().html()
    assert "not kept as fig01.*: no space left" in capsys.readouterr().err


def test_empty_panels_and_texts_on_each_other_are_told(root, capsys):
    fig, axes = plots.panels(2, 2)
    plots.scatter(PRINTED, X, Y, axes[0, 0], labels=False)
    plots.scatter(PRINTED.assign(**{X: float("nan")}), X, Y, axes[0, 1], labels=False)
    axes[1, 0].axvline(0.4)
    axes[1, 1].set_axis_off()
    for place in (0.5, 0.51):
        axes[0, 0].annotate(f"at {place}", (place, 2))
    plate.mount(fig, PRINTED[[X]], "four", "", "smoke")
    assert capsys.readouterr().err == "four: 2 empty panels\nfour: 'at 0.5' lies on 'at 0.51'\n"


@pytest.mark.parametrize("name", ["a/b", "", "a b"])
def test_odd_names_are_refused(root, name):
    with pytest.raises(ValueError, match="name="):
        drawn(name)


def test_words_say_what_is_drawn(root):
    fig, ((ax,),) = plots.panels()
    t = np.linspace(0, 1, 5)
    ax.plot(t, 1 + t, label="AT"), ax.plot(t, 3 - t)
    ax.set(xlabel="epoch", ylabel="RLoss")
    ax.set_title("Test", loc="left")
    assert plate.described(fig) == (
        "Test: RLoss against epoch: AT from 1 to 2; a curve from 3 to 2.")  # fmt: skip
    x, y = PRINTED[X].dropna(), PRINTED[Y]
    words = repr(drawn())
    assert f"{len(x)} points" in words and f"from {x.min():.3g} to {x.max():.3g}" in words
    assert f"RLoss (test, PGD) from {y[x.index].min():.3g} to {y[x.index].max():.3g}" in words


def test_the_book_gets_the_files_back(root):
    figure = drawn()
    data, about = figure._repr_mimebundle_()
    cell = {"outputs": [{"data": json.loads(json.dumps(data)), "metadata": about}]}
    files = dict(plates.files({"cells": [cell, {"outputs": [{"data": {}}]}, {}]}))
    assert set(files) == {f"fig01.{kind}" for kind in plate.KINDS}
    assert all(files[f"fig01.{kind}"] == figure.files[kind] for kind in ("pdf", "png", "csv"))
    assert b"var(" not in files["fig01.svg"] and ET.fromstring(files["fig01.svg"]) is not None
    assert base64.b64decode(data["image/png"]) == figure.files["png"]


def test_labels_find_places_although_nothing_was_drawn_before():
    """Limits that matplotlib computes only when it draws count already."""
    robustbench = published.robustbench().assign(family="RobustBench")
    both = pd.concat([PRINTED.assign(label=""), robustbench.assign(label=robustbench.index)])
    ax = plots.scatter(both, X, "rerr_test_aa", highlight=robustbench.index, labels=True)
    assert len(ax.texts) >= 8 and plate.troubles(ax.figure) == []
