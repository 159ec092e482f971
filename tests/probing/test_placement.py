"""Where values of maps lie on images."""

import pytest
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.layers import LayerInfo
from lightning_interp.probing.receptive import image_grid

NET = nn.Sequential(nn.Conv2d(3, 4, (4, 2), stride=(4, 2), padding=(2, 0)), nn.ReLU()).eval()
SHAPE, INFO = (3, 16, 24), LayerInfo("1", 4, 5, 12)


def test_centres_of_receptive_fields_along_both_axes():
    grid = image_grid(NET, NET[1], INFO, SHAPE, "receptive_field")
    assert grid.rows.anchors == (-0.5, 3.5, 7.5, 11.5, 15.5)
    assert grid.columns.anchors == tuple(0.5 + 2 * i for i in range(12))
    assert (grid.rows.size, grid.columns.size) == (16, 24)


def test_centres_of_equal_cells():
    grid = image_grid(NET, NET[1], INFO, SHAPE, "cell")
    assert grid.rows.anchors == pytest.approx([1.1, 4.3, 7.5, 10.7, 13.9])
    assert grid.columns.anchors == pytest.approx([0.5 + 2 * i for i in range(12)])


@pytest.mark.parametrize("placement", ["receptive_field", "cell"])
def test_maps_of_one_value_are_refused(placement):
    with pytest.raises(LayerError, match=r"layer 'pool' gives maps of one value.*choose an earlier layer"):
        image_grid(NET, NET[1], LayerInfo("pool", 4, 1, 1), SHAPE, placement)


def test_a_layer_that_sees_the_whole_image_has_cells_only():
    whole = nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(2), nn.Linear(24, 24), nn.Unflatten(2, (4, 6))
    ).eval()
    with pytest.raises(LayerError, match="layer '3'"):
        image_grid(whole, whole[3], LayerInfo("3", 4, 4, 6), SHAPE, "receptive_field")
    assert image_grid(whole, whole[3], LayerInfo("3", 4, 4, 6), SHAPE, "cell").rows.step == 4
