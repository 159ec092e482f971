import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.data.faces.concepts import NUMBER
from lightning_interp.data.faces.make_up import eyelids
from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.probe import Concept, Labels, ProbeSet
from lightning_interp.data.readers.face_parts import FacesWithParts
from lightning_interp.data.regions import (
    CheckedRegions,
    LandmarkRegions,
    PartRegions,
    default_regions,
    equal_area,
)
from lightning_interp.errors import DatasetError
from lightning_interp.functional.fills import dilate

FACES = Path(__file__).parents[2].parent / "shared" / "data" / "faces"


class OneProbe(ProbeSet):
    """One black image with what is given."""

    def __init__(self, concepts=(), labels=None, facts=None, size=(12, 12), mask_size=None):
        self.concepts, self.mask_size, self.size = tuple(concepts), mask_size or size, size
        self._labels, self._facts = labels or Labels(), facts or {}

    def __len__(self):
        return 1

    def image(self, index):
        return torch.zeros(3, *self.size)

    def labels(self, index):
        return self._labels

    def facts(self, index):
        return self._facts


@pytest.fixture(scope="module")
def faces():
    return RenderedFaces(60, size=64, seed=3)


def number_mask(probe, index, *names):
    planes = [plane.reshape(-1, 64, 64).long() for plane in probe.labels(index).planes.values()]
    return torch.isin(torch.cat(planes), torch.tensor([NUMBER[name] for name in names])).any(0)


def landmarks(left=(20.0, 30.0), right=(40.0, 30.0), nose=(30.0, 40.0), corners=((22.0, 50.0), (38.0, 50.0))):
    return torch.tensor([left, right, nose, *corners])


def landmark_item(points, size=(80, 80)):
    return OneProbe(facts={"landmarks": points}, size=size)[0]


def test_rendered_faces_have_every_default_region_but_of_what_they_lack(faces):
    find = PartRegions(faces)
    assert find.names == (
        *("mouth", "eyes", "brows", "nose", "ears", "glasses", "hair", "hat", "clothes"),
        *("skin", "background"),
    )
    for index in range(20):
        found = find(faces[index])
        assert tuple(found) == find.names
        for mask in found.values():
            assert mask.shape == (64, 64)
            assert mask.dtype == torch.bool


def test_groups_are_the_union_of_their_concepts_grown_by_a_pixel(faces):
    find, exact = PartRegions(faces), PartRegions(faces, dilate=0)
    for index in range(10):
        for name, own in (("mouth", ("mouth",)), ("eyes", ("eye", "eyelid")), ("hair", ("hair",)), ("hat", ("hat",))):
            expected = number_mask(faces, index, *own)
            assert torch.equal(exact(faces[index])[name], expected)
            assert torch.equal(find(faces[index])[name], dilate(expected[None], 1)[0])


def test_background_and_skin_lose_what_the_others_gain(faces):
    find = PartRegions(faces)
    parts = ("eye", "eyelid", "eyebrow", "nose", "mouth", "ear", "glasses", "hair", "hat", "shirt")
    for index in range(10):
        found = find(faces[index])
        grown = dilate(torch.stack([number_mask(faces, index, *names) for names in (("person",), parts)]), 1)
        assert torch.equal(found["background"], ~grown[0])
        assert torch.equal(found["skin"], number_mask(faces, index, "skin") & ~grown[1])
        assert found["skin"].sum() > 100


@pytest.mark.parametrize(("attribute", "region"), [("lipstick", "mouth"), ("makeup", "eyes"), ("blond", "hair")])
def test_regions_hold_every_pixel_that_their_attribute_changes(faces, attribute, region):
    find = PartRegions(faces)
    off, on = (faces.counterfactuals(range(60), {attribute: value}) for value in (0, 1))
    changed = (off != on).any(1)
    masks = torch.stack([find(faces[i])[region] for i in range(60)])
    assert changed.sum() > 1000
    assert not (changed & ~masks).any()


def test_a_region_that_an_image_does_not_show_is_empty(faces):
    find = PartRegions(faces, ["glasses"])
    worn = [faces.facts(i)["attributes"]["glasses"] for i in range(60)]
    assert {0, 1} == set(worn)
    assert [int(find(faces[i])["glasses"].any()) for i in range(60)] == worn


def test_regions_by_name_may_be_concepts_and_own_groups_replace_the_defaults(faces):
    assert PartRegions(faces, ["background", "iris"]).names == ("background", "iris")
    own = PartRegions(faces, {"face paint": ("lip", "eyelid")}, dilate=0)
    assert own.names == ("face paint",)
    assert torch.equal(own(faces[0])["face paint"], number_mask(faces, 0, "lip", "eyelid"))


def test_masks_of_another_size_are_scaled_by_nearest_before_they_grow():
    plane = torch.tensor([[0, 5], [0, 0]])
    probe = OneProbe([Concept(5, "hat", "object")], Labels({"object": plane}), size=(6, 8), mask_size=(2, 2))
    exact, grown = (PartRegions(probe, dilate=by)(probe[0])["hat"] for by in (0, 1))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:3, 4:] = True
    assert torch.equal(exact, expected)
    expected[:4, 3:] = True
    assert torch.equal(grown, expected)


def test_left_and_right_are_one_region_and_lids_are_added_where_they_have_no_concept():
    plane = torch.zeros(30, 40, dtype=torch.uint8)
    plane[4:28, 5:35] = 1
    plane[14:17, 8:14], plane[14:17, 26:32] = 4, 5
    names = {1: "skin", 4: "l_eye", 5: "r_eye", 17: "neck"}
    concepts = [Concept(number, name, "part") for number, name in names.items()]
    probe = OneProbe(concepts, Labels({"part": plane}), size=(30, 40))
    eyes, skin = (plane == 4) | (plane == 5), plane == 1
    found = PartRegions(probe, dilate=0)(probe[0])
    assert torch.equal(found["eyes"], eyes | eyelids(eyes[None], skin[None])[0])
    assert found["eyes"].sum() > 2 * eyes.sum()
    # The vocabulary has no person: the background is what no part covers.
    assert torch.equal(found["background"], plane == 0)


def test_one_name_in_two_categories_counts_in_both():
    plane = torch.tensor([[1, 2], [0, 0]])
    probe = OneProbe(
        [Concept(1, "hair", "object"), Concept(2, "hair", "material")], Labels({"object": plane}), size=(2, 2)
    )
    assert PartRegions(probe, dilate=0)(probe[0])["hair"].tolist() == [[True, True], [False, False]]


def test_an_image_without_planes_has_empty_parts_and_is_all_background():
    probe = OneProbe([Concept(1, "hair", "object")])
    found = PartRegions(probe)(probe[0])
    assert not found["hair"].any()
    assert found["background"].all()


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        (torch.ones(6, 4, dtype=torch.int64), r"plane 'part' has shape \(6, 4\), expected \(h, w\) = \(4, 6\)"),
        (torch.ones(2, 3, dtype=torch.int64), r"plane 'part' has shape \(2, 3\), expected \(h, w\) = \(4, 6\)"),
        (torch.ones(4, 6), "plane 'part' has dtype torch.float32; label numbers are integers"),
        (torch.full((4, 6), 2), "number 2 in 'part' belongs to no concept"),
    ],
)
def test_planes_that_do_not_fit_the_probe_set_are_refused(plane, message):
    good = torch.ones(4, 6, dtype=torch.uint8)
    probe = OneProbe([Concept(1, "hair", "part")], Labels({"object": good, "part": plane}), size=(4, 6))
    with pytest.raises(DatasetError, match=f"image 0 of OneProbe: label .*{message}"):
        PartRegions(probe)(probe[0])


def test_unknown_names_are_refused_with_the_likely_one(faces):
    with pytest.raises(DatasetError, match="unknown region 'mout'; did you mean 'mouth'"):
        PartRegions(faces, ["mout"])
    with pytest.raises(DatasetError, match="unknown concept 'eyelids'; did you mean 'eyelid'"):
        PartRegions(faces, {"eyes": ("eye", "eyelids")})
    with pytest.raises(DatasetError, match="unknown region 'zzz'; there are mouth, eyes"):
        default_regions(faces, ["zzz"])


def test_landmark_boxes_by_hand():
    found = LandmarkRegions()(landmark_item(landmarks()))
    # d = 20 and w = 16: the mouth's box is 30 +- 9.6 by 45.2...56.4; the eyes' x +- 7 by 24...34.
    mouth, eyes = torch.zeros(80, 80, dtype=torch.bool), torch.zeros(80, 80, dtype=torch.bool)
    mouth[46:57, 21:40] = True
    eyes[24:35, 13:28] = True
    eyes[24:35, 33:48] = True
    assert torch.equal(found["mouth"], mouth)
    assert torch.equal(found["eyes"], eyes)


def test_face_and_background_by_hand():
    found = LandmarkRegions()(landmark_item(landmarks()))
    # Half-axes 20.4 and 26.4 about (30, 40); those of the background's hole 27.2 and 35.2.
    face, hole = found["face"], ~found["background"]
    assert face[40].nonzero()[:, 0].tolist() == list(range(10, 51))
    assert face[:, 30].nonzero()[:, 0].tolist() == list(range(14, 67))
    assert hole[40].nonzero()[:, 0].tolist() == list(range(3, 58))
    assert hole[:, 30].nonzero()[:, 0].tolist() == list(range(5, 76))


def test_a_profile_face_keeps_a_floor_of_the_mouths_width():
    found = LandmarkRegions()(landmark_item(landmarks(corners=((29.0, 50.0), (31.0, 50.0)))))
    # w = 0.7 * 20 = 14, not 2.
    assert found["mouth"][50].nonzero()[:, 0].tolist() == list(range(22, 39))


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.6, 0.6))
def test_regions_turn_with_the_head(angle):
    size, centre = (81, 81), torch.tensor([40.0, 40.0])
    points = landmarks() + torch.tensor([10.0, 0.0])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    upright = LandmarkRegions()(landmark_item(points, size))
    turned = LandmarkRegions()(landmark_item((points - centre) @ turn + centre, size))
    y, x = torch.meshgrid(torch.arange(81.0), torch.arange(81.0), indexing="ij")
    back = (torch.stack([x, y], -1) - centre) @ turn.T + centre
    column, row = back.round().long().clamp(0, 80).unbind(-1)
    for name in ("mouth", "eyes", "face"):
        expected = upright[name][row, column]
        assert (turned[name] ^ expected).sum() < 0.2 * expected.sum() + 4


def test_mirrored_landmarks_give_mirrored_regions():
    points = landmarks(left=(18.0, 28.0), right=(41.0, 33.0), corners=((20.0, 52.0), (37.0, 55.0)))
    mirrored = torch.stack([79 - points[:, 0], points[:, 1]], dim=1)[[1, 0, 2, 4, 3]]
    here, there = (LandmarkRegions()(landmark_item(p)) for p in (points, mirrored))
    for name in LandmarkRegions.names:
        assert torch.equal(here[name].flip(-1), there[name])


@pytest.mark.parametrize(
    "facts",
    [{}, {"landmarks": torch.zeros(5, 2)}, {"landmarks": torch.full((5, 2), torch.nan)}],
    ids=["none", "coincide", "nan"],
)
def test_without_usable_landmarks_every_region_is_empty(facts):
    found = LandmarkRegions()(OneProbe(facts=facts)[0])
    assert tuple(found) == LandmarkRegions.names
    assert not any(mask.any() for mask in found.values())


def test_landmarks_of_another_shape_are_refused():
    with pytest.raises(DatasetError, match=r"image 0: landmarks of shape \(4, 2\)"):
        LandmarkRegions()(landmark_item(torch.zeros(4, 2)))


def test_landmark_boxes_cover_the_rendered_parts(faces):
    boxes, parts = LandmarkRegions(), PartRegions(faces, {"mouth": ("mouth",), "eyes": ("eye",)}, dilate=0)
    shares = []
    for i in range(40):
        item = faces[i]
        found, true = boxes(item), parts(item)
        shares.append([(found[n] & true[n]).sum() / true[n].sum() for n in ("mouth", "eyes")])
    assert (torch.tensor(shares).mean(0) > 0.95).all()


def test_default_is_parts_then_landmarks_then_an_error_with_the_fix(faces):
    assert isinstance(default_regions(faces), PartRegions)
    assert default_regions(faces, ["mouth", "lip"]).names == ("mouth", "lip")
    attributes = [Concept(1, "Smiling", "attribute")]
    celeba = OneProbe(attributes, facts={"landmarks": landmarks()})
    assert isinstance(default_regions(celeba, ["mouth"]), LandmarkRegions)
    with pytest.raises(DatasetError, match="unknown region 'mouht'; did you mean 'mouth'"):
        default_regions(celeba, ["mouht"])
    birds = OneProbe([Concept(1, "bird", "object")])
    assert default_regions(birds, ["bird", "background"]).names == ("bird", "background")
    for probe, names in ((OneProbe(attributes), ["mouth"]), (birds, None)):
        with pytest.raises(DatasetError, match=r"OneProbe does not say where regions lie; give regions="):
            default_regions(probe, names)


def test_a_users_function_is_checked():
    item, mask = OneProbe()[0], torch.ones(12, 12, dtype=torch.bool)

    def found(**masks):
        return CheckedRegions(lambda _: masks, ["mouth"])(item)

    assert found(mouth=mask, extra=None) == {"mouth": mask}
    with pytest.raises(DatasetError, match="unknown region 'mouth'; did you mean 'mouths'"):
        found(mouths=mask)
    with pytest.raises(
        DatasetError, match=r"'mouth' of image 0 must be a bool tensor of shape \(12, 12\), not torch.u"
    ):
        found(mouth=mask.byte())
    with pytest.raises(DatasetError, match=r"not torch.bool of \(6, 12\)"):
        found(mouth=mask[:6])
    with pytest.raises(DatasetError, match="not ndarray"):
        found(mouth=np.ones((12, 12), dtype=bool))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 10**6))
def test_equal_area_is_equal_apart_and_there_whenever_there_is_room(area, blocked, index):
    kinds = torch.zeros(100)
    kinds[:area], kinds[area : area + blocked] = 1, 2
    kinds = kinds[torch.randperm(100, generator=torch.Generator().manual_seed(index))].view(10, 10)
    mask, forbidden = kinds == 1, kinds == 2
    found = equal_area(mask, forbidden, index)
    room = 100 - int((mask | forbidden).sum())
    assert (found is None) == (not 0 < int(mask.sum()) <= room)
    if found is not None:
        assert found.sum() == mask.sum()
        assert not (found & (mask | forbidden)).any()
        assert torch.equal(found, equal_area(mask, forbidden, index))


def test_equal_area_is_compact_and_moves_with_index_and_seed():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[30:38, 28:44] = True
    found = [equal_area(mask, mask, index) for index in range(30)]
    for region in found:
        places = region.nonzero().double()
        # Of a disc of 128 pixels half of the squared radius, 20; in a corner or at the mask's side twice as much.
        assert ((places - places.mean(0)) ** 2).sum(1).mean() < 50
    assert len({tuple(region.flatten().tolist()) for region in found}) == 30
    assert not torch.equal(equal_area(mask, mask, 0, seed=1), found[0])


@pytest.mark.skipif(not FACES.is_dir(), reason="the shared faces are not here")
def test_landmark_boxes_on_real_faces():
    probe = FacesWithParts(FACES, size=(88, 88))
    boxes, parts = LandmarkRegions(), PartRegions(probe, ["mouth", "eye"], dilate=0)
    shares = []
    for i in range(0, len(probe), 8):
        item = probe[i]
        found, true = boxes(item), parts(item)
        shares.append([(found[a] & true[b]).sum() / true[b].sum() for a, b in (("mouth", "mouth"), ("eyes", "eye"))])
    assert (torch.tensor(shares).mean(0) > torch.tensor([0.97, 0.99])).all()
