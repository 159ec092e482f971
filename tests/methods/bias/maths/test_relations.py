"""Attribute relationships: cosines and Gaussians by hand, a hand-made network, planted pairs and their absence."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from lightning_interp.functional.moments import moments
from lightning_interp.methods.bias.maths.relations import (
    Reference,
    average_precision,
    blind_spots,
    context_share,
    contributions,
    dilate,
    failure_modes,
    gaussian_kl,
    heat_map,
    inference_patterns,
    label_entropy,
    pair_cosines,
    pair_tables,
    phi,
    phi_excess,
    relations,
    table_divergence,
)


def sums_of(means, sigma=0.1, n=100):
    """Moments of cosines whose means are given by index pair; every other pair has mean 0."""
    size = 1 + max(max(pair) for pair in means)
    sums = torch.zeros(size, size, 3, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            mu = means.get((i, j), means.get((j, i), 0.0))
            sums[i, j] = torch.tensor([n, n * mu, n * mu**2 + (n - 1) * sigma**2], dtype=torch.float64)
    return sums


def test_contributions_sum_to_the_logit_of_a_bias_free_head():
    g = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 3, 5, 5, generator=g).requires_grad_()
    hidden, head = torch.randn(3, 6, generator=g), torch.randn(6, 2, generator=g)
    logits = (torch.einsum("bchw,cd->bdhw", maps, hidden).relu().mean((2, 3))) @ head
    gradients = torch.stack([torch.autograd.grad(logits[:, k].sum(), maps, retain_graph=True)[0] for k in (0, 1)], 1)
    found = contributions(gradients, maps)
    torch.testing.assert_close(found.sum((2, 3, 4)), logits)
    assert heat_map(found).shape == (4, 2, 5, 5)
    torch.testing.assert_close(heat_map(found)[1, 0, 2, 3], sum(found[1, 0, c, 2, 3] for c in range(3)))


def test_inference_patterns_by_hand():
    # 18 in all, signs apart; 8 + 5 + 3 = 16 is below 16.2, so the unit of 2 is needed, too.
    contribution = torch.tensor([-8.0, 0, 3, 2, 0, 0, 5, 0]).view(1, 1, 2, 2, 2)
    assert inference_patterns(contribution).flatten().tolist() == [True, False, True, True, False, False, True, False]
    assert inference_patterns(contribution, 16 / 18).sum() == 3
    # Exactly the share is enough; of equal units the first is taken; the whole does not need the zeros.
    assert inference_patterns(torch.tensor([0.0, 9, 1]).view(1, 1, 3, 1, 1)).flatten().tolist() == [False, True, False]
    assert inference_patterns(torch.ones(1, 1, 4, 1, 1), 0.5).flatten().tolist() == [True, True, False, False]
    assert inference_patterns(contribution, 1.0).sum() == 4


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_no_inference_patterns_without_contributions(value):
    assert not inference_patterns(torch.full((1, 2, 2, 2, 2), value)).any()


@given(values=st.lists(st.integers(-20, 20), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_inference_patterns_are_the_smallest_set(values):
    contribution = torch.tensor(values).double().view(1, 1, -1, 1, 1)
    chosen = inference_patterns(contribution).flatten()
    size = contribution.abs().flatten()
    assert size[chosen].sum() >= 0.9 * size.sum()
    # The largest of any one fewer units do not reach it.
    fewer = size.sort(descending=True).values[: max(int(chosen.sum()) - 1, 0)]
    assert not size.any() or fewer.sum() < 0.9 * size.sum()


def test_context_share_by_hand():
    heat = torch.zeros(1, 1, 5, 5)
    heat[0, 0, 2, 2], heat[0, 0, 2, 3], heat[0, 0, 0, 0], heat[0, 0, 4, 4] = 3, -2, -4, 1
    masks = torch.zeros(1, 5, 5, dtype=torch.bool)
    masks[0, 2, 2] = True
    assert context_share(heat, masks).item() == pytest.approx(7 / 10)
    assert context_share(heat, dilate(masks, 1)).item() == pytest.approx(5 / 10)
    assert math.isnan(context_share(heat, dilate(masks, 2)).item())  # the region is then the whole image


def test_context_share_scales_the_heat_to_the_mask():
    # Left half hot, on a 2x2 map; bilinear at 4x4 gives columns 1, 0.75, 0.25, 0.
    heat = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None]
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, :, 0] = True
    assert context_share(heat, masks).item() == pytest.approx(0.5)
    assert context_share(heat, dilate(masks, 1)).item() == pytest.approx(1 / 8)


def test_context_share_of_what_cannot_be_judged():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[1], masks[2, 0, 0] = True, True
    heat = torch.ones(3, 2, 4, 4)
    heat[2, 1] = 0
    assert context_share(heat, masks).isnan().tolist() == [[True, True], [True, True], [False, True]]
    assert moments(context_share(heat, masks))[:, 0].tolist() == [1, 0]


def test_cosines_of_disjoint_shared_and_opposed_units():
    # The hand-made network of two detectors: attributes 0 and 1 use different units, 2 the same as 0, 3 against it.
    maps = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.5, 0.0], [-1.0, 0.0]])
    gradients = weights[None, :, :, None, None].expand(3, 4, 2, 4, 4)
    cosines = pair_cosines(contributions(gradients, maps))
    expected = torch.tensor([[1.0, 0, 1, -1], [0, 1, 0, 0], [1, 0, 1, -1], [-1, 0, -1, 1]]).double()
    torch.testing.assert_close(cosines, expected.expand(3, 4, 4))
    # The weights of the head say the same here.
    torch.testing.assert_close(pair_cosines(weights[None])[0], expected)


def test_cosines_by_hand_and_without_signal():
    vectors = torch.tensor([[[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [math.nan, 1.0]]])
    cosines = pair_cosines(vectors)[0]
    assert cosines[0, 1].item() == pytest.approx(24 / 25)
    assert cosines[2:].isnan().all()
    assert cosines[:2, 2:].isnan().all()
    assert moments(cosines[None])[..., 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_cosines_ignore_the_scale(scale):
    vectors = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pair_cosines(vectors * scale), pair_cosines(vectors))


@given(cut=st.lists(st.integers(1, 8), max_size=4, unique=True), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_any_split_over_batches_gives_the_same_sums(cut, seed):
    g = torch.Generator().manual_seed(seed)
    vectors = torch.randn(9, 3, 4, generator=g)
    vectors[2, 1] = 0
    labels, predictions = torch.randint(-1, 2, (9, 3), generator=g), torch.randint(0, 2, (9, 3), generator=g)
    parts = list(pairwise([0, *sorted(cut), 9]))
    split = sum(moments(pair_cosines(vectors[a:b])) for a, b in parts)
    torch.testing.assert_close(split, moments(pair_cosines(vectors)), rtol=0, atol=1e-12)
    assert torch.equal(split[..., 0], moments(pair_cosines(vectors))[..., 0])
    tables = sum(pair_tables(labels[a:b], predictions[a:b]) for a, b in parts)
    assert torch.equal(tables, pair_tables(labels, predictions))


@pytest.mark.parametrize("means", [(0.0, 0.5), (0.4, -0.3), (0.2, 0.2)])
@pytest.mark.parametrize("sigmas", [(0.2, 0.1), (0.1, 0.3), (0.2, 0.2)])
def test_kl_equals_the_reference_implementation(means, sigmas):
    m, sigma = torch.tensor(means, dtype=torch.float64), torch.tensor(sigmas, dtype=torch.float64)
    theirs = kl_divergence(Normal(m[0], sigma[0]), Normal(m[1], sigma[1]))
    assert gaussian_kl((means[0], sigmas[0]), (means[1], sigmas[1])) == pytest.approx(float(theirs), abs=1e-12)


def test_kl_of_the_rendered_faces():
    # Measured of networks trained with rho = 0.8, 0.95 and 1: KL from N(0, 0.2^2) at a deviation of 0.05.
    for mean, kl in ((0.829, 143.5), (0.927, 178.2), (0.950, 186.5)):
        assert gaussian_kl((0.0, 0.2), (mean, 0.05)) == pytest.approx(kl, abs=0.5)


def test_kl_floors_the_deviation():
    assert gaussian_kl((0.0, 0.2), (0.5, 0.0)) == gaussian_kl((0.0, 0.2), (0.5, 0.01))
    assert gaussian_kl((0.5, 0.0), (0.5, 0.0)) == 0.0


def test_reference():
    assert Reference(0.25, 0.5, 0.1).gaussian(-1) == (-0.25, 0.1)
    # Values 0.1, 0.3 of one pair and 0.5, 0.7 of another: mean 0.4, variance 0.2 / 3.
    values = torch.tensor([[0.1, 0.5], [0.3, 0.7]]).double()
    reference = Reference.of_unrelated(moments(values))
    assert (reference.zero, reference.strength) == (pytest.approx(0.4), 0.5)
    assert reference.sigma == pytest.approx(math.sqrt(0.2 / 3))
    with pytest.raises(ValueError, match="fewer than two"):
        Reference.of_unrelated(torch.tensor([[1.0, 0.3, 0.09]]))


NAMES = ("lipstick", "makeup", "smile", "hat")


def test_planted_pairs_lead_their_lists():
    # Planted: lipstick-makeup is encoded and should not be; smile-hat should be and is not, nor is lipstick-hat, which
    # has the wrong sign; makeup-smile is encoded as it should be; lipstick-smile is rightly nothing.
    expected = {
        ("lipstick", "makeup"): 0,
        ("lipstick", "smile"): 0,
        ("hat", "smile"): 1,
        ("makeup", "smile"): 1,
        ("lipstick", "hat"): -1,
    }
    sums = sums_of({(0, 1): 0.8, (1, 2): 0.55, (0, 3): 0.35, (2, 3): 0.1})
    reference = Reference(sigma=0.1)
    ranked = relations(NAMES, expected, sums, reference)
    assert [r.pair for r in ranked[:3]] == [("lipstick", "hat"), ("lipstick", "makeup"), ("hat", "smile")]
    assert [r.pair for r in failure_modes(ranked, reference)] == [("lipstick", "makeup")]
    assert [r.pair for r in blind_spots(ranked, reference)] == [("lipstick", "hat"), ("hat", "smile")]
    first = failure_modes(ranked, reference)[0]
    assert (first.sign, first.count) == (0, 100)
    assert (first.mean, first.sigma) == (pytest.approx(0.8), pytest.approx(0.1))
    assert first.conflict == pytest.approx(0.8**2 / (2 * 0.01))


def test_nothing_planted_gives_empty_lists():
    sums = sums_of({(0, 1): 0.02, (2, 3): 0.6}, sigma=0.05)
    reference = Reference()
    ranked = relations(NAMES, {("lipstick", "makeup"): 0, ("lipstick", "hat"): 0, ("smile", "hat"): 1}, sums, reference)
    # Their deviation alone puts them in conflict, which is no failure mode.
    assert all(r.conflict > 0.5 for r in ranked)
    assert failure_modes(ranked, reference) == blind_spots(ranked, reference) == []


def test_the_zero_level_of_an_untrained_network_is_no_failure_mode():
    expected = {("lipstick", "makeup"): 0}
    sums = sums_of({(0, 1): 0.3})
    for zero, modes in ((0.0, 1), (0.28, 0)):
        reference = Reference(zero=zero)
        assert len(failure_modes(relations(NAMES[:2], expected, sums, reference), reference)) == modes


def test_relations_without_a_gaussian_are_left_out():
    sums = sums_of({(0, 1): 0.3, (1, 2): 0.3, (2, 3): 0.1})
    sums[0, 1] = torch.tensor([1.0, 0.3, 0.09])
    sums[1, 2] = 0
    ranked = relations(NAMES, dict.fromkeys(pairwise(NAMES), 0), sums, Reference())
    assert [r.pair for r in ranked] == [("smile", "hat")]


@pytest.mark.parametrize("bad", [{("lipstick", "mascara"): 0}, {("hat", "hat"): 1}, {("hat", "smile"): 2}])
def test_bad_expectations(bad):
    with pytest.raises(ValueError, match="give two of lipstick, makeup, smile, hat and one of"):
        relations(NAMES, bad, sums_of({(2, 3): 0.0}), Reference())


# Attributes a, b over eight images: labels unrelated, predictions nearly equal.
LABELS = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 1], [1, 1]])
PREDICTED = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [1, 0]])


def test_tables_by_hand():
    tables = pair_tables(LABELS, PREDICTED)
    assert tables[:, 0, 1].tolist() == [[[2, 2], [2, 2]], [[4, 0], [1, 3]]]
    assert tables[1, 1, 0].tolist() == [[4, 1], [0, 3]]
    assert tables[0, 0, 0].tolist() == [[4, 0], [0, 4]]
    assert tables.dtype == torch.int64


def test_unknown_labels_and_predictions_do_not_count():
    labels, predicted = LABELS.clone(), PREDICTED.clone()
    labels[0, 0] = -1
    predicted[7, 1] = -1
    tables = pair_tables(labels, predicted)
    assert tables[:, 0, 1].tolist() == [[[1, 2], [2, 1]], [[3, 0], [0, 3]]]
    # Attribute 1 alone loses only the image whose prediction of it is unknown.
    assert tables[0, 1, 1].tolist() == [[4, 0], [0, 3]]
    with pytest.raises(ValueError, match="binary"):
        pair_tables(labels + 1, predicted)
    with pytest.raises(ValueError, match="twice"):
        pair_tables(labels, predicted[:, :1])


def test_phi_by_hand():
    # (3 * 4 - 1 * 0) / sqrt(4 * 4 * 5 * 3), and the correlation of the columns.
    tables = pair_tables(LABELS, PREDICTED)
    expected = 12 / math.sqrt(240)
    assert phi(tables)[1, 0, 1].item() == pytest.approx(expected)
    assert phi(tables)[1, 0, 1].item() == pytest.approx(float(torch.corrcoef(PREDICTED.T.double())[0, 1]))
    assert phi_excess(tables)[0, 1].item() == pytest.approx(expected)
    assert phi_excess(tables)[0, 0].item() == 0.0
    constant = pair_tables(LABELS, torch.ones_like(LABELS))
    assert phi_excess(constant).isnan().all()


def test_label_entropy_and_divergence_by_hand():
    tables = pair_tables(LABELS, PREDICTED)
    assert label_entropy(tables)[0, 1].item() == pytest.approx(math.log(4))
    assert label_entropy(tables)[0, 0].item() == pytest.approx(math.log(2))
    # Half a count more in every cell: 2.5 / 10 against 4.5, 0.5, 1.5 and 3.5 tenths.
    expected = sum(0.25 * math.log(2.5 / count) for count in (4.5, 0.5, 1.5, 3.5))
    assert table_divergence(tables)[0, 1].item() == pytest.approx(expected)
    assert table_divergence(pair_tables(LABELS, LABELS)).abs().max() == 0
    empty = pair_tables(-torch.ones_like(LABELS), PREDICTED)
    assert label_entropy(empty).isnan().all()
    assert table_divergence(empty).isnan().all()


def test_average_precision_and_hits_by_hand():
    ranked = ["a", "x", "b", "y", "c"]
    assert average_precision(ranked, {"a", "b", "c"}) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(ranked, {"a", "missing"}) == pytest.approx(0.5)
    assert average_precision(ranked, {"missing"}) == 0.0
    assert average_precision(ranked[2:], {"b"}) == 1.0
    assert math.isnan(average_precision(ranked, set()))
