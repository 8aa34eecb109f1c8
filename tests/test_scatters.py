"""The scatter figures: how methods relate, sweeps of a setting, pairs of networks, their titles."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from flatbook import published, relations
from flatbook.figures import plots, scatters

matplotlib.use("Agg")
X, Y = "avg_flatness_rloss", "rloss_test_pgd"
PRINTED = relations.printed()
BEST = published.table1().index


@pytest.fixture(autouse=True)
def close():
    yield
    matplotlib.pyplot.close("all")


def wide(seeds=2):
    """Printed numbers as if measured; seed s adds s to RLoss and to the spread over draws."""
    parts = {s: PRINTED[[X, Y]] + [0, s] for s in range(seeds)}
    df = pd.concat(parts, names=["seed", "method"]).swaplevel()
    return df.assign(**{f"{X}_std": 0.5 + df.index.get_level_values("seed")}).sort_index()


def points(ax):
    return np.vstack([c.get_offsets() for c in ax.collections if len(c.get_offsets())])


def drawn(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


# ---- relations -------------------------------------------------------------------------------


def test_means_average_seeds_and_keep_two_kinds_of_spread_apart():
    df = relations.means(wide())
    assert list(df.index) == list(PRINTED.index) and df.loc["trades6", "label"] == "TRADES"
    pd.testing.assert_series_equal(df[Y], PRINTED[Y] + 0.5)
    np.testing.assert_allclose(df[f"{Y}_std"], np.sqrt(0.5))
    np.testing.assert_allclose(df[f"{X}_over_draws"], 1.0)
    np.testing.assert_allclose(df[f"{X}_std"].dropna(), 0.0)


def test_means_of_one_seed_have_no_bars_and_own_methods_a_family():
    df = relations.means(wide(seeds=1).rename(index={"at": "mine"}, level="method"))
    assert not [c for c in df if c.endswith("_std")]
    assert tuple(df.loc["mine", ["label", "family"]]) == ("mine", "yours")
    assert df.index[-1] == "mine"


def test_correlations_have_a_row_per_view_and_source_that_has_it():
    views = {"a": (X, Y), "b": (X, "only_here")}
    tables = {"one": PRINTED, "two": PRINTED.assign(only_here=1.0), "few": PRINTED.head(2)}
    found = relations.correlations(tables, views, resamples=50)
    assert list(found.index) == [("a", "one"), ("a", "two"), ("a", "few"), ("b", "two")]
    assert found.loc[("a", "one"), "pearson"] == pytest.approx(0.858, abs=1e-3)
    assert found.loc[("a", "one"), "low"] < 0.858 < found.loc[("a", "one"), "high"]
    assert list(found["n"]) == [73, 73, 2, 73]
    assert found["pearson"].isna().tolist() == [False, False, True, True]


def test_settings_of_a_sweep_are_in_order_and_complete():
    assert list(relations.settings(PRINTED, "wd")["label"]) == [
        "0", "0.001", "0.005", "0.01", "0.05"]  # fmt: skip
    assert list(relations.settings(PRINTED, "cyclic")["label"]) == ["1", "2", "3", "4"]
    assert list(relations.settings(PRINTED, "pgd").index) == ["pgd5", "pgd14"]
    assert relations.settings(PRINTED.loc[["at"]], "wd").empty
    with pytest.raises(ValueError, match="name='zzz'.*trades"):
        relations.settings(PRINTED, "zzz")


def test_every_sweep_has_words_a_style_and_some_settings():
    assert set(relations.SWEEPS) == set(scatters.STROKES)
    assert len(set(scatters.STROKES.values())) == len(scatters.STROKES)
    assert all(len(relations.settings(PRINTED, name)) > 1 for name in relations.SWEEPS)


def test_slopes_are_least_squares():
    df = pd.DataFrame({X: [0.0, 1, 2], Y: [1.0, 3, 5]}, index=["wd0", "wd0.001", "wd0.05"])
    row = relations.slopes(df, ["wd", "awp"], X, Y)
    assert row.loc["weight decay", "slope"] == pytest.approx(2)
    assert row.loc["weight decay", "spearman"] == pytest.approx(1)
    assert row.loc["AT-AWP, ξ", "settings"] == 0 and np.isnan(row.loc["AT-AWP, ξ", "slope"])


def test_coefficients_take_each_side_of_the_diagonal_from_its_table():
    measures = {X: "flat", Y: "robust", "nowhere": "none"}
    table = relations.coefficients(PRINTED, PRINTED.assign(**{X: -PRINTED[X]}), measures)
    assert table.loc["robust", "flat"] == pytest.approx(0.858, abs=1e-3)
    assert table.loc["flat", "robust"] == pytest.approx(-0.858, abs=1e-3)
    assert np.isnan(np.diag(table)).all() and table["none"].isna().all()
    ax = scatters.squares(table)
    assert drawn(ax) == ["−.86", ".86"]


# ---- drawing ---------------------------------------------------------------------------------


def test_heading_says_what_is_known():
    ax = plots.panels()[1][0, 0]
    found = relations.correlations({"all": PRINTED, "few": PRINTED.head(4)}, {"v": (X, Y)}).loc["v"]
    scatters.heading(ax, "ours", found.loc["all"])
    assert ax.get_title(loc="left") == "ours: Pearson 0.86 [0.76, 0.90]"
    scatters.heading(ax, found=found.loc["few"])
    assert "[" not in ax.get_title(loc="left")
    scatters.heading(ax, "ours", found.loc["few"] * np.nan)
    assert ax.get_title(loc="left") == "ours: too few methods"


def test_sweeps_draw_each_setting_a_line_per_method_and_at():
    ax = scatters.sweeps(PRINTED, ["wd", "awp"], X, Y)
    assert len(points(ax)) == 5 + 3 + 1 and len(ax.lines) == 2
    slope = relations.slopes(PRINTED, ["awp"], X, Y)["slope"].iloc[0]
    x, y = ax.lines[1].get_xydata().T
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(slope)
    assert sorted(drawn(ax)) == sorted(["0", *["0.001"] * 2, *["0.005"] * 2, *["0.01"] * 2, "0.05"])
    shown = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert shown == ["weight decay", "AT-AWP, ξ", "AT (baseline)"]


def test_sweeps_of_what_was_not_measured_draw_nothing():
    ax = scatters.sweeps(PRINTED.loc[["mish"]], ["wd", "awp"], X, Y)
    assert not len(ax.lines) and not drawn(ax)


def test_one_key_for_all_panels():
    fig, axes = plots.panels(1, 3)
    for ax, name in zip(axes.flat, ("wd", "awp"), strict=False):
        scatters.sweeps(PRINTED, [name], X, Y, ax, legend=False)
    assert not fig.legends
    scatters.key(fig, axes[0, 2])
    shown = [text.get_text() for text in axes[0, 2].get_legend().get_texts()]
    assert shown == ["weight decay", "AT (baseline)", "AT-AWP, ξ"]


def test_pairs_join_last_and_early_stopped():
    df = PRINTED.assign(flat=PRINTED[X] / 2)
    ax = scatters.pairs(df, (X, Y), ("flat", "rloss_early_stop_pgd"), highlight=BEST)
    assert len(ax.lines) == 73 and len(points(ax)) == 146
    at = ax.lines[list(df.dropna(subset=[X]).index).index("at")]
    np.testing.assert_allclose(at.get_xydata(), [[1.22, 3.91], [0.61, 1.53]])
    assert at.get_color() == plots.FAMILIES["baseline"][0]
    assert len({line.get_color() for line in ax.lines}) == 10  # nine families and grey
