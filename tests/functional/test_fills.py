import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.fills import FILLS, dilate, fill, mean_colour, noise, ring


def random_images(count=5, size=(12, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, *size, generator=generator)


def random_masks(count=5, size=(12, 10), seed=1):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed)) < 0.3


def box(top, bottom, left, right, size=(12, 10)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("how", FILLS)
def test_pixels_outside_keep_every_bit_and_an_empty_mask_changes_nothing(how):
    images, masks = random_images(), random_masks()
    masks[2] = False
    before = images.clone()
    filled = fill(images, masks, how)
    outside = ~masks[:, None].expand_as(images)
    assert torch.equal(filled[outside], images[outside])
    assert torch.equal(filled[2], images[2])
    assert (filled != images).any(1)[masks].float().mean() > 0.99
    assert torch.equal(images, before)


@pytest.mark.parametrize("how", ["mean", "skin", "grey"])
def test_nothing_of_the_region_is_left(how):
    masks = random_masks()
    images, others = random_images(seed=0), random_images(seed=9)
    others = torch.where(masks[:, None], others, images)
    assert torch.equal(fill(images, masks, how), fill(others, masks, how))


def test_mean_is_the_mean_of_the_other_pixels():
    image = torch.tensor([[[[0.1, 0.2], [0.6, 0.9]]]])
    mask = torch.tensor([[[False, False], [False, True]]])
    assert torch.allclose(fill(image, mask, "mean")[0, 0, 1, 1], torch.tensor(0.3))


def test_skin_is_the_given_surroundings_without_the_region_else_the_ring():
    image = random_images(1)
    mask = box(4, 7, 3, 6)
    skin = box(5, 9, 3, 5)
    by_skin, by_ring = fill(image, mask, "skin", surround=skin)[0, :, 4, 3], fill(image, mask, "skin")[0, :, 4, 3]
    assert torch.allclose(by_skin, image[0, :, 7:9, 3:5].mean((1, 2)))
    # Sides of 12 x 10: the ring is one pixel wide.
    around = image[0, :, 3:8, 2:7].sum((1, 2)) - image[0, :, 4:7, 3:6].sum((1, 2))
    assert torch.allclose(by_ring, around / 16)
    inside_only = fill(image, mask, "skin", surround=mask)[0, :, 4, 3]
    assert torch.equal(inside_only, by_ring)


@pytest.mark.parametrize(("side", "width"), [(10, 1), (48, 1), (64, 2), (224, 7)])
def test_ring_is_three_percent_wide(side, width):
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[0, side // 2, side // 2] = True
    assert ring(mask).sum() == (2 * width + 1) ** 2 - 1
    assert not (ring(mask) & mask).any()


@pytest.mark.parametrize("how", ["mean", "skin", "grey"])
def test_a_full_mask_is_grey(how):
    filled = fill(random_images(), torch.ones(5, 12, 10, dtype=torch.bool), how)
    assert torch.equal(filled, torch.full_like(filled, 0.5))


def test_blur_of_a_full_mask_is_nearly_the_mean_colour():
    image = random_images(1)
    blurred = fill(image, torch.ones(1, 12, 10, dtype=torch.bool), "blur")
    assert (blurred - image.mean((2, 3), keepdim=True)).abs().max() < 0.05


def blur_slowly(image, sigma):
    """A Gaussian blur by loops over pixels, in one channel."""
    h, w = image.shape
    blurred = torch.zeros(h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            total = weights = 0.0
            for y in range(h):
                for x in range(w):
                    weight = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
                    total, weights = total + weight * float(image[y, x]), weights + weight
            blurred[i, j] = total / weights
    return blurred


def test_blur_equals_a_slow_one_with_the_root_of_the_area_for_sigma():
    image = random_images(1)[:, :1]
    mask = box(3, 5, 2, 6)
    expected = blur_slowly(image[0, 0], math.sqrt(8))
    assert torch.allclose(fill(image, mask, "blur")[0, 0][mask[0]].double(), expected[mask[0]], atol=1e-6)


def test_blur_keeps_fifteen_percent_of_a_square_in_its_centre():
    image, mask = torch.zeros(1, 1, 81, 81), box(36, 45, 36, 45, size=(81, 81))
    image[:, 0][mask] = 1
    assert 0.14 < float(fill(image, mask, "blur")[0, 0, 40, 40]) < 0.16


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from(FILLS))
def test_any_split_over_batches_fills_alike(sizes, how):
    images, masks = random_images(sum(sizes)), random_masks(sum(sizes))
    seeds = list(range(sum(sizes)))
    whole = fill(images, masks, how), noise(images, masks, 0.3, seeds)
    first, parts = 0, []
    for size in sizes:
        at = slice(first, first + size)
        parts.append((fill(images[at], masks[at], how), noise(images[at], masks[at], 0.3, seeds[at])))
        first += size
    assert torch.allclose(torch.cat([part[0] for part in parts]), whole[0], rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([part[1] for part in parts]), whole[1])


def test_noise_is_gaussian_of_that_deviation_inside_the_mask_alone():
    images = torch.full((4, 3, 40, 40), 0.5)
    masks = torch.zeros(4, 40, 40, dtype=torch.bool)
    masks[:3, :, :20] = True
    noisy = noise(images, masks, 0.1, [3, 8, 9, 1])
    assert torch.equal(noisy[3], images[3])
    assert torch.equal(noisy[:, :, :, 20:], images[:, :, :, 20:])
    steps = (noisy - images)[:3, :, :, :20]
    assert abs(float(steps.mean())) < 0.005
    assert abs(float(steps.std()) - 0.1) < 0.005
    assert not torch.equal(noisy[0], noisy[1])


def test_noise_depends_on_the_seed_alone_and_stays_in_range():
    images, masks = random_images(2), torch.ones(2, 12, 10, dtype=torch.bool)
    torch.manual_seed(0)
    there = noise(images, masks, 2.0, [5, 6])
    torch.manual_seed(1)
    back = noise(images.flip(0), masks, 2.0, [6, 5]).flip(0)
    assert torch.equal(there, back)
    assert there.min() == 0
    assert there.max() == 1


def test_noise_takes_no_random_number_from_the_training():
    before = torch.get_rng_state()
    noise(random_images(1), random_masks(1), 1.0, [0])
    assert torch.equal(torch.get_rng_state(), before)


def test_dilate_grows_in_every_direction_and_is_cut_at_the_border():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 1] = True
    assert dilate(mask, 1)[0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    assert torch.equal(dilate(mask, 0), mask)


def test_mean_colour_of_an_empty_region_is_grey():
    images, masks = random_images(2), random_masks(2)
    masks[1] = False
    assert torch.allclose(mean_colour(images, masks)[0, :, 0, 0], images[0][:, masks[0]].mean(1))
    assert mean_colour(images, masks)[1].flatten().tolist() == [0.5] * 3


def test_bad_input_is_named():
    images, masks = random_images(), random_masks()
    with pytest.raises(ValueError, match=r"unknown fill 'gray'; there are mean, skin, grey, blur"):
        fill(images, masks, "gray")
    with pytest.raises(ValueError, match=r"bool of shape \(5, 12, 10\), not torch.float32"):
        fill(images, masks.float(), "grey")
    with pytest.raises(ValueError, match=r"of \(5, 10, 12\)"):
        fill(images, masks.mT, "grey")
    with pytest.raises(ValueError, match=r"of \(4, 12, 10\)"):
        fill(images, masks, "skin", surround=masks[:4])
    with pytest.raises(ValueError, match="2 seeds for 5 images"):
        noise(images, masks, 0.1, [1, 2])
