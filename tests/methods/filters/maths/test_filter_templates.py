import numpy as np
import pytest
import torch

from lightning_interp.methods.filters.maths.filter_templates import filter_templates, map_centres, templates_at
from tests.methods.filters.reference.filter_gradient import matlab_centre, matlab_mask, paper_templates


def planted(size, at, values=(1.0,)):
    x = torch.zeros(1, 1, *size)
    for value, (row, column) in zip(values, at, strict=True):
        x[0, 0, row, column] = value
    return x


def test_the_published_rows():
    """Section through the peak of a 14 x 14 template: the paper's, and the code's."""
    paper = [-1, -0.7143, -0.4286, -0.1429, 0.1429, 0.4286, 0.7143, 1]
    code = [-1, -0.8462, -0.5385, -0.2308, 0.0769, 0.3846, 0.6923, 1]
    x = planted((14, 14), [(7, 7)])
    for template, row in [("paper", paper), ("code", code)]:
        found = filter_templates(x, template)[0, 0]
        assert found[7].tolist() == pytest.approx([*row, *row[6:0:-1]], abs=5e-5)
        torch.testing.assert_close(found, found.T)
        distance = (torch.arange(14) - 7).abs()
        assert torch.equal(found > 0, distance[:, None] + distance <= 3)


@pytest.mark.parametrize("size", [(5, 5), (4, 4), (3, 6), (6, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("centre", ["argmax", "centroid"])
def test_equal_to_loops_on_any_shape(size, centre):
    x = torch.rand(3, 2, *size, dtype=torch.float64).where(torch.rand(3, 2, *size) < 0.6, 0.0)
    found = filter_templates(x, "code", centre)
    if min(size) == 1:
        # A single cell of an axis has no distance to itself, which MATLAB's linspace would put at its end.
        x, found = x.flatten(2)[..., None], found.flatten(2)[..., None]
    expected = [[matlab_mask(one.numpy(), centre) for one in image] for image in x]
    torch.testing.assert_close(found, torch.from_numpy(np.array(expected)), atol=1e-14, rtol=0)


def test_a_number_is_beta_itself():
    row, column = torch.tensor([1.0]), torch.tensor([2.0])
    named = templates_at(row, column, (4, 5), "paper")
    torch.testing.assert_close(templates_at(row, column, (4, 5), 4), named)
    # Twice as steep: 8/4 a row, 8/5 a column.
    steep = templates_at(row, column, (4, 5), 8.0)[0]
    torch.testing.assert_close(steep[1], torch.tensor([-1.0, 1 - 1.6, 1.0, 1 - 1.6, -1.0]))
    torch.testing.assert_close(steep[:, 2], torch.tensor([-1.0, 1.0, -1.0, -1.0]))


def test_paper_templates_of_a_map_that_is_not_square():
    row, column = torch.meshgrid(torch.arange(3.0).double(), torch.arange(4.0).double(), indexing="ij")
    found = templates_at(row.flatten(), column.flatten(), (3, 4), "paper")
    torch.testing.assert_close(found, torch.from_numpy(np.array(paper_templates(3, 4)[:-1])))


def test_the_centroid_is_rounded_half_up():
    """Row 3 . 1 + 1 . 3 over 4 is 1.5 from 0: MATLAB has 2 there, torch.round of 2.5 from 1 has 1."""
    x = planted((5, 5), [(1, 2), (3, 2)], (3.0, 1.0))
    assert [int(i) for i in map_centres(x, "centroid")] == [2, 2]
    assert [int(i) for i in map_centres(x, "argmax")] == [1, 2]
    assert matlab_centre(x[0, 0].numpy(), "centroid") == (3, 3)
    assert [int(i) for i in map_centres(planted((5, 5), [(2, 1), (3, 0)], (1.0, 1.0)), "centroid")] == [3, 1]


@pytest.mark.parametrize("centre", ["argmax", "centroid"])
def test_zeros_and_ties_have_the_first_cell(centre):
    assert [int(i) for i in map_centres(torch.zeros(1, 1, 4, 5), centre)] == [0, 0]
    assert [int(i) for i in map_centres(planted((4, 5), [(2, 1), (1, 3)], (2.0, 2.0)), "argmax")] == [1, 3]


def test_no_gradient_and_unknown_names():
    x = torch.rand(1, 1, 3, 3, requires_grad=True)
    assert not filter_templates(x).requires_grad
    with pytest.raises(ValueError, match="unknown template='disc'; there are paper, code, or beta above 0"):
        filter_templates(x, "disc")
    with pytest.raises(ValueError, match="unknown centre='median'; there are argmax, centroid"):
        filter_templates(x, "code", "median")
