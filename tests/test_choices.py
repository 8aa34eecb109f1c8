"""Measures taken the other way: what must agree does, and the rows say how they were taken."""

from copy import copy
from dataclasses import replace

import pytest
import torch

from flatlib.records import MEASURES, disagreements
from flatlib.records.subject import Subject
from flatlib.training import profiles
from flatlib.weights import layers, norms, sample

NAMES = {
    "choice_average_batch", "choice_average_dataset", "choice_average_ball", "choice_average_any",
    "choice_clean_few", "choice_clean_many", "choice_worst_paper", "choice_worst_dataset",
    "choice_worst_step", "choice_worst_code", "choice_worst_radius", "choice_restarts_loss",
    "choice_restarts_wrong",
}  # fmt: skip


@pytest.fixture(scope="module")
def subject(smoke, robust):
    protocol = replace(smoke.protocol, draws=4, restarts=3)
    small = replace(smoke, train=80, test=40, eps=0.1, protocol=protocol)
    return Subject(robust, small.load(), small, "test")


@pytest.fixture(scope="module")
def rows(subject):
    return {row["measure"]: row for row in disagreements.choices(subject)}


def test_flatness_takes_as_many_images_as_the_protocol_says(subject, rows):
    few = copy(subject)
    few.protocol = replace(subject.protocol, flatness_images=24)
    found = {row["measure"]: row for row in disagreements.choices(few)}
    alone = Subject(subject.model, subject.data, replace(subject.profile, test=24), "test")
    for name, row in found.items():
        assert row["n"] == (40 if "restarts" in name else 24)
    assert found["choice_clean_few"]["value"] == pytest.approx(
        next(r["value"] for r in disagreements.choices(alone) if r["measure"] == "choice_clean_few"))


def test_every_choice_has_a_row(rows):
    assert set(rows) == NAMES
    assert all(row["split"] == "test" and row["n"] == 40 for row in rows.values())
    assert rows["choice_worst_radius"]["xi"] < rows["choice_worst_paper"]["xi"] == 0.003
    assert {rows[f"choice_average_{scope}"]["scope"] for scope in ("batch", "dataset")} == {
        "batch", "dataset"}  # fmt: skip
    assert "choices" in MEASURES


def test_what_cannot_be_larger_is_not(rows):
    value = {name: row["value"] for name, row in rows.items()}
    assert value["choice_restarts_wrong"] <= value["choice_restarts_loss"]
    assert value["choice_worst_radius"] < value["choice_worst_paper"]
    assert value["choice_average_any"] < value["choice_average_ball"]


def test_one_batch_is_the_whole_set(subject, rows):
    """40 images are one batch: both scopes draw the same nu and starts from the same stream."""
    one, other = rows["choice_average_batch"], rows["choice_average_dataset"]
    assert (one["value"], one["std"]) == (other["value"], other["std"]) and one["std"] > 0


def test_the_same_nu_is_made_shorter(subject, rows):
    """Without shortening, the loop of this module gives what `average_flatness` gives."""
    g = subject.generator(disagreements.AVERAGE)
    losses = disagreements._inside(subject, lambda u, d: 1.0, g, subject.generator("any"))
    found = losses.mean().item() - subject.report.RLoss
    assert found == pytest.approx(rows["choice_average_batch"]["value"], abs=1e-5)


def test_lengths_inside_the_ball(tiny, g):
    w = layers(tiny)
    nu = sample(w, 0.5, g)
    for name, length in disagreements.LENGTHS.items():
        shorter = norms(disagreements._shorter(nu, length, g))
        ratios = torch.stack([shorter[k] / n for k, n in norms(nu).items() if n > 0])
        assert (ratios <= 1 + 1e-6).all()
        assert (ratios.mean() > 0.9) == (name == "choice_average_ball")


def test_the_default_protocol_is_the_papers_choice():
    paper = profiles.get("cifar10").protocol
    assert paper.worst_xi == (0.003,) and paper.worst_lr == 0.001
    assert disagreements.SMALL_XI < paper.worst_xi[0] and disagreements.LONG_STEP > paper.worst_lr
