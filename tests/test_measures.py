"""Flatness and AutoAttack on fewer images than the errors."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from flatbook.figures import plots
from flatlib import average_flatness, evaluate
from flatlib.records import MEASURES
from flatlib.records.errors import autoattack, robustness
from flatlib.records.flatness import average
from flatlib.records.subject import Subject
from flatlib.runs import costs

FEW, FEWER, ALL = 24, 10, 40


@pytest.fixture(scope="module")
def profile(smoke):
    protocol = replace(smoke.protocol, flatness_images=FEW, autoattack_images=FEWER)
    return replace(smoke, eps=0.1, protocol=protocol)


@pytest.fixture(scope="module")
def subject(profile, robust):
    return Subject(robust, profile.load(), profile, "test")


def test_rows_say_how_many_images_they_are_of(subject):
    sizes = {name: {row["n"] for row in MEASURES[name].rows(subject)}
             for name in ("robustness", "autoattack", "average", "worst", "radii")}  # fmt: skip
    assert sizes == {"robustness": {ALL}, "autoattack": {FEWER}, "average": {FEW},
                     "worst": {FEW}, "radii": {FEW}}  # fmt: skip


def test_the_reference_is_of_the_same_images(subject, profile):
    robust, clean = average(subject)
    x, y = subject.x[:FEW], subject.y[:FEW]
    stream, p = subject.generator("avg_flatness_rloss"), profile.protocol
    reference = subject.report.robust_loss[:FEW]
    flat = average_flatness(subject.model, x, y, subject.pgd, p.xi, p.draws, stream,
                            reference=reference)  # fmt: skip
    assert robust["value"] == pytest.approx(flat.value)
    assert flat.reference == pytest.approx(reference.mean().item())
    part = subject.first(FEW)
    assert part.report.Loss == pytest.approx(evaluate(subject.model, x, y).Loss)
    assert part.generator("worst/0.003").initial_seed() == subject.generator(
        "worst/0.003").initial_seed()  # fmt: skip


def test_autoattack_takes_the_first_images(subject, profile):
    rerr, _ = autoattack(subject)
    attack = replace(profile.protocol.autoattack, eps=profile.eps)
    x, y = subject.x[:FEWER], subject.y[:FEWER]
    assert rerr["value"] == evaluate(subject.model, x, y, attack, doubts=False).RErr


@pytest.mark.parametrize("images", [None, ALL, 1000])
def test_without_a_number_all_images_are_taken(subject, images):
    assert subject.first(images) is subject


def test_only_a_number_moves_the_protocol_of_a_measure(smoke, profile):
    moved = {name for name, m in MEASURES.items() if m.protocol(smoke) != m.protocol(
        replace(smoke, protocol=profile.protocol))}  # fmt: skip
    assert moved == {
        "autoattack", "average", "worst", "offsets", "radii", "choices",
    }  # fmt: skip
    assert not any("None" in str(m.protocol(smoke)) for m in MEASURES.values())


def test_the_estimate_counts_fewer_images(smoke, profile):
    def share(name, split="test"):
        return costs.measuring(profile, name, split) / costs.measuring(smoke, name, split)

    assert share("autoattack") == pytest.approx(FEWER / ALL)
    assert share("average") == share("average", "train") == FEW / ALL
    assert share("worst") == pytest.approx(FEW / ALL)
    assert share("robustness") == 1 and FEW / ALL < share("radii") < 1
    few = replace(smoke, train=20)
    assert costs.measuring(few, "average", "train") == costs.measuring(smoke, "average") / 2


def test_a_caption_names_fewer_images(subject):
    rows = robustness(subject) + average(subject)
    tidy = pd.DataFrame(rows).assign(profile="some", seed=0, method="at")
    text = plots.caption(tidy)
    assert f"on {ALL} test images; RLoss by PGD-3 × 2; average-case" in text
    assert text.endswith(f"PGD-3 × 1 on the first {FEW}.")
    assert "first" not in plots.caption(tidy.assign(n=ALL))


def test_a_report_is_cut_example_by_example(subject):
    report = subject.report
    part = report.first(7)
    assert len(part.loss) == 7 and torch.equal(part.robust_loss, report.robust_loss[:7])
    assert part.RErr == report.robust_wrong[:7].float().mean().item() and part.attacked
