import math

import pytest
import torch

from lightning_interp.functional.heads import attribute_logit, column

UNUSED = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_single_output_is_the_log_odds(shape):
    outputs = torch.tensor([1.5, -2.0]).view(shape)
    assert attribute_logit(outputs, "a", None, UNUSED).tolist() == [1.5, -2.0]


def test_two_classes_give_the_log_odds_of_the_second_whatever_the_label():
    outputs = torch.tensor([[1.0, 4.0], [2.0, 0.5]])
    for labels in (torch.tensor([0, 1]), torch.tensor([-1, 0])):
        assert attribute_logit(outputs, "a", None, labels).tolist() == [3.0, -1.5]
    odds = outputs.softmax(1)
    assert torch.allclose(attribute_logit(outputs, "a", None, UNUSED), (odds[:, 1] / odds[:, 0]).log())


def test_several_classes_give_the_log_odds_of_the_true_one():
    outputs = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    scores = attribute_logit(outputs, "a", None, torch.tensor([2, 0]))
    assert scores.tolist() == pytest.approx([3 - math.log(math.e + math.e**2), -math.log(2)])
    # Far into saturation a probability would be 1 and its log-odds infinite.
    far = attribute_logit(torch.tensor([[800.0, 0.0, -800.0]]), "a", None, torch.tensor([0]))
    assert far.tolist() == [800.0]


def test_named_outputs_are_columns_also_when_there_are_two():
    outputs = torch.tensor([[1.0, 4.0], [2.0, 0.5]])
    assert attribute_logit(outputs, "b", ["a", "b"], UNUSED).tolist() == [4.0, 0.5]
    assert attribute_logit(outputs, "a", ("a", "b"), UNUSED).tolist() == [1.0, 2.0]
    assert attribute_logit(torch.tensor([1.0, 2.0]), "a", ["a"], UNUSED).tolist() == [1.0, 2.0]


def test_a_nan_stays_in_its_image():
    outputs = torch.tensor([[math.nan, 0.0, 1.0], [0.0, 0.0, 0.0]])
    scores = attribute_logit(outputs, "a", None, torch.tensor([1, 1]))
    assert scores.isnan().tolist() == [True, False]


@pytest.mark.parametrize("shape", [(), (2, 3, 4), (2, 3, 1, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected logits \(B,\) or \(B, K\)"):
        attribute_logit(torch.zeros(shape), "a", None, UNUSED)


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"gives \(2, 3\); outputs= names 2 columns"):
        column(torch.zeros(2, 3), "a", ["a", "b"])
    with pytest.raises(ValueError, match="does not name 'c'; it names a, b"):
        column(torch.zeros(2, 2), "c", ["a", "b"])
