"""Group checks against literals, loops, the published algorithm, and all outcomes of small samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification.group_fairness import binary_groups_stat_rates

from lightning_interp.methods.bias.maths.groups import (
    association,
    balanced_accuracy,
    bias_amplification,
    conditional_reliance,
    confident_errors,
    confident_table,
    contingency_table,
    equalised_odds_gap,
    group_accuracy,
    group_moments,
    predicted_classes,
    score_gap,
    what_is_learnt,
)

NAN, INF = math.nan, math.inf
ROWS = st.lists(
    st.tuples(
        st.integers(-1, 1),
        st.integers(-1, 2),
        st.one_of(st.floats(-30, 30, width=32), st.sampled_from([NAN, INF, -INF])),
    ),
    max_size=40,
)


def columns(rows):
    y, c, s = zip(*rows, strict=True) if rows else ((), (), ())
    return torch.tensor(y).long(), torch.tensor(c).long(), torch.tensor(s).float()


def table_of(accuracy, number=100):
    """``(Y, C, Y)`` counts of a binary label with these accuracies by label and context."""
    counts = torch.zeros(2, len(accuracy[0]), 2, dtype=torch.int64)
    for y, row in enumerate(accuracy):
        for c, value in enumerate(row):
            counts[y, c, y] = round(value * number)
            counts[y, c, 1 - y] = number - round(value * number)
    return counts


@given(rows=ROWS, cut=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_any_split_gives_the_same_sums_as_a_loop(rows, cut):
    y, c, s = columns(rows)
    predicted = predicted_classes(s)
    counts, sums = np.zeros((2, 3, 2), dtype=int), np.zeros((2, 3, 3))
    for label, context, score in rows:
        if label >= 0 and context >= 0 and math.isfinite(score):
            counts[label, context, int(score > 0)] += 1
            sums[label, context] += [1, score, score**2]
    parts = [slice(0, cut), slice(cut, None)]
    split = sum(contingency_table([y[p], c[p], predicted[p]], (2, 3, 2)) for p in parts)
    assert np.array_equal(split, counts)
    assert split.dtype == torch.int64
    assert np.allclose(sum(group_moments(s[p], y[p], c[p], (2, 3)) for p in parts), sums, rtol=0, atol=1e-9)
    assert np.allclose(group_moments(s, y, c, (2, 3)), sums, rtol=0, atol=1e-9)


def test_predicted_classes():
    assert predicted_classes(torch.tensor([0.1, 0.0, -2.0, NAN, INF, -INF])).tolist() == [1, 0, 0, -1, -1, -1]
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, NAN, 0.0], [5.0, 5.0, 1.0], [-INF, 0.0, 1.0]])
    assert predicted_classes(logits).tolist() == [1, -1, 0, -1]


def test_a_class_number_out_of_range_is_refused_and_does_not_count_elsewhere():
    with pytest.raises(ValueError, match="class number 2 where there are 2 classes"):
        contingency_table([torch.tensor([0, 0]), torch.tensor([0, 2])], (2, 2))
    with pytest.raises(ValueError, match="class number 5"):
        group_moments(torch.zeros(1), torch.tensor([0]), torch.tensor([5]), (2, 2))


def test_a_batch_without_the_first_groups():
    """torchmetrics up to 1.9.0 counts this batch, all of group 2, under group 0 (Lightning-AI/torchmetrics#3489)."""
    label, predicted, group = torch.tensor([1, 0, 0, 1]), torch.tensor([1, 0, 1, 0]), torch.full((4,), 2)
    expected = torch.zeros(2, 3, 2, dtype=torch.int64)
    for y, g, p in zip(label, group, predicted, strict=True):
        expected[y, g, p] += 1
    got = contingency_table([label, group, predicted], (2, 3, 2))
    assert torch.equal(got, expected)
    assert got[:, :2].sum() == 0
    assert got[:, 2].tolist() == [[1, 1], [1, 1]]
    accuracy = group_accuracy(got)
    assert accuracy.worst_group == (0, 2)
    assert accuracy.by_group.isnan().tolist() == [[True, True, False]] * 2


def test_torchmetrics_agrees_where_every_group_occurs():
    generator = torch.Generator().manual_seed(0)
    y, g = (torch.randint(k, (200,), generator=generator) for k in (2, 3))
    score = torch.randn(200, generator=generator)
    counts = contingency_table([y, g, predicted_classes(score)], (2, 3, 2)).double()
    for name, theirs in binary_groups_stat_rates(score.sigmoid(), y, g, num_groups=3).items():
        (tn, fp), (fn, tp) = (counts[:, int(name.removeprefix("group_"))] / (g == int(name[-1])).sum()).tolist()
        assert theirs.tolist() == pytest.approx([tp, fp, tn, fn], abs=1e-6)


def test_group_accuracy_by_hand():
    # Three of four right; one of two; no image; one of one.
    counts = torch.tensor([[[3, 1], [1, 1]], [[0, 0], [0, 1]]])
    got = group_accuracy(counts, training=torch.tensor([[60, 20], [0, 20]]))
    assert got.by_group.nan_to_num(-1).tolist() == [[0.75, 0.5], [-1.0, 1.0]]
    assert (got.worst, got.worst_group) == (0.5, (0, 1))
    assert got.average == pytest.approx(5 / 7)
    assert got.gap == pytest.approx(5 / 7 - 0.5)
    assert got.adjusted == pytest.approx(0.6 * 0.75 + 0.2 * 0.5 + 0.2 * 1)


def test_averages_that_the_data_cannot_give():
    counts = torch.tensor([[[3, 1], [1, 1]], [[0, 0], [0, 1]]])
    assert math.isnan(group_accuracy(counts).adjusted)
    # A group that training had is missing here.
    assert math.isnan(group_accuracy(counts, torch.ones(2, 2)).adjusted)
    nothing = group_accuracy(torch.zeros(2, 2, 2, dtype=torch.int64), torch.ones(2, 2))
    assert nothing.worst_group is None
    assert all(map(math.isnan, (nothing.worst, nothing.average, nothing.adjusted, nothing.gap)))


def test_group_accuracy_of_three_classes():
    generator = torch.Generator().manual_seed(3)
    y, p = (torch.randint(3, (400,), generator=generator) for _ in range(2))
    c = torch.randint(2, (400,), generator=generator)
    got = group_accuracy(contingency_table([y, c, p], (3, 2, 3)))
    expected = torch.stack(
        [torch.stack([(p == y)[(y == i) & (c == j)].double().mean() for j in (0, 1)]) for i in range(3)]
    )
    torch.testing.assert_close(got.by_group, expected)
    assert got.worst == pytest.approx(expected.min().item())
    assert expected[got.worst_group] == expected.min()


def test_equalised_odds_gap():
    assert equalised_odds_gap(table_of([[0.9, 0.6], [0.5, 1.0]])) == pytest.approx(0.5)
    assert equalised_odds_gap(table_of([[0.9, 0.6, 0.1], [0.5, 1.0, 0.7]])) == pytest.approx(0.8)
    assert equalised_odds_gap(table_of([[0.8, 0.8], [0.3, 0.3]])) == 0
    lone = table_of([[0.9, 0.6], [0.5, 1.0]])
    lone[1, 0] = 0
    assert equalised_odds_gap(lone) == pytest.approx(0.3)
    lone[0, 1] = 0
    assert math.isnan(equalised_odds_gap(lone))


def population(rho, w_region, w_context, number=400):
    """Label, context and noiseless score of images whose label and context go together with correlation rho."""
    equal = round(number * (1 + rho) / 4)
    y = torch.tensor([0, 1]).repeat_interleave(number // 2)
    c = torch.cat([torch.arange(number // 2) >= equal, torch.arange(number // 2) < equal]).long()
    return y, c, w_region * (2 * y - 1.0) + w_context * (2 * c - 1.0)


@pytest.mark.parametrize(("w_region", "w_context"), [(1.0, 0.0), (3.0, 1.0), (1.0, 3.0), (0.0, 1.0), (1.0, -1.0)])
def test_conditional_means_of_an_additive_score(w_region, w_context):
    """Right where label and context are independent; mixed, as documented, where they go together."""
    y, c, s = population(0.0, w_region, w_context)
    sums = group_moments(s, y, c, (2, 2))
    truth = abs(w_context) / (abs(w_region) + abs(w_context))
    assert conditional_reliance(sums).value == pytest.approx(truth)
    assert score_gap(sums) == pytest.approx(2 * w_context / s.double().std().item())
    y, c, s = population(0.9, w_region, w_context)
    region, context = w_region + 0.9 * w_context, w_context + 0.9 * w_region
    biased = conditional_reliance(group_moments(s, y, c, (2, 2))).value
    assert biased == pytest.approx(abs(context) / (abs(region) + abs(context)))
    assert association(contingency_table([y, c], (2, 2))) == pytest.approx(0.9)


def test_interval_of_the_conditional_reliance_covers_the_truth():
    """1,000 unbalanced experiments; the truth is that of the differences of means for these numbers of images."""
    y, c, s = population(0.5, 1.0, 0.5)
    truth = conditional_reliance(group_moments(s, y, c, (2, 2))).value
    generator = torch.Generator().manual_seed(0)
    spread = 1.0 + y + 2 * c
    noisy = s + spread * torch.randn(1000, len(s), generator=generator)
    estimates = [conditional_reliance(group_moments(scores, y, c, (2, 2))) for scores in noisy]
    assert abs(np.mean([e.low <= truth <= e.high for e in estimates]) - 0.95) < 0.025


def test_conditional_scores_that_the_data_cannot_give():
    y, c, s = population(0.0, 1.0, 1.0)
    one_context = group_moments(s, y, torch.zeros_like(c), (2, 2))
    assert math.isnan(conditional_reliance(one_context).value)
    assert math.isnan(score_gap(one_context))
    # A group without images does not spoil the others.
    y, c, s = population(1.0, 1.0, 1.0)
    assert conditional_reliance(group_moments(s, y, c, (2, 2))).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="context must be binary, got 3"):
        score_gap(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="label and context must be binary, got 3 x 2"):
        conditional_reliance(torch.zeros(3, 2, 3))


def test_association():
    assert association(torch.tensor([[30, 20], [20, 30]])) == pytest.approx(0.2)
    assert association(torch.tensor([[0, 7], [7, 0]])) == -1
    rows = torch.tensor([[3, 1], [4, 8]])
    y, c = (numbers.repeat_interleave(rows.flatten()) for numbers in (torch.tensor([0, 0, 1, 1]), torch.arange(4) % 2))
    assert association(rows) == pytest.approx(np.corrcoef(y, c)[0, 1])
    assert association(torch.diag(torch.tensor([5, 9, 2]))) == pytest.approx(1)
    assert association(torch.tensor([[1, 2, 3], [2, 4, 6]])) == pytest.approx(0, abs=1e-7)
    # A class that never occurs changes nothing.
    assert association(torch.tensor([[30, 20, 0], [20, 30, 0]])) == pytest.approx(0.2)
    assert math.isnan(association(torch.tensor([[3, 4], [0, 0]])))
    assert math.isnan(association(torch.zeros(2, 2, dtype=torch.int64)))


def published_bias_amplification(given, truth, predicted, given_train, truth_train):
    """The algorithm of Wang and Russakovsky on one-hot columns, pair by pair."""
    values = []
    for g, k in itertools.product(range(int(given_train.max()) + 1), range(int(truth_train.max()) + 1)):
        in_g, in_k = given_train == g, truth_train == k
        direction = np.sign((in_g & in_k).mean() - in_g.mean() * in_k.mean())
        values.append(direction * ((predicted == k)[given == g].mean() - (truth == k)[given == g].mean()))
    return np.mean(values)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 4)])
def test_bias_amplification_equals_the_published_algorithm(sizes):
    rng = np.random.default_rng(0)
    a_train, a = rng.integers(sizes[0], size=(2, 300))
    t_train, t, t_hat = rng.integers(sizes[1], size=(3, 300))
    counts = contingency_table([torch.from_numpy(v) for v in (a, t, t_hat)], (sizes[0], sizes[1], sizes[1]))
    training = contingency_table([torch.from_numpy(v) for v in (a_train, t_train)], sizes)
    expected = published_bias_amplification(a, t, t_hat, a_train, t_train)
    assert bias_amplification(counts, training) == pytest.approx(expected)


def test_bias_amplification_is_directional():
    training = torch.tensor([[45, 5], [5, 45]])
    # Balanced images by context, label, prediction: the prediction is the context, the label, its opposite.
    context, label = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])

    def amplification(predicted, reference):
        return bias_amplification(contingency_table([context, label, predicted], (2, 2, 2)), reference)

    assert amplification(context, training) == 0.5
    assert amplification(label, training) == 0
    assert amplification(1 - context, training) == -0.5
    assert amplification(context, training.flip(0)) == -0.5
    # A -> T and T -> A differ: here the predicted label follows the context, the predicted context is right.
    to_context = contingency_table([label, context, context], (2, 2, 2))
    assert bias_amplification(to_context, training.T) == 0


def test_bias_amplification_has_no_direction_without_association():
    counts = torch.ones(2, 2, 2, dtype=torch.int64)
    # 0.3 * 0.3 is not 0.09 in floating point; in integers these are exactly independent.
    assert math.isnan(bias_amplification(counts, torch.tensor([[9, 21], [21, 49]])))
    assert math.isnan(bias_amplification(torch.zeros_like(counts), torch.tensor([[3, 1], [1, 3]])))
    # A given class without images is left out of the mean.
    counts[0], counts[1] = 0, torch.tensor([[1, 1], [0, 2]])
    assert bias_amplification(counts, torch.tensor([[3, 1], [1, 3]])) == pytest.approx(0.25)


def test_balanced_accuracy_by_hand():
    got = balanced_accuracy(torch.tensor([[30, 10], [2, 18]]))
    assert (got.value, got.chance) == (pytest.approx(0.825), 0.5)
    a, b = 31 / 42, 19 / 22
    half = 1.959963984540054 / 2 * math.sqrt(a * (1 - a) / 42 + b * (1 - b) / 22)
    assert (got.low, got.high) == pytest.approx(((a + b) / 2 - half, (a + b) / 2 + half))
    assert got.above_chance


@pytest.mark.parametrize("number", [(1, 1), (2, 2), (3, 9), (10, 10), (4, 60)])
def test_chance_passes_for_signal_in_few_samples_only(number):
    """All outcomes of a prediction that is 1 with one probability, whatever the label."""
    for p in (0.05, 0.2, 0.5, 0.8, 0.95):
        alarm = 0.0
        for zeros, ones in itertools.product(range(number[0] + 1), range(number[1] + 1)):
            counts = torch.tensor([[number[0] - zeros, zeros], [number[1] - ones, ones]])
            if balanced_accuracy(counts).above_chance:
                chances = [
                    math.comb(n, k) * p**k * (1 - p) ** (n - k) for n, k in zip(number, (zeros, ones), strict=True)
                ]
                alarm += math.prod(chances)
        assert alarm < 0.05


def test_balanced_accuracy_counts_the_classes_that_occur():
    constant = torch.tensor([[5, 0, 0, 0], [500, 0, 0, 0], [0, 0, 0, 0], [9, 0, 0, 0]])
    got = balanced_accuracy(constant)
    assert got.value == got.chance == 1 / 3
    assert not got.above_chance
    # Ten classes of two images, all wrong: shrinking to 1/2 would put this above 1/10.
    wrong = torch.roll(torch.eye(10, dtype=torch.int64) * 2, 1, dims=1)
    assert balanced_accuracy(wrong).low < 0
    assert balanced_accuracy(torch.eye(10, dtype=torch.int64) * 2).above_chance
    alone = balanced_accuracy(torch.tensor([[50, 0], [0, 0]]))
    assert math.isnan(alone.value)
    assert not alone.above_chance


BLIND, SEEING = torch.tensor([[50, 50], [50, 50]]), torch.tensor([[95, 5], [5, 95]])


@pytest.mark.parametrize(
    ("target", "contexts", "expected"),
    [
        (SEEING, [], True),
        (SEEING, [BLIND], True),
        (BLIND, [BLIND], False),
        (BLIND, [], False),
        # The network of a balanced split that knows the context alone, whichever way.
        (BLIND, [BLIND, SEEING], True),
        (BLIND, [SEEING.flip(1)], True),
        # Below chance on the target itself is no knowledge of it.
        (SEEING.flip(1), [BLIND], False),
        (torch.tensor([[0, 100], [0, 100]]), [torch.tensor([[0, 100], [0, 100]])], False),
    ],
)
def test_learnt_is_what_follows_the_target_or_a_context(target, contexts, expected):
    got = what_is_learnt(target, contexts)
    assert got.anything is expected
    assert got.accuracy == balanced_accuracy(target)


@given(rows=ROWS, cut=st.integers(0, 40), tau=st.sampled_from([0.3, 0.6, 0.9, 0.999]))
@settings(max_examples=100, deadline=None)
def test_confident_errors_equal_a_loop(rows, cut, tau):
    y, c, s = columns(rows)
    predicted = predicted_classes(s)
    expected = np.zeros((2, 3, 2), dtype=int)
    for label, context, score in rows:
        if math.isfinite(score) and 1 / (1 + math.exp(-abs(score))) > tau and label >= 0 and context >= 0:
            expected[int(score > 0), context, int((score > 0) != label)] += 1
    parts = [slice(0, cut), slice(cut, None)]
    table = sum(confident_table(s[p].abs(), y[p], predicted[p], c[p], (2, 3), tau) for p in parts)
    assert np.array_equal(table, expected)
    overall, by_cell = confident_errors(table)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(by_cell, expected[..., 1] / expected.sum(axis=2), equal_nan=True)
        assert overall == pytest.approx(np.float64(expected[..., 1].sum()) / expected.sum(), nan_ok=True)


def test_confidence_is_no_rounded_probability():
    """In float32, sigmoid(20) is 1 and so above any threshold below 1."""
    score, label = torch.tensor([20.0, 25.0]), torch.tensor([0, 0])
    tau = 1 - 1e-10
    table = confident_table(score, label, predicted_classes(score), label, (2, 1), tau)
    assert table.sum() == 1
    unknown = torch.tensor([INF, NAN])
    assert confident_table(unknown, label, label, label, (2, 1), 0.9).sum() == 0
    with pytest.raises(ValueError, match="tau must be in"):
        confident_table(score, label, label, label, (2, 1), 1.0)
