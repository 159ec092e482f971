"""Tables of landmarks and categories."""

import math

import pytest
import torch

from lightning_interp import DatasetError, RenderedFaces
from lightning_interp.data.landmarks import category_table, landmark_table
from tests.helpers.parts import SpotProbe
from tests.helpers.probes import RandomProbe


def test_landmarks_by_image_and_name():
    probe = SpotProbe(6)
    names, points = landmark_table(probe, [4, 1])
    assert names == ("red", "green")
    assert points.dtype == torch.float64
    assert points[0, 0].tolist() == list(probe.places(4)["red"])
    assert points[1].tolist() == [list(at) for at in probe.places(1).values()]
    assert all(math.isnan(value) for value in points[0, 1].tolist())


def test_wanted_landmarks_in_the_order_asked():
    probe = SpotProbe(6)
    names, points = landmark_table(probe, [1, 2], ["green", "red", "green"])
    assert names == ("green", "red")
    assert points[0, 0].tolist() == list(probe.places(1)["green"])


def test_faces_have_five():
    assert landmark_table(RenderedFaces(2, size=32), [0, 1])[0] == (
        "lefteye", "righteye", "nose", "leftmouth", "rightmouth"
    )  # fmt: skip


def test_landmarks_that_are_not_there():
    with pytest.raises(DatasetError, match=r"no image of RandomProbe has a landmark.*AnimalPart, CUB200Parts"):
        landmark_table(RandomProbe(3), range(3))
    with pytest.raises(DatasetError, match=r"unknown landmark 'gren'; did you mean 'green'"):
        landmark_table(SpotProbe(3), range(3), ["gren"])
    # Images 0, 4 and 8 do not show the green spot: absent everywhere.
    with pytest.raises(DatasetError, match="unknown landmark 'green'; there are red"):
        landmark_table(SpotProbe(9), [0, 4, 8], ["green"])


def test_categories():
    assert category_table(SpotProbe(5, categories=3), range(5)).tolist() == [0, 1, 2, 0, 1]
    assert category_table(SpotProbe(3), range(3)).tolist() == [0, 0, 0]
    faces = RenderedFaces(6, size=32)
    expected = [faces.facts(i)["attributes"]["hat"] for i in range(6)]
    assert category_table(faces, range(6), "hat").tolist() == expected


@pytest.mark.parametrize("value", [-1, 0.5, None, "siamese", "1", math.nan, math.inf])
def test_categories_that_are_none(value):
    probe = SpotProbe(3)
    probe.facts = lambda index: {"attributes": {"kind": value if index == 2 else 1}}
    with pytest.raises(DatasetError, match=rf"image 2 of SpotProbe: attribute 'kind' is {value!r}, not a category"):
        category_table(probe, range(3), "kind")
