import numpy as np
import pytest
import torch

from lightning_interp.drawing.pictures import lit, to_picture, upsample_map


def test_upsampling_a_ramp_by_hand():
    maps = np.array([[0, 4]], dtype=np.float32)
    held = upsample_map(maps, ((0.0,), (1.0, 5.0)), "hold", (1, 8))
    assert held.tolist() == [[0, 0, 1, 2, 3, 4, 4, 4]]
    faded = upsample_map(maps.T, ((1.0, 5.0), (0.0,)), "zero", (8, 1))
    assert faded.tolist() == [[0], [0], [1], [2], [3], [4], [3], [2]]


def test_cell_centres_agree_with_torch():
    maps = np.random.default_rng(0).random((3, 2, 4)).astype(np.float32)
    anchors = (tuple(3.5 + 8 * i for i in range(2)), tuple(2.5 + 6 * i for i in range(4)))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None].double(), (16, 24), mode="bilinear")
    np.testing.assert_allclose(upsample_map(maps, anchors, "hold", (16, 24)), wanted[0].numpy(), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pictures_have_three_channels(channels):
    picture = to_picture(torch.full((channels, 2, 3), 7, dtype=torch.uint8))
    assert picture.shape == (2, 3, 3)
    assert (picture == 7).all()


def test_floats_in_range_keep_their_scale_and_others_are_stretched():
    assert to_picture(torch.tensor([0.0, 0.2, 1.0])[None, None])[0, :, 0].tolist() == [0, 51, 255]
    assert to_picture(torch.tensor([-2.0, 0.0, 2.0])[None, None])[0, :, 0].tolist() == [0, 128, 255]
    assert to_picture(torch.tensor([float("nan"), 0.5])[None, None])[0, :, 0].tolist() == [0, 128]


def test_only_the_outside_of_the_mask_is_darkened():
    picture = np.full((20, 20, 3), 200, dtype=np.uint8)
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, :5] = True
    shown = np.asarray(lit(picture, mask, (40, 40)))
    assert (shown[:, :19] == 200).all()
    assert (shown[:, 22:] == 76).all()
    assert (shown[:, 20] == (255, 226, 64)).all()


@pytest.mark.parametrize(("value", "level"), [(True, 200), (False, 76)])
def test_a_full_or_empty_mask_has_no_outline(value, level):
    shown = np.asarray(lit(np.full((4, 4, 3), 200, dtype=np.uint8), np.full((2, 2), value), (8, 8)))
    assert (shown == level).all()
