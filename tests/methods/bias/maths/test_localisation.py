"""Attribution against regions: by hand on 3x3 maps, against slow references, chance levels, and peers' defects."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.methods.bias.maths.localisation import (
    MEASURES,
    RIGHT_REASONS,
    area,
    attention_iou,
    localisation_scores,
    localisation_sums,
    pointing_game,
    relevance_mass,
    relevance_rank,
    right_reasons_share,
    right_reasons_sums,
    uniform_iou,
)

ALL = (relevance_mass, relevance_rank, pointing_game, attention_iou)


def one(rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def region(rows):
    return torch.tensor(rows, dtype=torch.bool)[None]


LEFT = region([[1, 0, 0], [1, 0, 0], [1, 0, 0]])
MAP = one([[4, 1, 0], [3, 2, 0], [0, 0, 0]])


def random_case(seed, n=6, size=5):
    g = torch.Generator().manual_seed(seed)
    # Few levels, so that ties are common.
    return torch.randint(0, 5, (n, size, size), generator=g).float(), torch.rand(n, size, size, generator=g) < 0.4


def test_by_hand():
    assert relevance_mass(MAP, LEFT).item() == pytest.approx(7 / 10)
    # The three largest are 4, 3, 2; two of them lie in the left column.
    assert relevance_rank(MAP, LEFT).item() == pytest.approx(2 / 3)
    assert relevance_rank(MAP, MAP == 4).item() == 1.0
    assert pointing_game(MAP, LEFT).item() == 1.0
    # a = map / 10, m = 1/3 in the column: sum a m = 0.7 / 3.
    halves = [(0.4 + 1 / 3) / 2, (0.3 + 1 / 3) / 2, (1 / 3) / 2, 0.1 / 2, 0.2 / 2]
    assert attention_iou(MAP, LEFT).item() == pytest.approx((0.7 / 3) / sum(h * h for h in halves))
    assert area(LEFT).item() == pytest.approx(1 / 3)


def test_all_inside_and_all_outside():
    inside, outside = LEFT.float() * 2, (~LEFT).float()
    for measure in ALL:
        assert measure(inside, LEFT).item() == pytest.approx(1.0)
        assert measure(outside, LEFT).item() == 0.0


def slow(attribution, mask):
    """Loops over one image: mass, rank and pointing in expectation over shuffles of equal values, Attention-IoU."""
    a, m = attribution.flatten().tolist(), mask.flatten().tolist()
    total, size = sum(a), sum(m)
    mass = sum(v for v, i in zip(a, m, strict=True) if i) / total

    def expected(k):
        hits, left = 0.0, k
        for level in sorted(set(a), reverse=True):
            tied = [i for v, i in zip(a, m, strict=True) if v == level]
            taken = min(left, len(tied))
            hits += taken * sum(tied) / len(tied)
            left -= taken
        return hits / k

    pairs = [(v / total, i / size) for v, i in zip(a, m, strict=True)]
    iou = sum(v * i for v, i in pairs) / sum(((v + i) / 2) ** 2 for v, i in pairs)
    return [mass, expected(size), expected(1), iou]


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_slow_reference(seed):
    maps, masks = random_case(seed)
    got = torch.stack([measure(maps, masks) for measure in ALL], 1)
    for row, attribution, mask in zip(got, maps, masks, strict=True):
        assert row.tolist() == pytest.approx(slow(attribution, mask))


def test_ties_are_a_fair_draw_in_expectation():
    # Grad-CAM is zero nearly everywhere: one pixel is ranked, the rest of the region's three is drawn.
    lone = one([[0, 0, 9], [0, 0, 0], [0, 0, 0]])
    assert relevance_rank(lone, LEFT).item() == pytest.approx((0 + 2 * 3 / 8) / 3)
    # In whatever order the pixels come.
    assert relevance_rank(lone.flip(1), LEFT).item() == relevance_rank(lone, LEFT).item()


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_uniform_map_gets_exactly_chance(rows):
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :rows] = True
    maps = torch.full((3, 8, 8), 0.3)
    scores = localisation_scores(localisation_sums(maps, masks))
    for name in MEASURES:
        assert scores.measures[name].score.value == pytest.approx(scores.measures[name].chance)
        assert scores.measures[name].enrichment == pytest.approx(1.0)
    assert scores.measures["mass"].chance == pytest.approx(rows / 8)
    assert scores.measures["attention_iou"].chance == pytest.approx(float(uniform_iou(torch.tensor(rows / 8))))


def test_chance_of_random_maps():
    g = torch.Generator().manual_seed(0)
    maps = torch.rand(2000, 8, 8, generator=g)
    masks = torch.zeros(2000, 8, 8, dtype=torch.bool)
    masks[:, 2:4, 1:6] = True
    scores = localisation_scores(localisation_sums(maps, masks)).measures
    for name in ("mass", "rank", "pointing"):
        assert scores[name].score.low - 0.01 < scores[name].chance < scores[name].score.high + 0.01
        assert scores[name].chance == pytest.approx(10 / 64)


def test_enrichment_by_hand():
    # Mean mass (0.7 + 1) / 2 over mean area (1/3 + 1/9) / 2.
    corner = region([[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    sums = localisation_sums(torch.cat([MAP, corner.float()]), torch.cat([LEFT, corner]))
    mass = localisation_scores(sums).measures["mass"]
    assert mass.score.value == pytest.approx(0.85)
    assert mass.chance == pytest.approx(2 / 9)
    assert mass.enrichment == pytest.approx(0.85 * 9 / 2)
    # Standard error of two values: half their difference.
    assert mass.score.high == pytest.approx(0.85 + 1.959964 * 0.15)


def test_skipped_images_are_nan_by_image_and_counted():
    nothing, everything = torch.zeros_like(LEFT), torch.ones_like(LEFT)
    broken = MAP.clone()
    broken[0, 0, 0] = math.nan
    infinite = MAP.clone()
    infinite[0, 1, 1] = math.inf
    maps = torch.cat([MAP, MAP, MAP, torch.zeros_like(MAP), broken, infinite, torch.zeros_like(MAP)])
    masks = torch.cat([LEFT, nothing, everything, LEFT, LEFT, LEFT, nothing])
    for measure in ALL:
        assert measure(maps, masks).isnan().tolist() == [False] + [True] * 6
    sums = localisation_sums(maps, masks)
    assert sums.isfinite().all()
    scores = localisation_scores(sums)
    assert (scores.count, scores.empty, scores.full, scores.silent) == (1, 2, 1, 3)
    assert scores.measures["mass"].score.value == pytest.approx(0.7)
    # Chance, too, is that of the scored images alone.
    assert scores.measures["mass"].chance == pytest.approx(1 / 3)


def test_no_image_with_a_score():
    scores = localisation_scores(localisation_sums(MAP, torch.zeros_like(LEFT)))
    assert (scores.count, scores.empty) == (0, 1)
    for located in scores.measures.values():
        assert math.isnan(located.score.value)
        assert math.isnan(located.chance)
        assert math.isnan(located.enrichment)


# Quantus 0.6.0, by name of its metric.


def test_quantus_pointing_game_an_empty_mask_is_no_hit():
    assert math.isnan(pointing_game(MAP, torch.zeros_like(LEFT)).item())


def test_quantus_pointing_game_a_maximum_outside_is_not_rewarded():
    two = one([[5, 0, 5], [0, 0, 0], [0, 0, 0]])
    assert pointing_game(two, LEFT).item() == 0.5
    assert pointing_game(one([[0, 5, 5], [0, 0, 0], [0, 0, 0]]), LEFT).item() == 0.0


def test_quantus_attribution_localisation_weighting_is_by_the_images_size_not_the_batchs():
    masks = torch.zeros(5, 8, 8, dtype=torch.bool)
    masks[:, :2, :2] = True  # 6.25 %
    maps = torch.full((5, 8, 8), 0.25)
    for n in (1, 2, 5):
        mass = localisation_scores(localisation_sums(maps[:n], masks[:n])).measures["mass"]
        assert mass.score.value == pytest.approx(0.0625)
        assert mass.score.value * mass.chance == pytest.approx(0.0039, abs=1e-4)
        assert mass.enrichment == pytest.approx(1.0)


def test_quantus_relevance_mass_signed_maps_are_refused_and_never_leave_the_unit_interval():
    signed = one([[3, -1, 0], [-2, 2, 0], [0, 0, -4]])
    for measure in ALL:
        with pytest.raises(ValueError, match="positive part of contributions, abs"):
            measure(signed, LEFT)
    assert relevance_mass(signed.clamp(min=0), LEFT).item() == pytest.approx(3 / 5)
    assert relevance_mass(signed.abs(), LEFT).item() == pytest.approx(5 / 12)


@pytest.mark.parametrize(
    ("maps", "masks"),
    [(MAP, LEFT.float()), (MAP[0], LEFT[0]), (MAP, LEFT[:, :2]), (MAP[:, None], LEFT[:, None])],
)
def test_refuses_other_shapes_and_types(maps, masks):
    with pytest.raises(ValueError, match="give \\(B, H, W\\) twice"):
        relevance_mass(maps, masks)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-300, 1e-30, 1e5, 1e305]))
@settings(max_examples=50, deadline=None)
def test_scores_lie_in_the_unit_interval_and_ignore_the_scale(seed, scale):
    maps, masks = random_case(seed)
    for measure in ALL:
        scores, scaled = measure(maps, masks), measure(maps.double() * scale, masks)
        assert ((scores >= 0) & (scores <= 1 + 1e-12) | scores.isnan()).all()
        torch.testing.assert_close(scores, scaled, equal_nan=True)


@given(seed=st.integers(0, 1000), cut=st.lists(st.integers(0, 12), max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_split_over_batches_gives_the_same_sums(seed, cut):
    maps, masks = random_case(seed, n=12)
    maps[3], masks[5], masks[6] = 0, False, True
    gradients = maps[:, None] - 2
    ends = [0, *sorted(cut), 12]
    parts = list(pairwise(ends))
    split = sum(localisation_sums(maps[a:b], masks[a:b]) for a, b in parts)
    whole = localisation_sums(maps, masks)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-9)
    assert torch.equal(split[:4], whole[:4])  # the counts: skipped by reason, then n
    split = sum(right_reasons_sums(gradients[a:b], masks[a:b]) for a, b in parts)
    torch.testing.assert_close(split, right_reasons_sums(gradients, masks), rtol=0, atol=1e-9)


def test_right_reasons_by_hand():
    # Squares over two channels: 1 + 4 inside; 9 outside.
    gradients = torch.zeros(1, 2, 3, 3)
    gradients[0, 0, 0, 0], gradients[0, 1, 2, 0], gradients[0, 1, 1, 2] = -1, 2, -3
    assert right_reasons_share(gradients, LEFT).item() == pytest.approx(9 / 14)
    located = localisation_scores(right_reasons_sums(gradients, LEFT), RIGHT_REASONS).measures["rrr"]
    assert located.score.value == pytest.approx(9 / 14)
    assert located.chance == pytest.approx(2 / 3)
    assert located.enrichment == pytest.approx(27 / 28)


def test_right_reasons_of_small_gradients():
    # 1e-30 squared is 0 in float32.
    gradients = torch.full((1, 1, 3, 3), 1e-30)
    assert right_reasons_share(gradients, LEFT).item() == pytest.approx(2 / 3)


def test_right_reasons_of_a_linear_network():
    # d/dx of sum_k log p_k is (1 - 2 p) w for one logit with weights w: the share is that of w squared.
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 4, 4, generator=g)
    images = torch.randn(3, 1, 4, 4, generator=g).requires_grad_()
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    logit = (images * weight).sum((1, 2, 3))
    log_p = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
    (gradients,) = torch.autograd.grad(log_p.sum(), images)
    expected = weight[0, 2:].square().sum() / weight.square().sum()
    assert right_reasons_share(gradients, masks).tolist() == pytest.approx([float(expected)] * 3)
    sums = right_reasons_sums(torch.zeros(2, 1, 4, 4), masks[:2])
    assert localisation_scores(sums, RIGHT_REASONS).silent == 2
