"""The ledger: well formed, true to the printed tables, and each of its claims can fail."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from flatbook import claims, published
from flatbook.claims import evidence, ledger, predicates
from flatbook.claims.comparisons import Below
from flatlib.files.paths import ROOT

PRINTED = claims.printed()
WIDE = PRINTED["wide"]
NOT_ON_PAPER = {"schedules-overfit"}  # the printed numbers of the cyclic schedules deny it
FLAT, SHARP = "avg_flatness_rloss", "worst_flatness_rloss"


def short(ids):
    return {id.removeprefix("stutz2021-") for id in ids}


def found(source, ledger=None):
    """Claim id (without the paper) -> verdict on one source."""
    df = claims.verdicts({"x": source}, ledger)
    return dict(zip(df["id"].str.removeprefix("stutz2021-"), df["verdict"]))


# ---- a world in which everything the paper says is so ------------------------------------------


def ideal_wide():
    """The printed numbers, and made-up ones of the kinds it draws but does not print."""
    df = WIDE.drop(columns="family").copy()
    rank = df["rloss_test_pgd"]
    noise = pd.Series(np.random.default_rng(0).normal(size=len(df)), df.index)
    df.loc[["cyclic", "cyclic2"], "rloss_early_stop_pgd"] -= 0.2
    df["avg_flatness_rloss_early_stop"] = df[FLAT] * 0.9
    df["avg_flatness_rloss_train"] = df[FLAT] + noise / 4
    df["avg_flatness_rloss_std"] = rank / 20
    df["rloss_incorrect_test_pgd"] = rank * 3
    for name, measure in ((FLAT, rank / 11), (SHARP, rank)):
        df[f"{name}@smallest"], df[f"{name}@largest"] = measure, rank + noise
    df["line_filter_rise"], df["line_random_rise"] = 1.0, 2.0
    df["line_adversarial_rise"] = 3.0
    df.loc["awp0.01", ["line_random_rise", "line_adversarial_rise"]] = 1.5, 4
    return df


def ideal_run(method="at", epochs=20, sharper=2.0):
    """History and snapshots of a run that overfits from two fifths on."""
    epoch = np.arange(epochs)
    after = np.clip((epoch - 8) / 12, 0, None)
    rloss = np.where(epoch < 8, 3 - epoch / 8, 2 + 2 * after)
    run = pd.DataFrame({"method": method, "seed": 0, "epoch": epoch})
    history = run.assign(
        progress=(epoch + 1) / epochs, lr=np.where(epoch < 8, 0.05, 0.005),
        train_rloss=4 - epoch / 6, test_rloss=rloss, test_rerr=0.5 + after / 10, test_err=0.3,
        test_rloss_correct=rloss / 2, test_rloss_incorrect=rloss * 4,
    )  # fmt: skip
    flat = rloss - 1 + (sharper - 1) * after
    snapshots = run.assign(rloss_test_pgd=rloss, lambda_max=100 * rloss)
    flatness = {FLAT: flat, SHARP: 2 * flat, "worst_flatness_loss": flat}
    flatness |= {"avg_flatness_loss": np.sin(epoch)}
    flatness |= {f"{FLAT}@0.25": flat / 4, f"{SHARP}@0.005": 5 * flat}
    return history, snapshots.assign(**flatness)


def tidy(snapshots):
    """Tidy rows from which `evidence` makes these snapshots again."""
    rows = snapshots.melt(["method", "seed", "epoch"], var_name="column")
    radius = rows["column"].str.partition("@")[2]
    rows["measure"] = rows["column"].str.replace("_test_pgd", "").str.partition("@")[0]
    rows["xi"] = pd.to_numeric(radius, errors="coerce").fillna(0.5)
    kinds = {"rloss": "robustness", "avg": "average", "worst": "worst", "lambda": "hessian"}
    rows["asked"] = rows["measure"].str.partition("_")[0].map(kinds).mask(radius != "", "radii")
    rows["which"] = "epoch-" + rows["epoch"].astype(str).str.zfill(3)
    return rows.assign(split="test", attack="pgd20x10", at=np.nan)


def ideal_versions():
    index = pd.MultiIndex.from_product([["at"], ["scaled-0.5", "last", "scaled-2"]],
                                       names=["method", "which"])  # fmt: skip
    constant = {"rerr_test_pgd": 0.6, FLAT: 1.2, SHARP: 6.5}
    return pd.DataFrame({"lambda_max": [400.0, 100.0, 25.0]}, index=index).assign(**constant)


def ideal():
    runs = [ideal_run(), *(ideal_run(m, sharper=1.0) for m in ("ssl4", "awp0.01", "unlabeled"))]
    history, snapshots = (pd.concat(parts) for parts in zip(*runs))
    return {"wide": ideal_wide(), "history": history, "tidy": tidy(snapshots),
            "versions": ideal_versions(), "robustbench": PRINTED["robustbench"]}  # fmt: skip


IDEAL = ideal()


def upside_down(rows):
    """Curves that fall where they rose and the other way round."""
    kept = ["seed", "epoch", "progress", "lr", "xi"]
    numbers = rows.select_dtypes("number").drop(columns=kept, errors="ignore")
    return rows.assign(**(1e3 - numbers))


def worlds():
    """Sources in which numbers are turned upside down or given to other columns."""
    wide = IDEAL["wide"].drop(columns="label")
    sharp = wide.filter(regex="flatness|line_|lambda|convexity")
    yield IDEAL | {"wide": 30 - wide, "history": upside_down(IDEAL["history"]),
                   "tidy": upside_down(IDEAL["tidy"])}  # fmt: skip
    yield IDEAL | {"wide": wide.assign(**(30 - sharp))}
    yield {"wide": wide.assign(rerr_test_aa=wide["rloss_test_pgd"] / 10)}
    yield {"wide": wide.mul(np.where(wide.index == "at", 1, 0.1), axis=0)}
    rerr = wide["rerr_test_aa"]
    yield {"wide": wide.assign(rerr_train_aa=rerr, rerr_early_stop_aa=2 * rerr,
                               rloss_early_stop_pgd=wide["rloss_test_pgd"] / 2)}  # fmt: skip
    errors = {c: wide["rerr_test_aa"] ** 9 * 1e3 for c in ("lambda_max", "convexity")}
    yield {"wide": wide.assign(**errors)}
    swaps = {"avg_flatness": "worst_flatness", "flatness_loss": "flatness_rloss",
             "_early_stop_pgd": "_test_pgd", "@smallest": "@largest",
             "flatness_rloss_train": "flatness_rloss"}  # fmt: skip
    for one, other in swaps.items():
        there = {c: c.replace(one, other) for c in wide if one in c}
        there = {old: new for old, new in there.items() if new in wide}
        yield {"wide": wide.rename(columns=there | {new: old for old, new in there.items()})}
    runs = IDEAL["tidy"]
    swapped = runs["measure"].replace({FLAT: "avg_flatness_loss", "avg_flatness_loss": FLAT})
    yield {"tidy": runs.assign(measure=swapped)}
    turned = runs["value"].where(runs["measure"] == "rloss", -runs["value"])
    yield {"tidy": runs.assign(value=turned)}
    yield {"tidy": runs.assign(value=runs["value"].where(runs["xi"] != 0.25, runs["value"] * 9))}
    yield {"tidy": runs.assign(value=runs["value"].where(runs["xi"] != 0.005, runs["value"] / 9))}
    at = runs[runs["method"] == "at"]
    alike = [at.assign(method=m) for m in ("at", "ssl4", "awp0.01", "unlabeled")]
    yield {"tidy": pd.concat(alike)}
    yield {"versions": IDEAL["versions"].mul([1.0, 2.0, 3.0], axis=0)}
    beside = IDEAL["robustbench"]
    yield {"robustbench": beside.assign(**(30 - beside[["rloss_test_pgd", FLAT]]))}
    yield IDEAL | {"history": IDEAL["history"].assign(
        test_rloss_correct=IDEAL["history"]["test_rloss_incorrect"],
        test_rloss_incorrect=IDEAL["history"]["test_rloss_correct"])}  # fmt: skip


def test_every_claim_can_hold():
    assert short(id for id, verdict in found(IDEAL).items() if verdict != "holds") == set()


def test_every_claim_can_fail(monkeypatch):
    monkeypatch.setattr(published, "_interval", lambda *_: (math.nan, math.nan))  # they take long
    monkeypatch.setattr(predicates, "RESAMPLES", 2)
    failed = set()
    for world in worlds():
        failed |= {id for id, verdict in found(world).items() if verdict == "fails"}
    assert short(c.id for c in claims.LEDGER) - failed == set()


def test_every_claim_stays_open_without_its_table():
    assert set(found({}).values()) == {"open"}
    assert set(found({"wide": WIDE.head(0)}).values()) == {"open"}


# ---- the ledger itself ---------------------------------------------------------------------------


def test_ledger_is_well_formed():
    ids = [claim.id for claim in claims.LEDGER]
    assert len(set(ids)) == len(ids) >= 40
    assert len({claim.statement for claim in claims.LEDGER}) == len(ids)
    for claim in claims.LEDGER:
        assert claim.place and claim.topic and claim.statement.endswith(".")
        assert claim.reads in evidence.KEYS, claim.id


@pytest.mark.parametrize("item", sorted({claim.item for claim in claims.LEDGER}))
def test_each_claim_is_shown_by_a_notebook(item):
    assert list((ROOT / "nbs" / "stutz2021").glob(f"{item}_*.py"))


def test_methods_named_in_the_ledger_exist():
    names = [ledger.SCHEDULES, ledger.DECAYS, ledger.NONLINEAR]
    assert {name for group in names for name in group} <= set(WIDE.index)


def test_verdicts_on_the_printed_tables():
    df = claims.verdicts({"printed": PRINTED}).set_index("id")
    df.index = df.index.str.removeprefix("stutz2021-")
    assert set(df["verdict"]) == {"holds", "fails", "not printed"}
    assert set(df.index[df["verdict"] == "fails"]) == NOT_ON_PAPER
    assert (df["verdict"] == "holds").sum() >= 40
    assert df.loc["pearson", "value"] == pytest.approx(0.858, abs=5e-4)
    assert df.loc["spearman", "value"] == pytest.approx(0.871, abs=5e-4)
    assert df.loc["worst-case-related", "value"] == pytest.approx(0.499, abs=5e-4)
    assert df.loc["at-rloss-overfits", "value"] == pytest.approx(3.91 / 1.53)
    assert df.loc["scaling-lambda", "value"] == pytest.approx(7936 / 1990)
    assert "n = 73" in df.loc["pearson", "shown"]
    assert df.loc["pearson", "low"] < 0.858 < df.loc["pearson", "high"]


# ---- the machinery -------------------------------------------------------------------------------


def test_missing_method_leaves_only_its_claims_open():
    verdict = found(WIDE.drop(index="noise0.3"))
    assert verdict["label-noise-rerr"] == "open" and verdict["pearson"] == "holds"


def test_seeds_are_averaged_and_give_a_range():
    rows = pd.concat([WIDE.assign(seed=s) for s in (0, 1)]).reset_index()
    rows.loc[rows["seed"] == 1, "rloss_test_pgd"] += 1
    df = claims.verdicts({"two": rows}).set_index("id").loc["stutz2021-at-rloss-overfits"]
    assert df["value"] == pytest.approx(4.41 / 1.53)
    assert (df["low"], df["high"]) == pytest.approx((3.91 / 1.53, 4.91 / 1.53))
    assert "over 2 seeds" in df["shown"]
    indexed = claims.verdicts({"two": rows.set_index(["method", "seed"])}).set_index("id")
    assert indexed.loc["stutz2021-at-rloss-overfits", "value"] == df["value"]


def test_few_methods_are_not_enough():
    df = claims.verdicts({"few": WIDE.head(5)})
    across = df[df["topic"] == "Flatness across methods"]
    assert set(across["verdict"]) == {"open"}
    assert across["value"].isna().all() and (across["shown"] == "").all()


def test_constant_column_stays_open_or_fails_but_does_not_crash():
    verdict = found(WIDE.assign(avg_flatness_rloss=1.0))
    assert verdict["pearson"] == "open" and verdict["variants-flatter"] == "fails"


def test_kink_is_the_loss_of_guessing():
    assert claims.GUESSING == pytest.approx(-math.log(1 / 10))


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="'method'"):
        claims.verdicts({"bad": pd.DataFrame({"x": [1.0]})})
    with pytest.raises(ValueError, match=r"\['histories'\].*history"):
        claims.verdicts({"bad": {"histories": pd.DataFrame()}})


def test_a_table_names_the_claims_it_shows():
    ids = ["pearson", "stutz2021-kink", "scaling-lambda"]
    shown = claims.table({"published": WIDE, "b": WIDE[["label"]], "c": PRINTED}, ids)
    assert list(shown.columns) == ["published", "b", "c"] and len(shown) == 3
    assert shown["published"].iloc[0].startswith("holds: 0.86 [")
    assert shown["published"].iloc[2] == "not printed" and shown["b"].iloc[0] == "open"
    assert shown["c"].iloc[2].startswith("holds: ")
    with pytest.raises(ValueError, match="pearsn"):
        claims.table({"a": WIDE}, ["pearsn"])


def test_ledgers_of_ones_own_are_decided_too():
    own = claims.Claim("mine", "topic", "here", "fig01", "s.", Below("x", ("b",), "a"))
    df = pd.DataFrame({"x": [2.0, 1.0]}, index=pd.Index(["a", "b"], name="method"))
    assert found(df, [own]) == {"mine": "holds"} and found(-df, [own]) == {"mine": "fails"}


def test_what_is_measured_is_gathered_however_little(monkeypatch, tmp_path):
    """The committed rows of a run, whichever suites; those of another definition do not count."""
    monkeypatch.setattr(evidence.paths, "RESULTS", tmp_path)
    (run,) = evidence.runs.select("at", "smoke", [0])
    row = {"method": "at", "seed": 0, "which": "last", "epoch": 4, "split": "test", "n": 40,
           "key": run.key, "profile": "smoke", "attack": "none", "value": 0.5}  # fmt: skip
    measured = {"robustness": "err", "hessian": "lambda_max", "worst": "worst_flatness_loss"}
    rows = [row | {"asked": asked, "measure": name, "protocol": run.protocol(asked)}
            for asked, name in measured.items()]  # fmt: skip
    rows[-1]["protocol"] = "another"
    (tmp_path / "smoke").mkdir()
    table = pd.DataFrame(rows).assign(std=np.nan, xi=np.nan, at=np.nan)
    table.to_csv(tmp_path / "smoke" / "measures.csv", index=False)
    history = pd.DataFrame({"method": ["at"], "seed": 0, "epoch": 0, "key": run.key, "lr": 0.1})
    history.to_csv(tmp_path / "smoke" / "history.csv", index=False)
    given = evidence.gather("table1", "smoke", [0, 1], "committed")
    there = evidence.tables(given)
    assert there["models"].loc[0, ["method", "err_test", "lambda_max"]].tolist() == ["at", 0.5, 0.5]
    assert "worst_flatness_loss" not in there["models"] and len(there["curves"]) == 1
    assert evidence.describe({"x": given}).loc["x", "models"] == "1 × 1 seed"
    assert evidence.gather(["mart6"], "smoke", [0], "committed") == {}


def test_columns_from_other_suites_join_the_models():
    rows = {"method": "at", "seed": 0, "which": "last", "split": "test", "attack": "none"}
    lines = [rows | {"asked": "lines", "measure": f"line_{kind}", "at": s, "value": 1 + s + s * s}
             for s in (-1, -0.5, 0, 0.5, 1) for kind in ("random", "adversarial")]  # fmt: skip
    radii = [rows | {"asked": "radii", "measure": FLAT, "xi": xi, "value": xi} for xi in (0.25, 1)]
    curved = [rows | {"asked": "hessian", "measure": "lambda_max", "value": 9.0}]
    other = [curved[0] | {"value": 5.0, "which": "epoch-003"}]
    wide = pd.DataFrame({"method": ["at"], "seed": [0], FLAT: [0.5]})
    df = evidence.models(wide, pd.DataFrame(lines + radii + curved + other)).iloc[0]
    assert (df["line_random_rise"], df["line_adversarial_rise"]) == (1, 2)
    assert (df["lambda_max"], df[FLAT]) == (9, 0.5)
    assert (df[f"{FLAT}@0.25"], df[f"{FLAT}@smallest"], df[f"{FLAT}@largest"]) == (0.25, 0.25, 1)


def test_numbers_of_one_seed_are_not_compared_with_means_over_several():
    """Of a suite of the first seed alone: what it is compared with is of that seed, too."""
    wide = pd.DataFrame({"method": ["at", "at"], "seed": [0, 1], FLAT: [2.0, 8.0], SHARP: [1, 1]})
    row = {"method": "at", "seed": 0, "which": "last", "epoch": 9, "split": "test",
           "attack": "none"}  # fmt: skip
    radii = pd.DataFrame([row | {"asked": "radii", "measure": FLAT, "xi": 0.25, "value": 1.5}])
    for less, rise in ((f"{FLAT}@0.25", 2.0 - 1.5), (SHARP, (2.0 + 8.0) / 2 - 1)):
        claim = predicates.Claim("c", "t", "", "", "", Smaller(FLAT, less))
        (got,) = claims.verdicts({"x": {"wide": wide, "tidy": radii}}, [claim])["value"]
        assert got == rise


@dataclass(frozen=True)
class Smaller:
    more: str
    less: str

    def __call__(self, df):
        rise = (df[self.more] - df[self.less]).item()
        return claims.Verdict(rise > 0, rise, "")


def test_snapshots_are_of_networks_that_have_several():
    """The last model of another seed is no snapshot to compare with."""
    row = {"method": "at", "split": "test", "attack": "none", "asked": "hessian",
           "measure": "lambda_max"}  # fmt: skip
    tidy = [row | {"seed": 0, "which": "epoch-005", "epoch": 5, "value": 1.0},
            row | {"seed": 0, "which": "last", "epoch": 79, "value": 2.0},
            row | {"seed": 1, "which": "last", "epoch": 79, "value": 9.0}]  # fmt: skip
    there = evidence.tables({"tidy": pd.DataFrame(tidy)})
    assert there["snapshots"]["seed"].tolist() == [0, 0] and there["versions"].empty
