"""The picture of receptive fields: what each panel says, and that it is drawn whatever the values."""

import warnings

import numpy as np
import pytest

from lightning_interp.drawing.figures import render
from lightning_interp.methods.fields.figures import receptive_fields


def bump(height=20, width=30):
    """1 in the 3 x 3 pixels around the centre, 0 elsewhere, unknown in the first column."""
    values = np.zeros((height, width), dtype=np.float32)
    values[height // 2 - 1 : height // 2 + 2, width // 2 - 1 : width // 2 + 2] = 1
    values[:, 0] = np.nan
    return values


def test_panels_say_what_was_found():
    maps = np.stack([bump(), bump() * 5, np.zeros((20, 30), np.float32)])
    figure = receptive_fields("layer$4$", [3, 17, 5], maps, [3.0, 3.0, 0.0], [2.5, 1.0, np.nan], (9, 7))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["unit 3\n3 px, 2.5 x chance", "unit 17\n3 px, 1.0 x chance", "unit 5\nno change"]
    assert figure.get_suptitle() == "layer$4$: fields by occlusion (in theory 9 x 7 px)"
    # (left, top) so that 15, 10 is the middle of 7 columns and 9 rows.
    frame = figure.axes[0].patches[0]
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (11.5, 5.5, 7, 9)
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 0]
    assert render(figure).std() > 0


def test_a_frame_beyond_the_map_does_not_shrink_it():
    figure = receptive_fields("a", [0], bump()[None], [3.0], [2.0], (99, 99))
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((-0.5, 29.5), (19.5, -0.5))


def test_rows_are_filled_and_spare_panels_are_off():
    figure = receptive_fields("a", range(7), np.stack([bump()] * 7), [3.0] * 7, [2.0] * 7, None)
    assert len(figure.axes) == 10
    assert [axes.axison for axes in figure.axes] == [True] * 7 + [False] * 3
    assert "no theoretical size" in figure.get_suptitle()
    assert not figure.axes[0].patches


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.ones((4, 4))])
def test_maps_without_a_shape_are_drawn(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render(receptive_fields("a", [0], values[None].astype(np.float32), [0.0], [np.nan], (99, 99)))
    assert picture.ndim == 3
