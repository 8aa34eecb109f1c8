"""Figures: what is drawn, whether it can be read, and that files are complete and repeatable."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

from flatbook import published
from flatbook.figures import plots
from flatlib.losses import guessing

matplotlib.use("Agg")
X, Y = "avg_flatness_rloss", "rloss_test_pgd"
PRINTED = published.stutz2021()
BEST = list(published.table1().index)


@pytest.fixture(autouse=True)
def close():
    yield
    matplotlib.pyplot.close("all")


def texts(ax):
    return [text for text in ax.texts if text.get_text()]


def boxes(ax):
    renderer = ax.figure.canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in texts(ax)}


def test_scatter_draws_every_complete_row_once():
    ax = plots.scatter(PRINTED, X, Y, highlight=BEST, labels=False)
    points = np.vstack([c.get_offsets() for c in ax.collections])
    complete = PRINTED[[X, Y]].dropna().to_numpy()
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(complete, axis=0))
    assert len(points) == 73
    assert ax.get_xlabel() == "average-case flatness in RLoss, ξ = 0.5"
    assert ax.get_ylabel() == "RLoss (test, PGD)"


def test_scatter_names_the_highlighted_without_overlap_and_inside():
    ax = plots.scatter(PRINTED, X, Y, highlight=BEST)
    found = boxes(ax)
    assert sorted(found) == sorted(PRINTED.loc[BEST, "label"])
    frame = ax.get_window_extent()
    for a, b in itertools.combinations(found.values(), 2):
        shared = matplotlib.transforms.Bbox.intersection(a, b)
        assert shared is None or shared.width * shared.height < 0.15 * min(
            a.width * a.height, b.width * b.height
        )
    for box in found.values():
        assert box.x0 > frame.x0 - 12 and box.x1 < frame.x1 + 12
        assert box.y0 > frame.y0 - 6 and box.y1 < frame.y1 + 6


def test_crowded_or_narrow_panels_get_no_names():
    assert not texts(plots.scatter(PRINTED, X, Y))
    narrow = plots.panels(1, 2, width=7)[1][0, 0]
    assert not texts(plots.scatter(PRINTED, X, Y, ax=narrow, highlight=BEST))
    assert len(texts(plots.scatter(PRINTED, X, Y, ax=narrow, highlight=["at"], labels=True))) == 1


def test_colour_and_marker_differ_between_families():
    styles = list(plots.FAMILIES.values())
    assert set(PRINTED["family"]) <= set(plots.FAMILIES)
    assert len({color for color, _ in styles}) == len(styles)
    markers = [marker for family, (_, marker) in plots.FAMILIES.items() if family != "yours"]
    assert len(set(markers)) == len(markers)


def test_legend_lists_the_families_drawn_once():
    fig, _ = plots.side_by_side({"a": PRINTED.loc[["at", "mish"]], "b": PRINTED.loc[["trades6"]]},
                                x=X, y=Y)  # fmt: skip
    assert len(fig.legends) == 1
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["baseline", "loss", "activation"]


def test_line_is_the_least_squares_line():
    df = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": [1.0, 3, 5, 7]})
    (line,) = plots.scatter(df, "x", "y", fit="line", labels=False).lines
    np.testing.assert_allclose(line.get_xydata(), [[0, 1], [3, 7]], atol=1e-9)


def test_split_lines_meet_the_kink_from_both_sides():
    df = pd.DataFrame({"x": [1.0, 2, 2.3, 2.4, 3, 4], "y": [1.0, 2, 2.3, 3, 3, 3]})
    left, right = plots.scatter(df, "x", "y", fit=guessing(10), labels=False).lines
    np.testing.assert_allclose(left.get_xdata(), [1, 2.3])
    np.testing.assert_allclose(right.get_xdata(), [2.4, 4])
    np.testing.assert_allclose(right.get_ydata(), [3, 3])
    assert len(plots.scatter(df.head(5), "x", "y", fit=guessing(10), labels=False).lines) == 1


def test_bars_show_the_spread_over_seeds():
    df = PRINTED.loc[["at"]].assign(**{f"{Y}_std": 0.25})
    ax = plots.scatter(df, X, Y, labels=False)
    (bar,) = [c for c in ax.collections if isinstance(c, matplotlib.collections.LineCollection)]
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [3.66, 4.16])


def test_errors_are_shown_in_percent():
    ax = plots.scatter(PRINTED, Y, "rerr_test_aa", labels=False)
    assert ax.yaxis.get_major_formatter()(0.6).startswith("60")
    assert "%" not in ax.xaxis.get_major_formatter()(2.0)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="fit='cubic'.*'line', 'a number'"):
        plots.scatter(PRINTED, X, Y, fit="cubic")
    with pytest.raises(ValueError, match="no column .'zzz'. .*rloss_test_pgd"):
        plots.scatter(PRINTED, X, "zzz")


def far_off():
    """Eleven rows in a cloud and one far to the right."""
    cloud = [float(i) for i in range(11)]
    return pd.DataFrame({"x": [*cloud, 1000], "y": [*cloud, 5], "label": list("abcdefghijkl")})


def test_far_off_points_are_left_out_marked_and_named():
    ax = plots.scatter(far_off(), "x", "y", crop=True, labels=True)
    low, high = ax.get_xlim()
    assert -1 < low < 0 and 10 < high < 11
    (mark,) = [c for c in ax.collections if not c.get_clip_on()]
    np.testing.assert_allclose(mark.get_offsets(), [[high, 5]])
    assert sorted(text.get_text() for text in texts(ax)) == list("abcdefghijk")
    said = plots.outside({"here": (far_off(), "x", "y"), "there": (PRINTED, X, Y)})
    assert said.endswith("methods outside it (x, y): *here*: l (1000.00, 5.00).")
    assert plots.outside({"there": (PRINTED, X, Y)}) == "All points are inside the frames."


def test_nothing_is_far_off_among_few_points_or_equal_ones():
    few = far_off().tail(9)
    assert plots.limits(few["x"])[1] > 1000
    assert plots.limits(pd.Series([2.0] * 12)) == (1.5, 2.5)
    assert plots.limits(pd.Series([], dtype=float)) == (0, 1)


@pytest.mark.parametrize("rows", [0, 1])
def test_scatter_of_almost_nothing(rows):
    ax = plots.scatter(PRINTED.head(rows), X, Y, fit="line")
    assert len(texts(ax)) == rows and not ax.lines


@pytest.mark.parametrize(
    "column, words",
    [
        ("worst_flatness_loss", "worst-case flatness in Loss, ξ = 0.003"),
        ("err_train", "Err (train)"),
        ("rerr_early_stop_aa", "RErr (test, early stopping, AutoAttack)"),
        ("lambda_max", "λ_max of the clean loss"),
        ("avg_flatness_rloss", "average-case flatness in RLoss, ξ = 0.5"),
        ("avg_flatness_rloss_train", "average-case flatness in RLoss (train)"),  # not printed
        ("avg_flatness_rloss_std", "avg_flatness_rloss_std"),
    ],
)
def test_axis_labels(column, words):
    assert plots.axis_label(column, PRINTED) == words


def test_axes_say_the_radius_of_their_table_and_no_other():
    near = PRINTED.assign()
    near.attrs["xi"] = {X: 0.25}
    bare = pd.DataFrame(PRINTED.to_dict())
    labels = [plots.scatter(df, X, Y).get_xlabel() for df in (PRINTED, near, bare)]
    words = "average-case flatness in RLoss"
    assert labels == [f"{words}, ξ = 0.5", f"{words}, ξ = 0.25", words]


def test_every_wide_column_has_words():
    assert all(plots.axis_label(c) != c for c in PRINTED.select_dtypes("number"))


@pytest.mark.parametrize("stacked", [True, False])
def test_side_by_side_shares_labels_and_limits(stacked):
    frames = {"published": PRINTED, "measured": PRINTED.loc[BEST]}
    fig, axes = plots.side_by_side(frames, share=True, stacked=stacked, x=X, y=Y, labels=False)
    assert [ax.get_title(loc="left") for ax in axes] == ["published", "measured"]
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[0].get_ylim() == axes[1].get_ylim()
    low, high = axes[0].get_xlim()
    assert low < PRINTED[X].min() and high > PRINTED[X].max()
    hidden = axes[0].get_xlabel() if stacked else axes[1].get_ylabel()
    assert hidden == "" and axes[1].get_xlabel() and axes[0].get_ylabel()


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    plots.scatter(PRINTED, X, Y)
    assert dict(matplotlib.rcParams) == before
