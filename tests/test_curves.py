"""Training curves, lines through weight space and paths over epochs: what is drawn, from what."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from flatbook import training_curves
from flatbook.figures import curves

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    matplotlib.pyplot.close("all")


def history(**more):
    t = np.arange(1, 11) / 10
    return pd.DataFrame(
        {"method": "at", "seed": 0, "progress": t, "train_rloss": 1 - t / 2, "test_rloss": 1 + t}
        | {"train_rerr": t / 3, "test_rerr": t / 2}
        | {"test_rloss_correct": t, "test_rloss_incorrect": 3 * t}
        | more
    )


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def tidy():
    """Two snapshots and the last model, flatness at two radii."""
    rows = []
    for epoch, which in ((5, "epoch-005"), (15, "epoch-015"), (19, "last")):
        at = {"method": "at", "seed": 0, "epoch": epoch, "which": which, "attack": "pgd"}
        for split in ("test", "train"):
            loss = {"asked": "robustness", "measure": "rloss", "value": epoch}
            rows.append(at | loss | {"split": split})
        at |= {"split": "test"}
        for xi, asked in ((0.25, "radii"), (0.5, "average")):
            flat = {"asked": asked, "measure": "avg_flatness_rloss", "xi": xi}
            rows.append(at | flat | {"value": xi * epoch})
        rows.append(at | {"asked": "hessian", "measure": "lambda_max", "value": 100 * epoch})
    rows.append(rows[0] | {"which": "early_stopped", "value": -1})
    return pd.DataFrame(rows)


def test_test_is_solid_and_train_dotted():
    ax = curves.training(history())
    assert [line.get_linestyle() for line in ax.lines] == [":", "-"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), history()["test_rloss"])
    assert not ax.collections and ax.get_ylabel() == "RLoss"
    ax = curves.training(history(), splits=("test_correct", "test_incorrect"), label="AT")
    np.testing.assert_allclose(ax.lines[1].get_ydata(), history()["test_rloss_incorrect"])
    assert legend(ax) == ["AT, test, correct", "AT, test, incorrect"]


def test_seeds_show_as_mean_and_one_standard_deviation():
    a, b = history(), history(seed=1)
    b["test_rloss"] += 1
    ax = curves.training(pd.concat([a, b]), splits=["test"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), a["test_rloss"] + 0.5)
    (band,) = ax.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    half = np.std([0, 1], ddof=1)
    assert low == pytest.approx(1.6 - half) and high == pytest.approx(2.5 + half)


def test_epochs_without_a_test_curve_are_passed_over():
    some = history()
    some.loc[::2, "test_rloss"] = np.nan
    ax = curves.training(some, splits=["test"])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.2, 0.4, 0.6, 0.8, 1.0])


def test_compare_gives_each_method_a_colour_and_each_split_a_line():
    both = pd.concat([history(), history(method="mart6")])
    ax = curves.compare(both, {"at": "#000000", "none": "#ff0000", "mart6": "#0072B2"},
                        names={"mart6": "MART"})  # fmt: skip
    drawn = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert drawn == [("#000000", "-"), ("#000000", ":"), ("#0072B2", "-"), ("#0072B2", ":")]
    assert legend(ax) == ["at", "MART"]


def test_compare_splits_correct_and_incorrect():
    parts = {"test": "-", "test_correct": ":", "test_incorrect": "--"}
    ax = curves.compare(history(), {"at": "#000000"}, lines=parts)
    assert [line.get_linestyle() for line in ax.lines] == ["-", ":", "--"]
    np.testing.assert_allclose(ax.lines[2].get_ydata(), history()["test_rloss_incorrect"])


def test_compare_of_nothing_is_an_empty_panel():
    ax = curves.compare(history(), {"mart6": "#000000"})
    assert not ax.lines and ax.get_legend() is None


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="what='acc'.*'rloss'"):
        curves.training(history(), "acc")
    with pytest.raises(ValueError, match="what='acc'.*'rloss'"):
        curves.compare(history(), {}, "acc")
    with pytest.raises(ValueError, match="splits='validation'.*'test'"):
        curves.training(history(), splits=["validation"])
    with pytest.raises(ValueError, match="measure='line'.*'line_random'"):
        curves.along(pd.DataFrame({"measure": [], "at": []}), "line", {})


def test_shades_are_distinct_and_the_first_black():
    names = ["wd0", "at", "wd0.01", "wd0.05"]
    found = curves.shades(names, first=["at"])
    assert list(found) == names and found["at"] == "#000000" and len(set(found.values())) == 4


def test_key_names_colours_and_lines():
    fig, _ = curves.panels(legend=0.6)
    found = curves.key(fig, curves.LINES, {"at": "#000000"}, {"at": "AT"})
    assert [text.get_text() for text in found.get_texts()] == ["AT", "test", "train"]


def test_slices_draw_each_direction_and_the_mean():
    s = np.linspace(-1, 1, 5)
    rows = [(d, x, d + x * x) for d in (1, 2, 3) for x in s]
    df = pd.DataFrame(rows, columns=["direction", "s", "rloss"]).sample(frac=1, random_state=0)
    ax = curves.slices(df, label="AT")
    assert len(ax.lines) == 4
    np.testing.assert_allclose(ax.lines[3].get_xydata(), np.stack([s, 2 + s * s], 1))


def test_along_draws_a_line_per_model_averaged_over_seeds():
    s = np.linspace(-1, 1, 5)
    rows = [{"model": m, "seed": seed, "measure": "line_random", "at": x, "value": seed + x * x}
            for m in ("at", "x2") for seed in (0, 1) for x in s]  # fmt: skip
    other = {"model": "at", "seed": 0, "measure": "line_filter", "at": 0.0, "value": 99.0}
    lines = pd.DataFrame([*rows, other])
    ax = curves.along(lines, "line_random", {"at": "#000000", "x3": "#ff0000"}, start=0,
                      lines={"at": ":"})  # fmt: skip
    (line,) = ax.lines
    assert line.get_linestyle() == ":"
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.5], [0.5, 0.75], [1, 1.5]])


def test_versions_and_how_far_their_lines_rise():
    s = np.linspace(-1, 1, 5)
    rows = [{"method": "at", "which": which, "seed": 0, "measure": measure, "at": x, "value": loss}
            for which, loss_of in (("last", lambda x: 3 + x * x), ("scaled-2", lambda x: 3 + x))
            for measure in ("line_random", "line_adversarial")
            for x, loss in zip(s, loss_of(s))]  # fmt: skip
    table = training_curves.rises(training_curves.versions(pd.DataFrame(rows)))
    assert list(table.index) == [("at", 0), ("at, scaled-2", 0)]
    np.testing.assert_allclose(table["line_random"], [1, 0])
    np.testing.assert_allclose(table["line_adversarial"], [1, 1])
    assert training_curves.rises(training_curves.versions(tidy())).empty


def test_snapshots_are_rows_in_order_of_progress():
    table = training_curves.snapshots(tidy())
    assert table["epoch"].tolist() == [5, 15, 19]
    np.testing.assert_allclose(table["progress"], [0.3, 0.8, 1.0])
    np.testing.assert_allclose(table["avg_flatness_rloss"], [2.5, 7.5, 9.5])
    assert table["rloss_train_pgd"].tolist() == table["rloss_test_pgd"].tolist() == [5, 15, 19]
    assert "lambda_max" in table


def test_snapshots_take_the_radius_asked_for():
    table = training_curves.snapshots(tidy(), average=0.25)
    np.testing.assert_allclose(table["avg_flatness_rloss"], [1.25, 3.75, 4.75])
    assert "avg_flatness_rloss" not in training_curves.snapshots(tidy(), average=0.75)


def test_overfitting_is_the_rise_from_the_lowest_point():
    falls = history(seed=1)
    falls["test_rloss"] = 3 - falls["test_rloss"]
    some = pd.concat([history(), falls]).assign(epoch=lambda df: df["progress"] * 10 - 1)
    some.loc[some["progress"] == 0.5, "test_rloss"] = np.nan
    table = training_curves.overfitting(some)
    first, second = table.loc[("at", 0)], table.loc[("at", 1)]
    assert (first["lowest"], first["at"], first["last"]) == (1.1, 0.1, 2.0)
    assert first["last / lowest"] == pytest.approx(2 / 1.1) and first["train"] == 0.5
    assert second["at"] == 1.0 and second["last / lowest"] == 1


def test_the_early_stopped_model_lies_on_the_curve():
    some = history().assign(epoch=np.arange(10))
    some.loc[::2, "test_rloss"] = np.nan
    early = tidy()[lambda df: df["which"] == "early_stopped"].assign(epoch=4)
    (row,) = training_curves.stopped(some, early).to_dict("records")
    assert row["epoch"] == 4 and row["progress"] == pytest.approx(0.5)
    assert row["rloss"] == pytest.approx(1.5) and row["rerr"] == pytest.approx(0.25)
    assert training_curves.stopped(some, early.head(0)).empty


def test_over_epochs_draws_what_is_there():
    columns = {"rloss_test_pgd": ("RLoss", "#000000", "-"), "absent": ("absent", "#ff0000", "-")}
    ax = curves.over_epochs(training_curves.snapshots(tidy()), columns)
    line, drop = ax.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.3, 5], [0.8, 15], [1, 19]])
    assert drop.get_xdata()[0] == 0.4 and legend(ax) == ["RLoss"]


def test_a_path_goes_from_blue_to_red_and_rings_the_last():
    table = training_curves.snapshots(tidy())
    ax = curves.path(table, "avg_flatness_rloss", "rloss_test_pgd")
    points, ring = ax.collections
    np.testing.assert_allclose(points.get_offsets(), [[2.5, 5], [7.5, 15], [9.5, 19]])
    np.testing.assert_allclose(ring.get_offsets(), [[9.5, 19]])
    ax.figure.canvas.draw()
    first, *_, last = points.get_facecolors()
    assert first[2] > first[0] and last[0] > last[2]


def test_a_path_without_its_measure_is_an_empty_panel():
    ax = curves.path(training_curves.snapshots(tidy()), "worst_flatness_rloss", "rloss_test_pgd", title="AT")
    assert not ax.collections and ax.get_title(loc="left") == "AT"


def test_headroom_passes_over_the_first_epochs():
    some = history()
    some.loc[0, "test_rloss"] = 5000
    ax = curves.training(some)
    curves.headroom(ax)
    assert ax.get_ylim() == (0, pytest.approx(1.08 * 2))
    empty = curves.panels()[1][0, 0]
    curves.headroom(empty)
    assert empty.get_ylim() == (0, 1)


def test_the_frame_of_paths_leaves_the_first_epochs_out():
    table = training_curves.snapshots(tidy())
    _, axes = curves.panels(1, 2)
    curves.frame(axes, table, "avg_flatness_rloss", "worst_flatness_rloss", after=0.5)
    assert axes[0, 0].get_xlim() == (pytest.approx(7.3), pytest.approx(9.7))
    assert axes[0, 0].get_xlim() == axes[0, 1].get_xlim()
    assert axes[0, 0].get_ylim() == (0, 1)


def test_shared_limits_hold_all_that_is_drawn():
    _, axes = curves.panels(1, 3)
    axes[0, 0].plot([0, 1], [0, 5])
    axes[0, 1].plot([0, 1], [-3, 1])
    curves.share(axes)
    (limits,) = {ax.get_ylim() for ax in axes.flat}
    assert limits[0] <= -3 and limits[1] >= 5
    curves.share(axes, low=0)
    assert axes[0, 2].get_ylim() == (0, limits[1])


def test_described_says_how_lines_were_taken():
    row = {"attack": "pgd10x1", "n": 128, "draws": 10, "xi": 0.5, "scope": "filter"}
    rows = [row | {"measure": "line_filter"}, {"measure": "lambda_max", "n": 400}]
    assert training_curves.described(pd.DataFrame(rows)) == (
        "Mean over 10 random directions, filter-wise, length 0.5, RLoss by PGD-10 on 128 images; "
        "Hessian of the mean clean loss on 400 images.")  # fmt: skip
    assert training_curves.described(tidy().head(1)) == ""
