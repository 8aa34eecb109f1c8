"""The explorer: its points, its drop-downs, what hovering shows, and that it needs no network."""

import json
import re

import pytest

from flatbook import relations
from flatbook.figures import explorer
from flatlib.files import paths

X, Y = "avg_flatness_rloss", "rloss_test_pgd"
MEASURES = {X: "flatness", Y: "RLoss", "rerr_test_aa": "RErr", "nowhere": "not printed"}
OURS = relations.printed().loc[["at", "trades6"]].assign(**{f"{X}_std": 0.25}).drop(
    columns="rerr_test_aa")  # fmt: skip
TABLES = {"measured": OURS, "published": relations.printed()}


@pytest.fixture(scope="module")
def fig():
    return explorer.figure(TABLES, MEASURES, X, Y, told=MEASURES)


def pick(fig, menu, words):
    """What the browser is told when an entry of a drop-down is chosen."""
    (button,) = [b for b in fig.layout.updatemenus[menu].buttons if b.label == words]
    return button.method, button.args


def test_a_trace_per_table_and_family_only_the_first_table_shown(fig):
    assert [t.name for t in fig.data][:2] == ["baseline", "loss"]
    assert [t.visible for t in fig.data] == [True] * 2 + [False] * (len(fig.data) - 2)
    assert sum(len(t.x) for t in fig.data) == 2 + 74
    assert fig.data[0].x == (1.22,) and fig.data[0].y == (3.91,)
    assert fig.layout.xaxis.title.text == "flatness" and fig.layout.yaxis.title.text == "RLoss"
    assert [menu.active for menu in fig.layout.updatemenus] == [0, 0, 1]


def test_families_look_different(fig):
    shown = [t for t in fig.data if not t.visible]
    assert len({t.marker.symbol for t in shown}) == len({t.marker.color for t in shown}) == 9


def test_choosing_a_measure_moves_all_points_and_renames_the_axis(fig):
    method, (styles, layout) = pick(fig, 1, "RErr")
    assert method == "update" and len(styles["x"]) == len(fig.data)
    assert styles["x"][0] == [None] and styles["x"][2] == [0.628]
    assert layout["xaxis.title.text"] == "RErr" and layout["xaxis.tickformat"] == ".0%"
    _, (styles, layout) = pick(fig, 2, "flatness")
    assert styles["y"][0] == [1.22] and layout["yaxis.tickformat"] == ""


def test_a_measure_that_no_table_has_shows_nothing(fig):
    _, (styles, _) = pick(fig, 1, "not printed")
    assert {value for part in styles["x"] for value in part} == {None}


def test_choosing_a_table_shows_its_points_only(fig):
    _, (styles,) = pick(fig, 0, "published")
    assert styles["visible"] == [False] * 2 + [True] * (len(fig.data) - 2)


def test_hovering_names_the_method_and_its_numbers_in_both_tables(fig):
    (text,) = fig.data[0].text
    assert text.startswith("<b>AT (baseline)</b>, baseline<br><i>measured | published</i>")
    assert "flatness: 1.22 ± 0.25 | 1.22" in text and "RErr: – | 62.8%" in text
    assert "not printed" not in text
    assert "%{xaxis.title.text}: %{x}" in fig.data[0].hovertemplate
    (trace,) = [t for t in fig.data if not t.visible and t.name == "activation"]
    assert len(trace.text) == 3 and "<i>" not in trace.text[0]


def test_the_page_loads_one_script_and_that_from_the_book(fig):
    html = explorer.bundle(fig)["text/html"]
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', html)
    assert sources == [explorer.LIBRARY] and 'id="explorer"' in html
    assert (paths.ROOT / "book" / "_ext" / "offline.py").exists()
    assert len(html) < 200_000


def test_the_bundle_is_repeatable_and_plain_json(fig):
    again = explorer.figure(TABLES, MEASURES, X, Y, told=MEASURES)
    assert explorer.bundle(again) == explorer.bundle(fig)
    json.dumps(explorer.bundle(fig), allow_nan=False)


def test_a_column_that_is_not_offered_is_named():
    with pytest.raises(ValueError, match="x='zzz'.*rerr_test_aa"):
        explorer.figure(TABLES, MEASURES, "zzz", Y)
    with pytest.raises(ValueError, match="told='zzz'"):
        explorer.figure(TABLES, MEASURES, X, Y, told=["zzz"])
