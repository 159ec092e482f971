import pytest
import torch

from lightning_interp.data.faces.probe import RenderedFaces
from lightning_interp.data.probe import Concept
from lightning_interp.data.region_bank import CONTROL, SKIN, RegionBank
from lightning_interp.data.regions import PartRegions
from lightning_interp.errors import DatasetError
from tests.helpers.bias import LIDS, MOUTH, SIZE, TinyFaces, find

ROWS = [(face, face % 2, face % 2) for face in range(6)]


def bank(probe=None, indices=None, region="mouth", contexts=("lids",), regions=find):
    probe = TinyFaces(ROWS) if probe is None else probe
    return RegionBank(probe, range(len(probe)) if indices is None else indices, region, list(contexts), regions)


def test_masks_are_those_of_the_function_in_the_order_asked():
    probe = TinyFaces(ROWS, without_mouth=[3])
    kept = bank(probe)
    assert kept.names == ("mouth", "lids", CONTROL)
    masks = kept([3, 0, 5])
    assert torch.equal(masks["mouth"], torch.stack([torch.zeros_like(MOUTH), MOUTH, MOUTH]))
    assert torch.equal(masks["lids"], torch.stack([LIDS] * 3))
    assert {mask.dtype for mask in masks.values()} == {torch.bool}


def test_control_is_as_large_as_the_region_apart_from_all_and_always_the_same():
    masks = bank()(range(6))
    control = masks[CONTROL]
    assert control.flatten(1).sum(1).tolist() == [int(MOUTH.sum())] * 6
    assert not (control & (masks["mouth"] | masks["lids"])).any()
    # Drawn image by image, by number: not by which others there are.
    assert len({tuple(mask.flatten().tolist()) for mask in control}) > 1
    assert torch.equal(bank(indices=[4, 1])([4])[CONTROL], control[4:5])


def test_control_is_empty_where_there_is_no_room_or_no_region():
    large = MOUTH.clone()
    large[: SIZE - 2] = True

    def regions(item):
        return {"mouth": large if item.index == 0 else torch.zeros_like(MOUTH), "lids": LIDS}

    assert not bank(regions=regions)([0, 1])[CONTROL].any()


def test_two_contexts_may_share_a_region_and_one_may_be_absent_from_an_image():
    assert bank(contexts=["lids", "lids"]).names == ("mouth", "lids", CONTROL)


def test_default_regions_bring_skin_along_where_it_is_known():
    faces = RenderedFaces(3, size=32)
    kept = bank(faces, contexts=["eyes"], regions=None)
    assert set(kept.names) == {"mouth", "eyes", SKIN, CONTROL}
    found = PartRegions(faces)(faces[1])
    masks = kept([1])
    assert all(torch.equal(masks[name][0], found[name]) for name in ("mouth", "eyes", SKIN))
    assert SKIN not in bank(regions=None, probe=TinyFaces(ROWS)).names


class Things(TinyFaces):
    """The same pixels under names that no face part has."""

    concepts = (Concept(1, "dog", "object"), Concept(2, "ball", "object"))


class ThingsOfFaces(Things):
    def facts(self, index):
        return super().facts(index) | {"landmarks": [[8, 6], [16, 6], [12, 10], [9, 16], [15, 16]]}


def test_masks_without_a_part_of_a_face_have_no_skin_to_bring_along():
    kept = bank(Things(ROWS), region="dog", contexts=["ball", "background"], regions=None)
    assert kept.names == ("dog", "ball", "background", CONTROL)
    assert bank(ThingsOfFaces(ROWS), contexts=["eyes"], regions=None).names == ("mouth", "eyes", CONTROL)


def test_pixels_of_both_are_the_regions_alone():
    faces = RenderedFaces(3, size=32)
    kept, found = bank(faces, contexts=["person"], regions=None)([1]), PartRegions(faces, ["mouth", "person"])(faces[1])
    assert torch.equal(kept["mouth"][0], found["mouth"])
    assert torch.equal(kept["person"][0], found["person"] & ~found["mouth"])
    assert (found["person"] & found["mouth"]).any()


def test_context_that_lies_in_the_region_is_refused_and_the_users_masks_are_left_alone():
    inner, masks = MOUTH.clone(), {"mouth": MOUTH, "lids": LIDS | MOUTH}
    inner[:16] = False
    with pytest.raises(DatasetError, match=r"'teeth' has no pixel in any of the 6 images .* outside of region 'mouth'"):
        bank(contexts=["teeth"], regions=lambda item: {"mouth": MOUTH, "teeth": inner})
    assert torch.equal(bank(regions=lambda item: masks)([0])["lids"][0], LIDS)
    assert torch.equal(masks["lids"], LIDS | MOUTH)


def test_images_that_show_a_region_are_known():
    shown = bank(TinyFaces(ROWS, without_mouth=[3]), indices=[1, 3, 5]).shown
    assert {name: seen.tolist() for name, seen in shown.items()} == {
        "mouth": [True, False, True],
        "lids": [True] * 3,
        CONTROL: [True, False, True],
    }


def test_region_without_a_pixel_in_any_image_is_refused_in_one_image_not():
    kept = bank(TinyFaces(ROWS, without_mouth=range(1, 6)))
    assert kept(range(6))["mouth"].flatten(1).any(1).tolist() == [True] + [False] * 5
    with pytest.raises(DatasetError, match="region 'mouth' has no pixel in any of the 6 images"):
        bank(TinyFaces(ROWS, without_mouth=range(6)))
    with pytest.raises(DatasetError, match="'mouth' has no pixel in any of the 2 images"):
        bank(TinyFaces(ROWS, without_mouth=range(1, 6)), indices=[2, 4])


def test_unknown_region_is_named():
    with pytest.raises(DatasetError, match="unknown region 'nose'"):
        bank(region="nose")
    with pytest.raises(DatasetError, match="unknown region 'mout'; did you mean 'mouth'"):
        bank(region="mout", regions=None)


def test_region_that_is_its_own_context_is_refused():
    with pytest.raises(DatasetError, match="'mouth' is also a context's"):
        bank(contexts=["lids", "mouth"])


def test_name_of_the_control_is_taken():
    def regions(item):
        return find(item) | {"control": LIDS}

    with pytest.raises(DatasetError, match="'control' is the name of"):
        bank(contexts=["control"], regions=regions)


@pytest.mark.parametrize("mask", [MOUTH[1:], MOUTH.float(), MOUTH.numpy()])
def test_mask_of_another_size_or_type_is_refused(mask):
    with pytest.raises(DatasetError, match=r"region 'mouth' of image 0 must be a bool tensor of shape \(24, 24\)"):
        bank(regions=lambda item: {"mouth": mask, "lids": LIDS})


class Growing(TinyFaces):
    def image(self, index):
        return torch.zeros(3, SIZE + (index == 4), SIZE, dtype=torch.uint8)


def test_images_of_two_sizes_are_refused():
    def regions(item):
        return dict.fromkeys(("mouth", "lids"), torch.ones(item.image.shape[1:], dtype=torch.bool)) | {
            "lids": torch.zeros(item.image.shape[1:], dtype=torch.bool)
        }

    with pytest.raises(DatasetError, match=r"image 4 is \(25, 24\), others are \(24, 24\)"):
        bank(Growing(ROWS), regions=regions)


class Torn(TinyFaces):
    def image(self, index):
        if index in (0, 4):
            raise OSError(f"{index}.jpg is truncated")
        return super().image(index)


def test_images_that_cannot_be_read_are_raised_or_left_out():
    with pytest.raises(OSError, match="0"):
        bank(Torn(ROWS))
    kept = RegionBank(Torn(ROWS, without_mouth=[3]), range(6), "mouth", ["lids"], find, "skip")
    assert kept.indices == [1, 2, 3, 5]
    assert kept.skipped == [(0, "OSError: 0.jpg is truncated"), (4, "OSError: 4.jpg is truncated")]
    assert kept.shown["mouth"].tolist() == [True, True, False, True]
    # What is wrong with the regions is no bad image.
    with pytest.raises(DatasetError, match="of image 1 must be a bool tensor"):
        RegionBank(Torn(ROWS), range(6), "mouth", ["lids"], lambda item: {"mouth": MOUTH.float(), "lids": LIDS}, "skip")
