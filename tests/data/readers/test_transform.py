"""Photo, masks and landmarks move together: literals, slow references, and marks that stay on their pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from lightning_interp.data.readers.files import nearest
from lightning_interp.data.readers.transform import JointTransform
from lightning_interp.errors import DatasetError

POINTS = torch.tensor([[2.0, 1.0], [6.0, 1.0], [4.0, 3.0], [3.0, 5.0], [5.0, 5.0]])
SIDES = st.integers(1, 13)


def marked(points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """One mask a point, ``(5, h, w)``, true on the point's pixel alone."""
    masks = torch.zeros(len(points), *size, dtype=torch.bool)
    for mask, (x, y) in zip(masks, points.round().long().tolist(), strict=True):
        mask[y, x] = True
    return masks


def centroids(masks: torch.Tensor) -> torch.Tensor:
    """``(n, 2)`` mean x and y of the true pixels of ``(n, h, w)`` masks."""
    return torch.stack([mask.nonzero().double().mean(0).flip(0) for mask in masks]).float()


def test_nothing_to_do_changes_nothing() -> None:
    image = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8)
    masks = torch.randint(0, 5, (2, 7, 9), dtype=torch.int32)
    moved = JointTransform((7, 9))(image, masks, POINTS)
    assert all(torch.equal(a, b) for a, b in zip(moved, (image, masks, POINTS), strict=True))
    assert [part.dtype for part in moved if part is not None] == [torch.uint8, torch.int32, torch.float32]


def test_what_is_absent_stays_absent() -> None:
    assert JointTransform((2, 2))(torch.zeros(3, 4, 4))[1:] == (None, None)


def test_flip_trades_left_for_right() -> None:
    moved = JointTransform((7, 9), flip=True).landmarks(POINTS, (7, 9))
    # x -> 8 - x: the eye at 6 is now at 2 and the left one.
    assert moved.tolist() == [[2.0, 1.0], [6.0, 1.0], [4.0, 3.0], [3.0, 5.0], [5.0, 5.0]]
    moved = JointTransform((7, 9), flip=True).landmarks(POINTS + torch.tensor([1.0, 0.0]), (7, 9))
    assert moved.tolist() == [[1.0, 1.0], [5.0, 1.0], [3.0, 3.0], [2.0, 5.0], [4.0, 5.0]]
    assert (moved[1, 0] > moved[0, 0]) & (moved[4, 0] > moved[3, 0])


def test_flip_of_photo_and_masks_is_the_mirror() -> None:
    image, masks = torch.rand(3, 5, 6), torch.rand(2, 5, 6) > 0.5
    flip = JointTransform((5, 6), flip=True)
    assert torch.equal(flip.image(image), image.flip(-1))
    assert torch.equal(flip.masks(masks, (5, 6)), masks.flip(-1))


def test_scaling_is_about_the_centres_of_pixels() -> None:
    # Each old pixel becomes 2 x 2; the centre of old pixel 0 lies between new pixels 0 and 1.
    double = JointTransform((14, 18))
    assert double.landmarks(POINTS, (7, 9))[0].tolist() == [4.5, 2.5]
    assert torch.equal(centroids(double.masks(marked(POINTS, (7, 9)), (7, 9))), double.landmarks(POINTS, (7, 9)))


def test_photos_are_antialiased() -> None:
    # Fine stripes become grey; sampled at points, they would be black or white.
    stripes = (torch.arange(24) % 4 == 0).float().expand(3, 24, 24)
    assert JointTransform((3, 3)).image(stripes) == pytest.approx(torch.full((3, 3, 3), 0.25), abs=0.05)


def test_crop_of_celeba() -> None:
    crop = JointTransform((178, 178), crop=(178, 178))
    image = torch.arange(218, dtype=torch.float32)[None, :, None].expand(3, 218, 178)
    assert crop.box((218, 178)) == (20, 0, 178, 178)
    assert torch.equal(crop.image(image)[0, :, 0], torch.arange(20.0, 198.0))
    assert torch.equal(crop.masks(image, (218, 178))[0, :, 0], torch.arange(20.0, 198.0))
    points = torch.tensor([[69.0, 109.0], [106.0, 113.0], [77.0, 10.0], [73.0, 152.0], [108.0, 217.0]])
    # The last row and the nose are cut off: they lie outside, where they belong.
    assert crop.landmarks(points, (218, 178)).tolist() == [[69, 89], [106, 93], [77, -10], [73, 132], [108, 197]]


@given(st.tuples(st.integers(4, 15), st.integers(4, 15)), st.tuples(st.integers(1, 4), st.integers(1, 4)))
@settings(deadline=None, database=None)
def test_crop_is_that_of_torchvision(stored: tuple[int, int], crop: tuple[int, int]) -> None:
    image = torch.arange(stored[0] * stored[1]).view(1, *stored)
    assert torch.equal(JointTransform(crop, crop=crop).image(image), v2.functional.center_crop(image, list(crop)))


def test_a_share_of_each_side() -> None:
    assert JointTransform((8, 8), crop=0.5).box((20, 10)) == (5, 2, 10, 5)
    assert JointTransform((8, 8), crop=1.0).box((20, 10)) == (0, 0, 20, 10)
    assert JointTransform((8, 8), crop=0.01).box((20, 10))[2:] == (1, 1)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans(), st.data())
@settings(max_examples=200, deadline=None, database=None)
def test_masks_against_a_loop(
    stored: tuple[int, int], mask: tuple[int, int], size: tuple[int, int], flip: bool, data: st.DataObject
) -> None:
    crop = data.draw(st.none() | st.tuples(st.integers(1, stored[0]), st.integers(1, stored[1])))
    values = torch.arange(mask[0] * mask[1]).view(mask)
    transform = JointTransform(size, crop=crop, flip=flip)
    top, left, height, width = transform.box(stored)
    expected = torch.empty(size, dtype=torch.int64)
    for i in range(size[0]):
        for j in range(size[1]):
            x = size[1] - 1 - j if flip else j
            row = (top + (2 * i + 1) * height / (2 * size[0])) / stored[0] * mask[0]
            column = (left + (2 * x + 1) * width / (2 * size[1])) / stored[1] * mask[1]
            # The loop's own rounding at exact borders between two pixels.
            expected[i, j] = values[int(row + 1e-9), int(column + 1e-9)]
    assert torch.equal(transform.masks(values, stored), expected)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
@settings(max_examples=50, deadline=None, database=None)
def test_uncropped_masks_are_scaled_as_by_the_other_readers(mask: tuple[int, int], size: tuple[int, int]) -> None:
    values = np.arange(mask[0] * mask[1], dtype=np.int32).reshape(mask)
    moved = JointTransform((3, 3)).masks(torch.from_numpy(values), (7, 11), size)
    assert moved.tolist() == nearest(values, size).tolist()


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
@settings(deadline=None, database=None)
def test_landmarks_stay_on_their_pixels(down: int, up: int, cropped: bool, flip: bool) -> None:
    stored = (12 * down, 16 * down)
    points = torch.tensor([[4.0, 3], [11, 3], [7, 6], [5, 8], [10, 8]]) * down
    transform = JointTransform((8 * up, 12 * up), crop=(8 * down, 12 * down) if cropped else None, flip=flip)
    masks = transform.masks(marked(points, stored), stored)
    moved = transform.landmarks(points, stored)
    order = [1, 0, 2, 4, 3] if flip else [0, 1, 2, 3, 4]
    for mask, (x, y) in zip(masks[order], moved.tolist(), strict=True):
        for row, column in mask.nonzero().tolist():
            # The old pixel is `scale` new pixels wide, and the landmark is its centre.
            scale = (transform.size[0] / transform.box(stored)[2], transform.size[1] / transform.box(stored)[3])
            assert abs(row - y) <= scale[0] / 2 + 1e-4
            assert abs(column - x) <= scale[1] / 2 + 1e-4


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (7, 20)])
def test_photo_and_landmarks_agree(size: tuple[int, int]) -> None:
    # A smooth blob: its centre of mass follows the landmark through the interpolation.
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    points = torch.tensor([[5.0, 7.0]]).expand(5, 2)
    blob = torch.exp(-((x - 5) ** 2 + (y - 7) ** 2) / 8)
    for flip in (False, True):
        transform = JointTransform(size, flip=flip)
        moved = transform.image(blob.expand(3, 16, 16))[0]
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in size)
        centre = ((moved.sum(0) * columns).sum() / moved.sum(), (moved.sum(1) * rows).sum() / moved.sum())
        expected = transform.landmarks(points, (16, 16))[0]
        assert torch.tensor(centre) == pytest.approx(expected, abs=0.12)


@given(SIDES, SIDES)
@settings(deadline=None, database=None)
def test_scaling_and_mirroring_commute(width: int, new: int) -> None:
    # torchvision's KeyPoints do not: they scale about a corner and mirror about the centres.
    one, other = (7, width), (5, new)
    scaled_first = JointTransform(other, flip=True).landmarks(POINTS, one)
    mirrored_first = JointTransform(other).landmarks(JointTransform(one, flip=True).landmarks(POINTS, one), one)
    assert scaled_first == pytest.approx(mirrored_first, abs=1e-5)


@pytest.mark.parametrize("crop", [0, 0.0, -0.5, 1.5, 178, float("nan"), (0, 4), (4,), (4, 4, 4)])
def test_bad_crops(crop: object) -> None:
    with pytest.raises(DatasetError, match="crop="):
        JointTransform((4, 4), crop=crop)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, -1)])
def test_bad_sizes(size: object) -> None:
    with pytest.raises(DatasetError, match="size="):
        JointTransform(size)  # type: ignore[arg-type]


def test_a_crop_larger_than_the_photo() -> None:
    with pytest.raises(DatasetError, match=r"crop=\(5, 2\) is larger than a photo of \(4, 8\)"):
        JointTransform((4, 4), crop=(5, 2)).image(torch.zeros(3, 4, 8))


def test_landmarks_of_another_shape() -> None:
    with pytest.raises(DatasetError, match=r"must be \(5, 2\)"):
        JointTransform((4, 4)).landmarks(torch.zeros(68, 2), (4, 4))
