from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_interp.drawing.figures import render
from lightning_interp.methods.bias.figures.relations import relation_matrix
from lightning_interp.methods.bias.result import Finding
from tests.helpers.bias_results import relations
from tests.helpers.results import HOSTILE

FOUND = relations()


def cells(axes):
    """Text by (row, column)."""
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}


def test_both_matrices_by_hand():
    left, right = relation_matrix(FOUND).axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), FOUND.mean)
    assert right.images[0].get_array().mask.sum() == 7
    assert left.images[0].get_clim() == right.images[0].get_clim() == (-1, 1)
    assert cells(left)[0, 1] == cells(left)[1, 0] == "0.90"
    assert cells(left)[2, 3] == "-0.30"
    assert cells(right)[0, 2] == "0.80\nought +"
    assert cells(right)[0, 1] == "0.95\nought 0"
    assert cells(right)[3, 2] == "?\nought \N{MINUS SIGN}"
    assert len(cells(left)) == len(cells(right)) == 12
    assert [t.get_text() for t in left.get_xticklabels()] == ["lipstick", "makeup", "red", "smile"]


def test_red_is_positive_and_blue_negative():
    image = relation_matrix(FOUND).axes[0].images[0]
    red, _, blue, _ = image.to_rgba(0.9)
    assert red > blue
    red, _, blue, _ = image.to_rgba(-0.9)
    assert blue > red


def test_numbers_are_readable_on_their_cells():
    inks = {t.get_text(): to_hex(t.get_color()) for t in relation_matrix(FOUND).axes[0].texts}
    assert (inks["0.90"], inks["0.10"], inks["-0.30"]) == ("#ffffff", "#1f2328", "#1f2328")


def test_findings_are_framed_on_both_sides_of_the_diagonal():
    figure = relation_matrix(FOUND)
    frames = {
        (round(p.get_y() + 0.46), round(p.get_x() + 0.46)): p.get_linestyle() == "solid" for p in figure.axes[0].patches
    }
    assert frames == {(0, 1): True, (1, 0): True, (2, 0): False, (0, 2): False}
    assert not figure.axes[1].patches
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["failure mode", "blind spot"]


def test_without_findings_there_is_no_frame_and_no_legend():
    figure = relation_matrix(replace(FOUND, findings=()))
    assert not figure.axes[0].patches
    assert not figure.legends


@pytest.mark.parametrize(("count", "numbers"), [(14, 14 * 13), (15, 0)])
def test_many_attributes_have_no_numbers_and_a_figure_of_bounded_size(count, numbers):
    matrix = np.eye(count)
    found = replace(
        FOUND,
        names=tuple(f"attribute {i}" for i in range(count)),
        mean=matrix,
        labels=matrix,
        expected=matrix.astype(np.int64),
        findings=(),
    )
    figure = relation_matrix(found)
    assert len(figure.axes[0].texts) == numbers
    assert figure.get_size_inches()[0] <= 21


def test_no_zero_has_a_sign():
    mean = FOUND.mean.copy()
    mean[0, 1] = -0.001
    assert cells(relation_matrix(replace(FOUND, mean=mean)).axes[0])[0, 1] == "0.00"


def test_hostile_names_are_drawn():
    names = HOSTILE[:4]
    found = replace(FOUND, names=names, findings=(Finding("blind spot", names[0], names[1], 0.1, 1, 2.0),))
    assert render(relation_matrix(found)).std() > 0
