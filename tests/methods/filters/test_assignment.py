import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.reduction import Reduction
from lightning_interp.methods.filters.assignment import FilterAssignment
from tests.methods.filters.maths.test_filter_losses import Ranks, sparse_maps


def peaks(values):
    """Maps (B, F, 1, 2) whose largest value is the one given."""
    values = torch.tensor(values)
    return torch.stack([torch.zeros_like(values), values], dim=2)[:, :, None]


def decided(mean_peak, **options):
    """An assignment from planted mean peaks (K, F)."""
    mean_peak = torch.tensor(mean_peak)
    assignment = FilterAssignment(mean_peak.shape[1], mean_peak.shape[0], **options)
    assignment.mean_peak.copy_(mean_peak)
    assignment.reassign()
    return assignment


# --- statistics


def test_mean_peaks_by_hand():
    assignment = FilterAssignment(2, 3)
    assignment.update(peaks([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]]), torch.tensor([0, 0, 2]))
    assert assignment.mean_peak.tolist() == [[2, 3], [0, 0], [10, 0]]
    assignment.update(peaks([[4.0, 3.0], [7.0, 7.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(assignment.mean_peak, torch.tensor([[2.2, 3.0], [7.0, 7.0], [10.0, 0.0]]))
    assert assignment.images.tolist() == [3, 1, 1]
    assert assignment.density.tolist() == pytest.approx([0.6, 0.2, 0.2])


def test_labels_of_several_classes():
    assignment = FilterAssignment(1, 3)
    member = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assignment.update(peaks([[2.0], [4.0], [100.0]]), member)
    assert assignment.mean_peak.tolist() == [[3], [2], [0]]
    assert assignment.density.tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_nothing_changes_outside_training():
    assignment = FilterAssignment(2, 2).eval()
    before = {name: value.clone() for name, value in assignment.state_dict().items()}
    assignment.update(peaks([[1.0, 2.0]]), torch.tensor([1]))
    assert all(torch.equal(value, before[name]) for name, value in assignment.state_dict().items())
    assignment.train().update(peaks([[1.0, 2.0]]), torch.tensor([1]))
    assert assignment.mean_peak.tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_step_does_not_spoil_the_mean(bad):
    assignment = FilterAssignment(2, 2)
    assignment.update(peaks([[1.0, 2.0], [bad, 5.0], [3.0, 3.0]]), torch.tensor([0, 0, 1]))
    assert assignment.mean_peak.tolist() == [[1, 2], [3, 3]]
    assert assignment.total == 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]))
def test_any_split_over_processes(seed, world):
    x, labels = sparse_maps(6, 4, 2, 2, seed=seed, dtype=torch.float32), torch.tensor([0, 0, 0, 2, 0, 2])
    whole = FilterAssignment(4, 3)

    def part(x, labels, reduction):
        assignment = FilterAssignment(4, 3)
        assignment.update(x, labels, reduction)
        assignment.update(x, labels, reduction)
        assignment.reassign()
        return assignment.state_dict()

    for _ in range(2):
        whole.update(x, labels)
    whole.reassign()
    for state in Ranks(world).run(part, x.chunk(world), labels.chunk(world)):
        assert torch.equal(state["assignment"], whole.assignment)
        torch.testing.assert_close(state, whole.state_dict())


def test_half_precision_networks_keep_float32_statistics():
    assignment = FilterAssignment(1, 1)
    assignment.update(peaks([[1.0001]]), torch.tensor([0]))
    exact = assignment.mean_peak.clone()
    network = torch.nn.ModuleList([assignment, torch.nn.Linear(1, 1)]).half()
    assert network[1].weight.dtype == torch.float16
    assert assignment.mean_peak.dtype == torch.float32
    assert torch.equal(assignment.mean_peak, exact)
    assert "mean_peak" in assignment.state_dict()
    assignment.update(peaks([[1.0001]]).half(), torch.tensor([0]))
    assert torch.nn.ModuleList([assignment]).to("meta")[0].mean_peak.is_meta


def test_state_goes_through_a_checkpoint():
    one = FilterAssignment(5, 2)
    one.update(sparse_maps(4, 5, 2, 2, dtype=torch.float32), torch.tensor([0, 1, 1, 0]))
    one.reassign()
    other = FilterAssignment(5, 2)
    other.load_state_dict(one.state_dict())
    x, labels = sparse_maps(4, 5, 2, 2, seed=1, dtype=torch.float32), torch.tensor([1, 1, 1, 0])
    for assignment in (one, other):
        assignment.update(x, labels)
        assignment.reassign()
    assert one.state_dict().keys() == {"assignment", "mean_peak", "images", "total", "decided"}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# --- pairing


def test_each_class_gets_the_filters_that_prefer_it():
    assignment = decided([[5.0, 0.0, 1.0, 9.0], [1.0, 2.0, 3.0, 1.0]])
    assert assignment.assignment.tolist() == [0, 1, 1, 0]


def test_filters_that_all_prefer_one_class_are_shared_out():
    """By how much they do: 10, 40, 60 and 80 % less on the other class."""
    assignment = decided([[10.0, 10.0, 1.0, 100.0], [9.0, 2.0, 0.6, 40.0]])
    assert assignment.assignment.tolist() == [1, 0, 1, 0]
    assert assignment.filters_per_class.tolist() == [2, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 10**6))
def test_every_class_gets_its_share(filters, classes, seed):
    mean_peak = torch.rand(classes, filters, generator=torch.Generator().manual_seed(seed)) ** 3
    mean_peak[:, 0] = 0.0
    assignment = decided(mean_peak.tolist())
    counts = assignment.filters_per_class.tolist()
    assert sum(counts) == filters
    assert min(counts) == filters // classes
    assert max(counts) == math.ceil(filters / classes)
    before = assignment.assignment.clone()
    assert decided(mean_peak.tolist()).assignment.tolist() == before.tolist()
    # And stays as long as nothing moves by more than the margin: each gain by 0.02 at most here.
    noise = torch.rand(classes, filters, generator=torch.Generator().manual_seed(seed + 1)) - 0.5
    assignment.mean_peak.add_(0.02 * noise * mean_peak.amax(0))
    assert assignment.reassign() == 0
    assert torch.equal(assignment.assignment, before)


def test_margin():
    """Two filters change places once their gains on the other class are more than the margin."""
    assignment = decided([[1.0, 0.8], [0.8, 1.0]], margin=0.05)
    assert assignment.assignment.tolist() == [0, 1]
    # Gains, from the class that each has: 0.04 / 2 below, then 0.12 / 2 above.
    assignment.mean_peak.copy_(torch.tensor([[0.96, 1.0], [1.0, 0.96]]))
    assert assignment.reassign() == 0
    assignment.mean_peak.copy_(torch.tensor([[0.88, 1.0], [1.0, 0.88]]))
    assert assignment.reassign() == 2
    assert assignment.assignment.tolist() == [1, 0]


def test_before_the_first_decision_the_classes_go_round_without_a_bonus():
    assignment = FilterAssignment(4, 3)
    assert assignment.assignment.tolist() == [0, 1, 2, 0]
    assignment = FilterAssignment(2, 2)
    assignment.mean_peak.copy_(torch.tensor([[0.99, 1.0], [1.0, 0.99]]))
    assert assignment.reassign() == 2


def test_one_class_and_more_classes_than_filters():
    assert decided([[1.0, 2.0, 0.0]]).filters_per_class.tolist() == [3]
    many = decided([[0.1, 0.2], [0.9, 0.0], [0.0, 0.0], [0.2, 0.8]])
    assert many.assignment.tolist() == [1, 3]
    assert many.filters_per_class.tolist() == [0, 1, 0, 1]


def test_what_is_refused():
    for options in [(0, 1), (1, 0), (1, 1, 1.0), (1, 1, -0.1), (1, 1, 0.9, -1.0), (1, 1, 0.9, math.nan)]:
        with pytest.raises(ValueError, match="num_filters"):
            FilterAssignment(*options)
    assignment, x = FilterAssignment(2, 3), torch.rand(4, 2, 2, 2)
    with pytest.raises(ValueError, match=r"2 filters .*got \(4, 3, 2, 2\)"):
        assignment.update(torch.rand(4, 3, 2, 2), torch.zeros(4).long())
    for labels in (torch.zeros(3).long(), torch.zeros(4, 2).bool()):
        with pytest.raises(ValueError, match=r"memberships \(B, 3\) of 4 images"):
            assignment.update(x, labels)
    with pytest.raises(ValueError, match="label 3 is none of the 3 classes"):
        assignment.update(x, torch.tensor([0, 1, 2, 3]))


def test_the_reduction_is_called_whatever_the_batch():
    """A process without a finite image still meets the others."""
    calls = []

    def count(values):
        calls.append(tuple(values.shape))
        return values

    assignment = FilterAssignment(2, 3)
    for x in (peaks([[1.0, 2.0]]), peaks([[math.nan, 1.0]])):
        assignment.update(x, torch.tensor([0]), Reduction(count, count))
    assert calls == [(3, 3), ()] * 2
