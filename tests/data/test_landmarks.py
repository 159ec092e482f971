"""One accessor for the landmarks of every probe set."""

import math

import pytest
import torch

from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.landmarks import FACE_LANDMARKS, part_landmarks
from lightning_interp.errors import DatasetError
from tests.helpers.probes import RandomProbe


class WithFacts(RandomProbe):
    def __init__(self, facts):
        super().__init__(2)
        self._facts = facts

    def facts(self, index):
        return self._facts


def test_names_are_celebas():
    assert FACE_LANDMARKS == ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")


def test_rendered_faces_have_the_five_points_of_their_facts():
    probe = RenderedFaces(2, size=32)
    found = part_landmarks(probe, 1)
    assert list(found) == list(FACE_LANDMARKS)
    assert [list(point) for point in found.values()] == probe.facts(1)["landmarks"].tolist()
    assert found["lefteye"][0] < found["righteye"][0]
    assert found["nose"][1] < found["leftmouth"][1]


def test_named_parts_win_over_points_and_are_a_copy():
    facts = {"part_landmarks": {"head": (1.0, 2.0)}, "landmarks": torch.zeros(5, 2)}
    found = part_landmarks(WithFacts(facts), 0)
    assert found == {"head": (1.0, 2.0)}
    found.clear()
    assert facts["part_landmarks"]


def test_no_landmarks_are_no_parts_and_points_without_names_are_refused():
    assert part_landmarks(WithFacts({}), 0) == {}
    with pytest.raises(DatasetError, match="image 1 of WithFacts: 4 landmarks without names"):
        part_landmarks(WithFacts({"landmarks": torch.zeros(4, 2)}), 1)


@pytest.mark.parametrize("place", [(math.inf, 3.0), (3.0, -math.inf), (1, 2, 3), ()])
def test_a_landmark_that_is_no_point_is_refused(place):
    with pytest.raises(DatasetError, match=r"image 1 of WithFacts: landmark 'head' is .*, not x and y in pixels"):
        part_landmarks(WithFacts({"part_landmarks": {"nose": (1, 2), "head": place}}), 1)


def test_an_infinite_point_of_a_face_is_refused():
    points = torch.zeros(5, 2)
    points[2, 0] = math.inf
    with pytest.raises(DatasetError, match="image 0 of WithFacts: landmark 'nose' is"):
        part_landmarks(WithFacts({"landmarks": points}), 0)


def test_nan_is_absent():
    found = part_landmarks(WithFacts({"part_landmarks": {"head": (math.nan, math.nan)}}), 0)
    assert all(map(math.isnan, found["head"]))
