import math

import pytest
import torch

from lightning_interp.methods.filters.maths.memberships import memberships

ONE_HOT = [[True, False, False], [False, False, True]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_classes_become_memberships(dtype):
    found = memberships(torch.tensor([0, 2], dtype=dtype), 3, 2)
    assert found.dtype == torch.bool
    assert found.tolist() == ONE_HOT


def test_one_bool_an_image_is_the_number_of_its_class():
    assert memberships(torch.tensor([True, False]), 2, 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_memberships_of_zeros_and_ones_are_taken_as_they_are(dtype):
    member = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=dtype)
    assert memberships(member, 3, 2).tolist() == [[True, True, False], [False, False, False]]
    assert memberships(torch.tensor([[1], [0]], dtype=dtype), 1, 2).tolist() == [[True], [False]]


REFUSED = {
    "class K": (torch.tensor([0, 3]), "label 3 is none of the 3 classes, which are numbered from 0"),
    "below 0": (torch.tensor([-1, 0]), "label -1 is none of the 3 classes"),
    "ignored": (torch.tensor([0, -100]), "-100 is torch's ignore_index: .* memberships .* zeros for such an image"),
    "no whole number": (torch.tensor([0.9, 1.0]), r"label 0\.8999.* is none of the 3 classes"),
    "NaN": (torch.tensor([math.nan, 1.0]), "label nan is none"),
    "infinite": (torch.tensor([math.inf, 1.0]), "label inf is none"),
    "plus and minus one": (torch.tensor([[1, -1, 1], [1, 1, 1]]), "membership -1 is neither 0 nor 1"),
    "soft": (torch.tensor([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]]), r"membership 0\.25 is neither 0 nor 1"),
    "a list": ([0, 1], r"labels must be a tensor .*\(B, 3\).*, not list"),
    "other images": (torch.tensor([0, 1, 2]), r"labels must be .* of 2 images, got \(3,\)"),
    "other classes": (torch.zeros(2, 2).bool(), r"\(B, 3\) of 2 images, got \(2, 2\)"),
    "no axis": (torch.tensor(1), r"got \(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_fit_no_class_are_named(case):
    labels, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        memberships(labels, 3, 2)
