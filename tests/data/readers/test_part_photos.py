"""Cutting out objects: photo, boxes of parts and landmarks stay together."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_interp.data.probe import Concept
from lightning_interp.data.readers.files import Files
from lightning_interp.data.readers.part_photos import PartObject, PartPhotos
from lightning_interp.errors import DatasetError


@pytest.fixture
def root(tmp_path):
    """One photo of 8 x 12 (h, w), black but for a white pixel at x = 7, y = 3."""
    photo = Image.new("RGB", (12, 8))
    photo.putpixel((7, 3), (255, 255, 255))
    photo.save(tmp_path / "a.png")
    return tmp_path


def opened(root, *objects, size=(8, 8), mask_size=(8, 8)):
    files = Files.below(root)
    return PartPhotos(files, objects, ["cat", "dog"], ["head"], size=size, mask_size=mask_size, normalize=None)


def test_landmarks_and_part_boxes_lie_on_the_pixels_of_the_photo(root):
    """A crop of 4 x 4 doubled: pixel (7, 3) becomes the four pixels 6...7, 2...3."""
    box = PartObject("a.png", 1, (4, 2, 8, 6), {"head": (7.0, 3.0)}, [(1, (7.0, 3.0, 8.0, 4.0))])
    item = opened(root, box)[0]
    plane = item.labels.planes["part"][0]
    assert plane.nonzero().tolist() == [[2, 6], [2, 7], [3, 6], [3, 7]]
    assert plane.unique().tolist() == [0, 1]
    brightest = (item.image[0] == item.image[0].max()).nonzero()
    assert brightest.tolist() == [[2, 7], [3, 7]]  # bilinear: the border pixels keep the value
    assert item.facts["part_landmarks"] == {"head": (6.5, 2.5)}
    assert item.facts["attributes"] == {"category": 1}
    assert item.labels.image == {"object": (3,)}


def test_proportions_are_not_kept(root):
    item = opened(root, PartObject("a.png", 0, None, {"head": (7.0, 3.0)}), size=(4, 24), mask_size=(2, 2))[0]
    assert item.image.shape == (3, 4, 24)
    # 12 columns become 24 and 8 rows 4: (7.5 * 2 - 0.5, 3.5 / 2 - 0.5).
    assert item.facts["part_landmarks"] == {"head": (14.5, 1.25)}
    assert item.labels.planes == {}
    assert item.labels.image == {"object": (2,)}


def test_parts_outside_the_picture_are_absent(root):
    places = {"in": (4.0, 2.0), "left": (3.0, 2.0), "below": (4.0, 6.0), "edge": (7.5, 5.5)}
    probe = opened(root, PartObject("a.png", 0, (4, 2, 8, 6), places))
    assert sorted(probe.facts(0)["part_landmarks"]) == ["edge", "in"]
    assert probe.landmark_names == ("below", "edge", "in", "left")


def test_boxes_are_cut_at_the_photo_and_need_a_pixel_of_it(root):
    item = opened(root, PartObject("a.png", 0, (-3, -1, 99, 99), {"head": (7.0, 3.0)}), size=(8, 12))[0]
    assert item.facts["part_landmarks"] == {"head": (7.0, 3.0)}
    assert item.image[0].nonzero().tolist() == [[3, 7]]
    with pytest.raises(DatasetError, match=r"a\.png: the box .* has no pixel"):
        opened(root, PartObject("a.png", 0, (12, 0, 14, 4), {}))


def test_objects_of_one_photo_are_items_of_their_own_and_tell_sets_apart(root):
    one, two = PartObject("a.png", 0, (4, 2, 8, 6), {}), PartObject("a.png", 1, (0, 0, 4, 4), {})
    probe = opened(root, one, two)
    assert probe.image(0).max() > 100
    assert probe.image(1).max() == 0
    assert probe.concepts == (Concept(1, "head", "part"), Concept(2, "cat", "object"), Concept(3, "dog", "object"))
    assert opened(root, one, two).fingerprint() == probe.fingerprint()
    moved = PartObject("a.png", 1, (0, 0, 4, 5), {})
    assert opened(root, one, moved).fingerprint() != probe.fingerprint()


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_pixel_under_a_landmark_is_the_same_before_and_after(root, data):
    """Whole factors: the landmark of a pixel is the mean of the pixels that its box covers."""
    left, top = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 3))
    height, width = data.draw(st.integers(4 - top, 8 - top)), data.draw(st.integers(8 - left, 12 - left))
    factors = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    size = height * factors[0], width * factors[1]
    seen = PartObject(
        "a.png", 0, (left, top, left + width, top + height), {"p": (7.0, 3.0)}, [(1, (7.0, 3.0, 8.0, 4.0))]
    )
    item = opened(root, seen, size=size, mask_size=size)[0]
    pixels = item.labels.planes["part"][0].nonzero().double()
    assert len(pixels) == factors[0] * factors[1]
    assert item.facts["part_landmarks"]["p"] == pytest.approx(pixels.mean(0).flip(0).tolist())
    assert torch.is_tensor(item.image)
