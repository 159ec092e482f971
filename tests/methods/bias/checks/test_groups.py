import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_interp.errors import DatasetError
from tests.helpers.bias import Additive, TinyFaces, all_versions, ask, biased, make_diagnoser, values

CHECKS = ["groups"]


class Says(nn.Module):
    """Gives the logits written down, image by image: the blue of the corner is the face's number."""

    def __init__(self, logits):
        super().__init__()
        self.layer, self.logits = nn.Identity(), torch.tensor(logits)

    def forward(self, x):
        return self.logits[(self.layer(x)[:, 2, 0, 0] * 255).round().long()]


class Numbered(TinyFaces):
    def image(self, index):
        image = super().image(index)
        image[2, 0, 0] = index
        return image


# (y, c), logit: cell (1, 0) has one right of two, all the others are right.
TABLE = [((0, 0), -4.0), ((0, 0), -1.0), ((0, 1), -0.5), ((0, 1), -0.5), ((1, 0), 1.0), ((1, 0), -3.5), ((1, 1), 5.0)]


def by_hand(**options):
    probe = Numbered([(face, y, c) for face, ((y, c), _) in enumerate(TABLE)])
    return ask(Says([logit for _, logit in TABLE]), probe, checks=CHECKS, **options)


def test_numbers_counted_by_hand():
    found = values(by_hand())
    assert found["accuracy"] == pytest.approx(6 / 7)
    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["worst_group_accuracy/makeup"] == 0.5
    assert found["group_gap/makeup"] == pytest.approx(6 / 7 - 0.5)
    # Within y = 1 the accuracies are 1/2 and 1.
    assert found["equalised_odds_gap/makeup"] == 0.5
    # Of cells (y, c): -2.5, -0.5, -1.25, 5.
    logits = torch.tensor([logit for _, logit in TABLE])
    assert found["score_gap/makeup"] == pytest.approx(((-0.5 + 2.5) + (5 + 1.25)) / 2 / float(logits.std()))
    assert found["association/makeup"] == pytest.approx((1 * 2 - 2 * 2) / math.sqrt(4 * 3 * 4 * 3))
    # Above log(19) = 2.94: -4 right, -3.5 wrong, 5 right.
    assert found["confident_errors"] == pytest.approx(1 / 3)
    assert by_hand().scores["confident_errors"].count == 3


def test_training_shares_give_the_adjusted_average_and_the_direction_of_the_bias():
    assert not {"adjusted_accuracy/makeup", "bias_amplification/makeup"} & set(values(by_hand()))
    y, c = [0] * 6 + [1] * 4, [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    found = values(by_hand(training={"lipstick": y, "makeup": torch.tensor(c)}))
    assert found["adjusted_accuracy/makeup"] == pytest.approx(0.5 + 0.1 + 0.1 * 0.5 + 0.3)
    # P(yhat=1 | c=0) is 1/4, P(y=1 | c=0) 2/4; of c = 1 both are 1/3. The bias says that c = 0 goes with y = 0.
    assert found["bias_amplification/makeup"] == pytest.approx((0.25 + 0.25 + 0 + 0) / 4)
    only_one = values(by_hand(training={"lipstick": y}))
    assert "adjusted_accuracy/makeup" not in only_one


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({"lipstik": [0, 1], "makeup": [0, 1]}, "unknown attribute in training= 'lipstik'; did you mean 'lipstick'"),
        ({"lipstick": [0, 1], "blond": [0, 1]}, "unknown attribute in training= 'blond'; there are lipstick, makeup"),
        ({"lipstick": [0, 1, 1], "makeup": [0, 1]}, "training= has 3 labels of 'lipstick' and 2 labels of 'makeup'"),
        ({"lipstick": [0, 1], "makeup": [-1, 1]}, "training= has -1 for 'makeup'; labels are whole numbers from 0"),
        ({"lipstick": [0.9, 1], "makeup": [0, 1]}, "training= has 0.9 for 'lipstick'"),
        ({"lipstick": [math.nan, 1], "makeup": [0, 1]}, "training= has nan for 'lipstick'"),
        ({"lipstick": [0, 1], "makeup": [0, 2]}, "training= has 2 for 'makeup'; contexts are binary, 0 or 1"),
        ({"lipstick": ["no", "yes"], "makeup": [0, 1]}, "training= has no labels of 'lipstick'"),
        ({"lipstick": [[0, 1]], "makeup": [0, 1]}, "training= has no labels of 'lipstick'"),
        ({"lipstick": [], "makeup": []}, "training= has no labels of 'lipstick'"),
    ],
)
def test_training_labels_that_do_not_fit_are_named_at_once(training, text):
    with pytest.raises(DatasetError, match=text):
        make_diagnoser(biased(), training=training)


def test_training_labels_may_be_of_any_type_that_holds_whole_numbers():
    given = {"lipstick": torch.tensor([0.0, 1.0, 1.0]), "makeup": np.array([False, True, False])}
    found = make_diagnoser(biased(), training=given).asked.training
    assert {name: values.tolist() for name, values in found.items()} == {"lipstick": [0, 1, 1], "makeup": [0, 1, 0]}


def test_training_may_have_classes_that_the_probe_set_lacks_but_not_the_network():
    training = {"lipstick": [0, 1, 2], "makeup": [0, 1, 1]}
    diagnoser = make_diagnoser(biased(), checks=CHECKS, training=training)
    with pytest.raises(DatasetError, match="training= has 2 for 'lipstick', the network tells 2 classes apart"):
        diagnoser.describe(Additive(6, 4))


def test_shortcut_is_at_its_worst_in_the_conflicting_groups():
    found = values(ask(Additive(0, 8), biased(), checks=CHECKS))
    assert found["accuracy"] == 0.9
    assert found["worst_group_accuracy/makeup"] == 0
    assert found["equalised_odds_gap/makeup"] == 1
    assert found["association/makeup"] == pytest.approx(0.8)


def test_network_without_the_shortcut_has_no_gap():
    found = values(ask(Additive(8, 0), all_versions(), checks=CHECKS))
    for name in ("group_gap", "equalised_odds_gap", "score_gap", "association", "conditional_reliance"):
        assert found[f"{name}/makeup"] == pytest.approx(0, abs=1e-6), name


def test_context_without_labels_has_the_same_names_and_no_numbers():
    contexts = {"makeup": "lids", "blond": "lids"}
    question = ("lipstick", "mouth", contexts)
    result = ask(Additive(8, 0), all_versions(), checks=CHECKS, question=question)
    names = {name.removesuffix("/blond") for name in result.scores if name.endswith("/blond")}
    assert names == {name.removesuffix("/makeup") for name in result.scores if name.endswith("/makeup")}
    assert len(names) == 6
    assert all(math.isnan(result.scores[f"{name}/blond"].value) for name in names)
    assert result.missing == {"groups": "no labels of blond in the probe set: no groups by it"}
