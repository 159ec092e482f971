"""Reliance checks on analytic scores s = w_R a + w_Q b, whose answers are closed-form, and on hostile input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.moments import mean_estimate
from lightning_interp.methods.bias.maths.reliance import (
    background_gap,
    exact_sums,
    foreground_sensitivity,
    has_signal,
    hit_sums,
    occlusion_sums,
    paired_hits,
    reliance,
    swap_sums,
)

NAN, INF = math.nan, math.inf
LEARNT, NOT_LEARNT = True, False
WEIGHTS = [(1.0, 0.0), (3.0, 1.0), (1.0, 3.0), (0.0, 1.0), (2.0, -1.0), (-1.0, 2.0)]
LOGITS = st.one_of(st.floats(-30, 30, width=32), st.sampled_from([NAN, INF, -INF]))


class Additive:
    """Images as pairs of a (the region, +1 or -1 for y) and b (the context, for c); s = w_R a + w_Q b."""

    def __init__(self, rho, w_region, w_context, number=400):
        self.y = torch.arange(number) % 2
        equal = torch.arange(number) // 2 < number * (1 + rho) / 4
        self.c = torch.where(equal, self.y, 1 - self.y)
        self.weights = w_region, w_context
        self.clean = self.score(self.a, self.b)

    @property
    def a(self):
        return 2.0 * self.y - 1

    @property
    def b(self):
        return 2.0 * self.c - 1

    def score(self, a, b):
        return self.weights[0] * a + self.weights[1] * b

    def occlude(self, context_label):
        """A fill that erases every trace: 0 for a, or for b."""
        grey = torch.zeros_like(self.a)
        return occlusion_sums(self.clean, self.score(grey, self.b), self.score(self.a, grey), self.y, context_label)

    def swap(self):
        region = self.score(self.a, self.b), self.score(-self.a, self.b)
        context = self.score(self.a, self.b), self.score(self.a, -self.b)
        return swap_sums(self.clean, region, context, self.y, self.c)

    def redo(self):
        one = torch.ones_like(self.a)
        region = self.score(one, self.b), self.score(-one, self.b)
        context = self.score(self.a, one), self.score(self.a, -one)
        return exact_sums(self.clean, region, context)


def truth(w_region, w_context):
    return abs(w_context) / (abs(w_context) + abs(w_region))


@pytest.mark.parametrize(("w_region", "w_context"), WEIGHTS)
def test_on_a_balanced_split_all_three_give_the_exact_reliance(w_region, w_context):
    faces = Additive(0.0, w_region, w_context)
    scale = (abs(w_region + w_context) + abs(w_region - w_context)) / 2
    occlusion, swap, exact = (reliance(s, LEARNT) for s in (faces.occlude(faces.c), faces.swap(), faces.redo()))
    assert occlusion.scale == swap.scale == exact.scale == scale
    assert (occlusion.region.value, occlusion.context.value) == (w_region / scale, w_context / scale)
    assert (swap.region.value, swap.context.value) == (2 * w_region / scale, 2 * w_context / scale)
    assert (exact.region.value * scale, exact.context.value * scale) == pytest.approx((2 * w_region, 2 * w_context))
    for check in (occlusion, swap, exact):
        assert check.images == 400
        assert check.nonfinite == 0
        # Every image has the same effect, so the interval is a point.
        assert check.ratio == pytest.approx((truth(w_region, w_context),) * 3)
    # An identity if the fill erases both traces: an occlusion is half of the exact effect.
    assert occlusion.region.value == exact.region.value / 2


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
@pytest.mark.parametrize(("w_region", "w_context"), [(3.0, 1.0), (1.0, 3.0)])
def test_signed_by_the_label_alone(rho, w_region, w_context):
    """e_Q is then rho times as large: nearly right on a biased split, blind by cancellation on a balanced one."""
    faces = Additive(rho, w_region, w_context)
    got = reliance(faces.occlude(faces.y), LEARNT)
    assert got.context.value * got.scale == pytest.approx(rho * w_context)
    assert got.ratio.value == pytest.approx(truth(w_region, rho * w_context))
    assert reliance(faces.occlude(faces.c), LEARNT).ratio.value == pytest.approx(truth(w_region, w_context))
    # And so it reads less of the context, with an interval: single effects are +w_Q and -w_Q.
    if rho < 1:
        assert got.context.low < got.context.value < got.context.high
        spread = w_context * math.sqrt(1 - rho**2) * math.sqrt(400 / 399)
        reach = 1.959963984540054 * spread / math.sqrt(400) / got.scale
        assert got.context.high - got.context.value == pytest.approx(reach)


def test_ratio_is_of_means_not_of_absolute_changes():
    """Context effects of random sign average out: no reliance, where a mean of absolute changes reads 1/2."""
    y = torch.arange(100) % 2
    score = 2.0 * (2 * y - 1)
    jitter = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(25) * 2
    got = reliance(occlusion_sums(score, score * 0, score + jitter, y, y), LEARNT)
    assert got.ratio.value == 0
    assert got.region.value == 1


def test_log_odds_of_the_true_class_always_go_up():
    """More than two classes: 1 for every label."""
    score, one = torch.tensor([2.0, 1.0, 3.0]), torch.ones(3, dtype=torch.int64)
    got = reliance(occlusion_sums(score, score - 1, score - 3, one, one), LEARNT)
    assert got.ratio.value == 0.75


def test_swap_with_the_image_itself_changes_nothing():
    faces = Additive(0.0, 1.0, 1.0)
    same = faces.clean, faces.clean
    got = reliance(swap_sums(faces.clean, same, same, faces.y, faces.c), LEARNT)
    assert got.region.value == got.context.value == 0
    assert math.isnan(got.ratio.value)


def test_sums_by_hand():
    y, c = torch.tensor([1, 0, 1, 1, -1]), torch.tensor([0, 0, 1, 1, 1])
    s = torch.tensor([3.0, -1.0, NAN, INF, 9.0])
    filled, context = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]), torch.tensor([4.0, -2.0, 0.0, 0.0, 0.0])
    keep = torch.tensor([True, True, True, False, True])
    # a: 2, 2; b: 1, -1. The third is NaN, the fourth lacks a region (its score is no fault), the fifth has no label.
    assert occlusion_sums(s, filled, context, y, c, keep).tolist() == [2, 4, 0, 8, 2, 0, 4, 1]
    do = (torch.tensor([1.0, INF]), torch.tensor([0.0, 0.0])), (torch.tensor([0.0, 0.0]), torch.tensor([2.0, 1.0]))
    assert exact_sums(torch.tensor([-7.0, 1.0]), *do).tolist() == [1, 1, -2, 1, 4, -2, 7, 1]
    assert swap_sums(torch.tensor([-7.0, 1.0]), *do, y[:2], c[:2]).tolist() == [1, 1, 2, 1, 4, 2, 7, 1]


def test_differences_of_large_logits_do_not_overflow():
    far = torch.tensor([3e38, 3e38])
    one = torch.tensor([1, 1])
    sums = occlusion_sums(far, -far, far, one, one)
    assert sums.isfinite().all()
    assert sums[7] == 0


@given(
    rows=st.lists(st.tuples(*[LOGITS] * 5, *[st.integers(-1, 1)] * 2, st.booleans()), max_size=25),
    cut=st.integers(0, 25),
)
@settings(max_examples=100, deadline=None)
def test_any_split_gives_the_same_sums(rows, cut):
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 8)
    s, p, q, r, t = table[:, :5].float().unbind(1)
    y, c = table[:, 5:7].long().unbind(1)
    keep = table[:, 7].bool()
    parts = [slice(0, cut), slice(cut, None)]
    checks = (
        lambda at: occlusion_sums(s[at], p[at], q[at], y[at], c[at], keep[at]),
        lambda at: swap_sums(s[at], (p[at], q[at]), (r[at], t[at]), y[at], c[at], keep[at]),
        lambda at: exact_sums(s[at], (p[at], q[at]), (r[at], t[at])),
        lambda at: paired_hits((p[at] > 0).long(), (q[at] > 0).long(), y[at], keep[at]),
        lambda at: hit_sums((p[at] > 0).long(), y[at], keep[at]),
    )
    for check in checks:
        whole = check(slice(None))
        assert whole.isfinite().all()
        torch.testing.assert_close(sum(check(at) for at in parts), whole, rtol=0, atol=1e-9)
        if not whole.dtype.is_floating_point:
            assert torch.equal(sum(check(at) for at in parts), whole)


def test_a_label_that_is_not_binary_is_refused():
    s = torch.zeros(2)
    with pytest.raises(ValueError, match="binary label, got class number 2"):
        occlusion_sums(s, s, s, torch.tensor([0, 2]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("learnt", "scale", "region", "context", "expected"),
    [
        (LEARNT, 0.2, 0.05, -0.05, True),
        (NOT_LEARNT, 9.0, 1.0, 1.0, False),
        (LEARNT, 0.19, 1.0, 1.0, False),
        (LEARNT, 9.0, 0.05, -0.04, False),
        (LEARNT, NAN, 1.0, 1.0, False),
        (LEARNT, 9.0, NAN, 1.0, False),
    ],
)
def test_signal(learnt, scale, region, context, expected):
    assert has_signal(learnt, scale, region, context) is expected


def test_no_ratio_without_signal_but_numerators():
    faces = Additive(0.0, 1.0, 3.0)
    got = reliance(faces.occlude(faces.c), NOT_LEARNT)
    assert all(map(math.isnan, got.ratio))
    assert (got.region.value, got.context.value) == (1 / 3, 1.0)
    # The same shape of effects, 0.03 of the logits: as of a network that has not begun to learn.
    faces = Additive(0.0, 0.03, 0.09)
    assert math.isnan(reliance(faces.occlude(faces.c), LEARNT).ratio.value)
    assert reliance(faces.occlude(faces.c), None).ratio.value == pytest.approx(0.75)


def test_nothing_at_all():
    none = torch.empty(0)
    labels = none.long()
    got = reliance(occlusion_sums(none, none, none, labels, labels), LEARNT)
    assert got.images == 0
    assert all(map(math.isnan, (got.scale, *got.region, *got.context, *got.ratio)))
    zero = torch.zeros(3)
    got = reliance(exact_sums(zero, (zero, zero), (zero, zero)), LEARNT)
    assert (got.images, got.scale) == (3, 0.0)
    assert all(map(math.isnan, (*got.region, *got.context, *got.ratio)))


def hits(neither, second_only, first_only, both):
    return torch.tensor([[neither, second_only], [first_only, both]])


def test_hits():
    first, second = torch.tensor([1, 0, 1, -1, 2, 0]), torch.tensor([1, 1, 0, 1, 2, 0])
    label = torch.tensor([1, 0, 0, 1, 2, -1])
    assert paired_hits(first, second, label).tolist() == [[0, 1], [1, 2]]
    keep = torch.tensor([False, True, True, True, True, True])
    assert paired_hits(first, second, label, keep).tolist() == [[0, 1], [1, 1]]
    assert hit_sums(first, label).tolist() == [4, 3, 3]
    assert mean_estimate(hit_sums(first, label)).value == 0.75
    assert hit_sums(first, label, keep).tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("region", "context", "expected"),
    # 100 images: right under noise in the region, in the context; (a_Q - a_R) / (2 min(m, 1 - m)).
    [(50, 90, 0.4 / 0.6), (90, 50, -0.4 / 0.6), (10, 30, 0.5), (40, 60, 0.2), (0, 100, 1.0), (70, 70, 0.0)],
)
def test_foreground_sensitivity(region, context, expected):
    both = max(0, region + context - 100)
    table = hits(100 - region - context + both, context - both, region - both, both)
    got = foreground_sensitivity(table, LEARNT)
    assert (got.images, got.first, got.second) == (100, region / 100, context / 100)
    assert got.score.value == pytest.approx(expected)
    assert -1 <= got.score.low <= got.score.value <= got.score.high <= 1
    assert math.isnan(foreground_sensitivity(table, NOT_LEARNT).score.value)


@pytest.mark.parametrize("table", [hits(0, 0, 0, 9), hits(9, 0, 0, 0), hits(0, 0, 0, 0)])
def test_foreground_sensitivity_has_no_room(table):
    assert math.isnan(foreground_sensitivity(table, LEARNT).score.value)


@pytest.mark.parametrize("right", [(0.15, 0.3), (0.6, 0.85)])
def test_interval_of_the_foreground_sensitivity_covers_the_truth(right):
    a_r, a_q = right
    truth = (a_q - a_r) / (2 * min((a_r + a_q) / 2, 1 - (a_r + a_q) / 2))
    draws = torch.rand(1000, 200, 2, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(200, dtype=torch.int64)
    wrong = (draws > torch.tensor(right)).long()
    scores = [foreground_sensitivity(paired_hits(w[:, 0], w[:, 1], zero), LEARNT).score for w in wrong]
    covered = sum(score.low <= truth <= score.high for score in scores) / 1000
    assert abs(covered - 0.95) < 0.03


def test_background_gap():
    # 100 images, 20 right only with a background of their class, 5 only with any.
    got = background_gap(hits(15, 5, 20, 60))
    assert (got.images, got.first, got.second) == (100, 0.8, 0.65)
    difference = torch.tensor([1.0] * 20 + [-1.0] * 5 + [0.0] * 75)
    reach = 1.959963984540054 * difference.std().item() / 10
    assert got.score == pytest.approx((0.15, 0.15 - reach, 0.15 + reach))
    assert math.isnan(background_gap(hits(0, 0, 0, 0)).score.value)
