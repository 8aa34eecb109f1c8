"""Long tables: every number is there once, in its place, and nothing breaks the page."""

import re

import numpy as np
import pandas as pd
import pytest

from flatbook import claims, published, tables

HEADINGS = {"rerr_test_aa": ("RErr", 1), "rloss_test_pgd": ("RLoss <PGD>", 2)}
PRINTED = published.stutz2021()


@pytest.fixture
def compared():
    ours = PRINTED[list(HEADINGS)].head(4) + 0.01
    ours.iloc[0, 0] = np.nan
    return published.compare(ours, list(HEADINGS), PRINTED)


def cells(html):
    """The text of the body's cells, row by row."""
    body = html.split("<tbody>")[1]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.split("<tr")[1:]]
    return [row for row in rows if row]


def test_numbers_stand_in_their_rows(compared):
    sheet = tables.sheet(compared, HEADINGS, PRINTED["label"].to_dict())
    first, second, *_ = cells(sheet._repr_html_())
    assert first == ["+Unlabeled", "48.9", "–", "–", "1.18", "1.19", "+0.01"]
    assert second[:4] == ["Cyclic ×2", "53.6", "54.6", "+1.0"]
    assert len(cells(sheet._repr_html_())) == 4 and "4 rows of RErr, %" in repr(sheet)


def test_a_line_where_the_group_changes(compared):
    groups = published.groups(PRINTED["rerr_test_aa"], (0.54, 0.57))
    html = tables.sheet(compared, HEADINGS, groups=groups)._repr_html_()
    assert html.count('class="split"') == 2
    names = [row[0] for row in cells(html)]
    assert names == ["good", "unlabeled", "cyclic2", "average", "autoaugment", "awp0.01"]


def test_head_spans_its_columns_and_is_escaped(compared):
    html = tables.sheet(compared, HEADINGS)._repr_html_()
    assert html.count('colspan="3"') == 2 and "RLoss &lt;PGD&gt;" in html and "<PGD>" not in html
    assert html.count(">difference</th>") == 2


def test_unknown_heading_names_the_columns(compared):
    with pytest.raises(ValueError, match="'rer'.*rerr_test_aa, rloss_test_pgd"):
        tables.sheet(compared, {"rer": ("x", 1)})


def test_plain_columns_for_a_csv(compared):
    assert list(tables.flat(compared))[:2] == ["rerr_test_aa published", "rerr_test_aa measured"]


def test_the_ledger_has_a_row_per_claim_and_a_cell_per_source():
    sources = {"printed": claims.printed(), "digits": PRINTED[["label"]]}
    found = claims.verdicts(sources, claims.find(["pearson", "schedules-overfit"]))
    shown = tables.Ledger(found, {"stutz2021/fig08": "a/b.html"})
    html = shown._repr_html_()
    assert html.count("<tr>") == 3 and html.count("<td") == 6
    assert '<a href="a/b.html">Sec. 4.2</a>' in html and "<a" in html and html.count("<a ") == 1
    assert "✓ <b>holds</b>" in html and "✗ <b>fails</b>" in html and "<b>open</b>" in html
    assert "stutz2021-pearson: printed: holds 0.86" in repr(shown)


def test_sheets_of_one_row_and_of_missing_groups():
    df = pd.DataFrame({("x", "published"): [1.0]}, index=["mine"])
    html = tables.sheet(df, {"x": ("X", 0)}, groups=pd.Series(dtype=object))._repr_html_()
    assert [row[0] for row in cells(html)] == ["ours", "mine"]
