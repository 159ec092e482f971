import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.data.faces.concepts import NUMBER
from lightning_interp.data.faces.records import draw_faces
from lightning_interp.data.faces.render import render
from lightning_interp.functional.swaps import draw_donors, paste, swap_background


@pytest.fixture(scope="module")
def faces():
    rendering = render(draw_faces(24, 5, {}), size=48)
    images = rendering.images.float() / 255
    masks = {
        name: (rendering.planes[category] == NUMBER[name]).any(1)
        for category, name in (("part", "mouth"), ("part", "eye"), ("object", "hair"), ("object", "person"))
    }
    return images, masks


def bar(centre, length, height, angle, size=61):
    """A rotated bar's mask and an image of it: red to green along it, blue around."""
    y, x = torch.meshgrid(torch.arange(size).double(), torch.arange(size).double(), indexing="ij")
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    mask = (along.abs() <= length / 2) & (across.abs() <= height / 2)
    ramp = (along / length + 0.5).clamp(0, 1)
    image = torch.stack([1 - ramp, ramp, torch.zeros_like(ramp)])
    image = torch.where(mask, image, torch.tensor([0.0, 0, 1]).double()[:, None, None])
    return image.float()[None], mask[None]


@pytest.mark.parametrize("part", ["mouth", "eye", "hair", "person"])
def test_an_image_pasted_on_itself_keeps_every_bit(faces, part):
    images, masks = faces
    assert masks[part].any()
    assert torch.equal(paste(images, masks[part], images, masks[part]), images)
    assert torch.equal(swap_background(images, masks[part], images, masks[part]), images)


@pytest.mark.parametrize("part", ["mouth", "eye", "hair"])
def test_pixels_outside_the_region_keep_every_bit(faces, part):
    images, masks = faces
    turned = images.roll(1, 0), masks[part].roll(1, 0)
    pasted = paste(images, masks[part], *turned)
    outside = ~masks[part][:, None].expand_as(images)
    assert torch.equal(pasted[outside], images[outside])
    both = masks[part].any((1, 2)) & turned[1].any((1, 2))
    changed = (pasted != images).any(1)
    assert changed[masks[part] & both[:, None, None]].float().mean() > 0.95


def test_nothing_of_the_own_part_and_of_the_rest_of_the_donor_is_taken(faces):
    images, masks = faces
    mouths, others = masks["mouth"], images.flip(-1)
    donors, donor_mouths = images.roll(3, 0), mouths.roll(3, 0)
    pasted = paste(images, mouths, donors, donor_mouths)
    other_mouth = torch.where(mouths[:, None], others, images)
    other_rest = torch.where(donor_mouths[:, None], donors, others)
    assert torch.equal(paste(other_mouth, mouths, donors, donor_mouths), pasted)
    assert torch.equal(paste(images, mouths, other_rest, donor_mouths), pasted)


@pytest.mark.parametrize("degrees", [-25, 0, 25])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.5])
def test_the_part_is_moved_scaled_and_turned_to_fit(degrees, scale):
    donor, donor_mask = bar((24, 33), 24, 8, 0.05)
    target, mask = bar((33, 27), 24 * scale, 8 * scale, 0.05 + math.radians(degrees))
    # The image shows its bar the other way round, so that its own colours would be wrong everywhere but the middle.
    image = torch.where(mask[:, None], target.flip(1).roll(1, 1), target)
    pasted = paste(image, mask, donor, donor_mask)
    inside = mask[0]
    # Within the ramp of 1 over the bar's length; two pixels of rim are jagged.
    assert (pasted - target)[0][:, inside].abs().mean() < 0.05
    assert (image - target)[0][:, inside].abs().mean() > 0.3


def test_a_larger_turn_is_taken_for_another_shape():
    donor, donor_mask = bar((30, 30), 25, 9, 0)
    _, mask = bar((30, 30), 25, 9, math.pi / 2)
    image = torch.zeros(1, 3, 61, 61)
    pasted = paste(image, mask, donor, donor_mask)
    # Unturned, the donor's bar covers the middle alone; its mean colour stands above and below.
    assert torch.allclose(pasted[0, :, 20, 30], torch.tensor([0.5, 0.5, 0]), atol=0.02)
    assert torch.allclose(pasted[0, :, 30, 27], donor[0, :, 30, 27], atol=0.02)


def test_a_part_that_is_not_long_is_not_turned():
    donor, donor_mask = bar((30, 30), 17, 13, 0)
    _, mask = bar((30, 30), 17, 13, 0.35)
    pasted = paste(torch.zeros(1, 3, 61, 61), mask, donor, donor_mask)
    middle = (0, slice(None), slice(26, 35), slice(27, 34))
    # Turned, rows 26 and 34 would be off by 4 sin(0.35) / 17 = 0.08.
    assert (pasted[middle] - donor[middle]).abs().max() < 0.03


def test_a_part_absent_in_either_changes_nothing(faces):
    images, masks = faces
    none = torch.zeros_like(masks["mouth"])
    donors = images.roll(1, 0)
    assert torch.equal(paste(images, none, donors, masks["mouth"].roll(1, 0)), images)
    assert torch.equal(paste(images, masks["mouth"], donors, none), images)


def test_a_part_of_one_pixel_and_a_full_one_work():
    images = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    dot, full = torch.zeros(1, 5, 7, dtype=torch.bool), torch.ones(1, 5, 7, dtype=torch.bool)
    dot[0, 2, 3] = True
    pasted = paste(torch.zeros_like(images), full, images, dot)
    assert torch.allclose(pasted, images[:, :, 2:3, 3:4].expand_as(images), atol=1e-6)
    assert torch.equal(paste(images, full, images, full), images)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 23))
def test_pasting_does_not_depend_on_the_batch(faces, cut):
    images, masks = faces
    mouths, donors = masks["mouth"], images.roll(2, 0)
    donor_mouths = mouths.roll(2, 0)
    whole = paste(images, mouths, donors, donor_mouths)
    parts = [paste(images[at], mouths[at], donors[at], donor_mouths[at]) for at in (slice(0, cut), slice(cut, None))]
    assert torch.allclose(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_background_is_the_donors_with_its_object_painted_over():
    images, donors = torch.full((1, 1, 2, 3), 0.9), torch.tensor([[[[0.1, 0.2, 0.3], [0.8, 0.7, 0.6]]]])
    object_ = torch.tensor([[[True, False, False], [False, False, False]]])
    donor_object = torch.tensor([[[False, False, False], [True, True, True]]])
    swapped = swap_background(images, object_, donors, donor_object)
    expected = torch.tensor([[[[0.9, 0.2, 0.3], [0.2, 0.2, 0.2]]]])
    assert torch.allclose(swapped, expected)


def test_swaps_check_their_masks():
    images, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    for swap in (paste, swap_background):
        with pytest.raises(ValueError, match="masks must be bool"):
            swap(images, mask.int(), images, mask)
        with pytest.raises(ValueError, match="masks must be bool"):
            swap(images, mask, images, mask[:, :2])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-2, 3), max_size=40), st.integers(0, 5))
def test_donors_have_the_label_they_should_and_are_others(labels, seed):
    same, other = (column.tolist() for column in draw_donors(torch.tensor(labels, dtype=torch.int64), seed))
    for i, label in enumerate(labels):
        twins = [j for j, own in enumerate(labels) if own == label and j != i and label >= 0]
        others = [j for j, own in enumerate(labels) if own != label and own >= 0 and label >= 0]
        assert same[i] in twins or (same[i] == -1 and not twins)
        assert other[i] in others or (other[i] == -1 and not others)


def test_donors_are_fixed_by_the_seed_and_differ_between_seeds():
    labels = torch.arange(200) % 3
    torch.manual_seed(0)
    first = draw_donors(labels, 4)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, draw_donors(labels, 4), strict=True))
    assert not torch.equal(first[0], draw_donors(labels, 5)[0])


def test_every_possible_donor_is_equally_likely():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    same, other = (torch.stack(column) for column in zip(*(draw_donors(labels, s) for s in range(900)), strict=True))
    # Means 300 with a deviation of 14.
    assert all(abs(int((same[:, 0] == j).sum()) - 300) < 70 for j in (1, 2, 3))
    assert all(abs(int((other[:, 0] == j).sum()) - 300) < 70 for j in (4, 5, 6))
