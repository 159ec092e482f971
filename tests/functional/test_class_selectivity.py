"""Class means, selectivity and mutual information: by hand and at the extremes."""

import math

import pytest
import torch

from lightning_interp.functional.class_selectivity import (
    class_means,
    class_selectivity,
    largest_column,
    mutual_information_score,
)

NAN = math.nan


def test_class_means_by_hand():
    """Images without a class, and values that are not finite, are left out; class 2 has no image."""
    values = torch.tensor([[1.0, 5.0], [3.0, -math.inf], [10.0, 7.0], [99.0, 99.0]])
    means = class_means(values, torch.tensor([0, 0, 1, -1]), 3)
    assert means[:, :2].tolist() == [[2.0, 10.0], [5.0, 7.0]]
    assert means[:, 2].isnan().all()


def test_largest_column():
    table = torch.tensor([[1.0, 3.0, 3.0], [NAN, NAN, -2.0], [NAN, NAN, NAN], [-math.inf, -math.inf, 0.0]])
    assert largest_column(table).tolist() == [1, 2, -1, 2]


def test_selectivity_by_hand():
    means = torch.tensor([[3.0, 1.0, NAN], [1.0, 1.0, 1.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    result = class_selectivity(means)
    assert result[:3].tolist() == pytest.approx([0.75, 1 / 3, 1.0])
    assert result[3].isnan()


def mutual_information(bins, labels):
    """Of two lists of numbers, in nats."""
    n = len(bins)
    total = 0.0
    for b in set(bins):
        for y in set(labels):
            joint = sum(x == b and z == y for x, z in zip(bins, labels, strict=True)) / n
            if joint:
                total += joint * math.log(joint / (bins.count(b) / n * labels.count(y) / n))
    return total


def test_score_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(53, 4, generator=generator)
    values[:, 1] = values[:, 1].mul(3).round()  # ties
    category = torch.randint(0, 3, (53,), generator=generator)
    score = mutual_information_score(values, category, 3, bins=5)
    for f in range(4):
        column = values[:, f].tolist()
        bins = [sum(other < value for other in column) * 5 // 53 for value in column]
        by_class = [mutual_information(bins, [int(y == c) for y in category.tolist()]) for c in range(3)]
        assert score[f].item() == pytest.approx(max(by_class), abs=1e-12)


def test_perfect_constant_and_unrelated_filters():
    generator = torch.Generator().manual_seed(1)
    category = torch.arange(2000) % 2
    values = torch.stack([category + 0.1, torch.zeros(2000), torch.rand(2000, generator=generator)], 1)
    perfect, constant, unrelated = mutual_information_score(values, category, 2).tolist()
    assert perfect == pytest.approx(math.log(2), abs=1e-9)
    assert constant == pytest.approx(0, abs=1e-12)
    assert 0 <= unrelated < 0.01
