import math
from datetime import timedelta

import pytest
import torch

from lightning_interp.probing.ranks import Ranks
from tests.helpers.bias import Additive, Heads, TinyFaces, ask, biased, make_diagnoser, values
from tests.helpers.ranks import run_ranks
from tests.helpers.ranks import values as outcomes

CHECKS = ["slices"]


def test_slice_of_a_shortcut_is_made_of_the_conflicting_images():
    result = ask(Additive(0, 8), biased(faces=160, conflicting=32), checks=CHECKS)
    found = result.scores
    assert found["slice_error"].value > found["slice_error"].chance + 0.3
    assert found["slice_conflict/makeup"].value > 0.9
    assert found["slice_conflict/makeup"].chance == pytest.approx(0.2, abs=0.1)
    assert found["slice_size"].count == 160


def test_network_without_errors_has_no_slice_that_stands_out():
    found = ask(Additive(8, 0), biased(faces=160, conflicting=32), checks=CHECKS).scores
    assert found["slice_error"].value == found["slice_error"].chance == 0


def test_unknown_contexts_and_too_few_images():
    probe = biased(faces=160, known=("lipstick",))
    assert math.isnan(values(ask(Additive(0, 8), probe, checks=CHECKS))["slice_conflict/makeup"])
    few = ask(Additive(0, 8), biased(faces=8, conflicting=2), checks=CHECKS)
    assert few.missing["slices"] == "it needs 16 to 4096 images, not 8; see max_samples"


class HalfKnown(TinyFaces):
    """Make-up is told of the first faces only."""

    def facts(self, index):
        attributes = dict(super().facts(index)["attributes"])
        if index >= 80:
            del attributes["makeup"]
        return {"attributes": attributes}


@pytest.mark.parametrize(("conflicting", "share"), [(False, 0), (True, 1)])
def test_image_whose_context_is_unknown_does_not_conflict(conflicting, share):
    rows = [(face, face % 2, face % 2 ^ conflicting) for face in range(160)]
    score = ask(Additive(-1, 3), HalfKnown(rows), checks=CHECKS).scores["slice_conflict/makeup"]
    assert score.chance == share
    assert score.value == share or score.count == 0


def test_a_context_does_not_conflict_with_one_of_three_classes():
    found = ask(Thrice(), biased(faces=60, known=("kind", "makeup")), checks=CHECKS, question=KINDS).scores
    assert math.isnan(found["slice_conflict/makeup"].value)
    assert math.isnan(found["slice_conflict/makeup"].chance)
    assert not math.isnan(found["slice_error"].value)


KINDS = ("kind", "mouth", {"makeup": "lids"})


class Thrice(Heads):
    def __init__(self):
        super().__init__(Additive(3, 0), Additive(0, 3), Additive(1, 1))


def test_broken_embeddings_leave_nothing_to_slice():
    found = values(ask(Broken(0, 8), biased(faces=40), checks=CHECKS))
    assert all(math.isnan(found[name]) for name in ("slice_error", "slice_size", "slice_conflict/makeup"))


class Broken(Additive):
    def forward(self, x):
        return super().forward(x) * torch.nan


def slice_scores(rank, world):
    diagnoser = make_diagnoser(biased(faces=37), checks=CHECKS, outputs=["lipstick", "makeup"])
    model = Heads(Additive(0, 8), Additive(0, 8))
    diagnoser.describe(model)
    return values(diagnoser(model, ranks=Ranks.connect(timedelta(seconds=30))))


@pytest.mark.ddp
def test_two_processes_find_the_slice_of_one():
    (alone,) = outcomes(run_ranks(slice_scores, 1, timeout=60))
    both = outcomes(run_ranks(slice_scores, 2, timeout=60))
    for found in both:
        assert found == pytest.approx(alone, abs=1e-9, nan_ok=True)
