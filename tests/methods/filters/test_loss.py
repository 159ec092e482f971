import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_interp.methods.filters.loss import LabelConditionedLoss
from lightning_interp.methods.filters.maths.filter_losses import label_conditioned
from tests.helpers.ranks import run_ranks, values
from tests.methods.filters.maths.test_filter_losses import Ranks, sparse_maps

LABELS = torch.tensor([0, 1, 1, 2, 1, 2])


def test_statistics_then_loss():
    x = sparse_maps(6, 5, 3, 3, dtype=torch.float32)
    module = LabelConditionedLoss(5, 3, "paper", "centroid")
    found = module(x, LABELS)
    density = torch.tensor([1, 3, 2]) / 6
    expected = label_conditioned(x, LABELS, torch.tensor([0, 1, 2, 0, 1]), density, "paper", "centroid")
    assert found.loss == expected.loss
    assert found.loss != label_conditioned(x, LABELS, torch.tensor([0, 1, 2, 0, 1]), density).loss
    torch.testing.assert_close(module.assignment.mean_peak[0], x[0].amax((1, 2)))


def test_one_label_weighs_both_sides_alike():
    x, member = sparse_maps(6, 2, 3, 3, dtype=torch.float32), (LABELS == 0)[:, None]
    found = LabelConditionedLoss(2, 1)(x, member)
    assert found.loss == label_conditioned(x, member, torch.tensor([0, 0])).loss


def test_processes_stay_together_over_steps():
    """Also where a process never sees a class: two of them, half of the batch each."""
    x, labels = sparse_maps(8, 6, 3, 3, dtype=torch.float32), torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])

    def train(x, labels, reduction):
        module = LabelConditionedLoss(6, 3)
        losses = []
        for step in range(3):
            losses.append(module(x * (1 + step), labels, reduction).loss)
            module.assignment.reassign()
        return torch.stack(losses), module.state_dict()

    whole, state = train(x, labels, Ranks(1).reduction(0))
    parts = Ranks(2).run(train, x.chunk(2), labels.chunk(2))
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole, rtol=1e-6, atol=1e-7)
    for _, found in parts:
        torch.testing.assert_close(found, state)


def test_descent_makes_filters_of_their_class_and_of_one_place():
    """Free maps, with the loss alone: mass gathers around the template's centre, and leaves the other classes."""
    labels, module = torch.arange(12) % 2, LabelConditionedLoss(4, 2)
    x = nn.Parameter(sparse_maps(12, 4, 6, 6, dtype=torch.float32))
    member = labels[:, None] == module.assignment.assignment

    def shares():
        maps = x.detach()
        mass, around = maps.sum((2, 3)), maps.flatten(2).topk(13).values.sum(2)
        return (mass * member).sum() / mass.sum(), (around / mass)[member].mean()

    before = shares()
    optimizer = torch.optim.SGD([x], lr=20.0)
    for _ in range(50):
        optimizer.zero_grad()
        module(x.relu(), labels).loss.backward()
        optimizer.step()
        x.data.clamp_(min=0)
    after = shares()
    assert after[0] > 0.9 > 0.6 > before[0]
    assert after[1] > 0.99 > 0.95 > before[1]


def test_before_any_statistics_and_for_a_class_not_seen_both_sides_weigh_one():
    x, labels = sparse_maps(6, 5, 3, 3, dtype=torch.float32), torch.tensor([0, 1, 1, 2, 1, 2])
    module = LabelConditionedLoss(5, 3).eval()
    assert module(x, labels).loss == label_conditioned(x, labels, module.assignment.assignment).loss
    module.train()(x, labels.clamp(max=1))
    found = module.eval()(x, labels).loss
    known = torch.tensor([1 / 6, 5 / 6, 0.0])
    assert found.isfinite()
    # Of class 2 the share is 0: its images weigh 1, and the others 0.5 / (1 - 0).
    expected = label_conditioned(x, labels, module.assignment.assignment, known).loss
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_labels_out_of_range_are_named_in_training_and_in_eval(training):
    module = LabelConditionedLoss(5, 3).train(training)
    with pytest.raises(ValueError, match="label 7 is none of the 3 classes"):
        module(sparse_maps(6, 5, 3, 3, dtype=torch.float32), torch.full((6,), 7))


def test_bad_arguments_are_named_on_construction():
    with pytest.raises(ValueError, match="unknown template='none'"):
        LabelConditionedLoss(5, 3, "none")
    with pytest.raises(ValueError, match="unknown centre='middle'; there are argmax, centroid"):
        LabelConditionedLoss(5, 3, centre="middle")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Linear(6, 3)
        self.filter_loss = LabelConditionedLoss(6, 3)

    def forward(self, x, labels):
        maps = self.features(x)
        loss = nn.functional.cross_entropy(self.head(maps.mean((2, 3))), labels)
        return loss + 0.5 * self.filter_loss(maps, labels).loss


def train_by_hand(rank, world):
    """The docstring's recipe; rank 0 has images of classes 0 and 1, rank 1 of class 2."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.rand(8, 3, 8, 8, generator=generator), torch.tensor([0, 1, 0, 1, 2, 2, 2, 2])
    net = Net()
    # With its default broadcast_buffers=True.
    step = DistributedDataParallel(net) if world > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(4):
        optimizer.zero_grad()
        step(x.chunk(world)[rank], labels.chunk(world)[rank]).backward()
        optimizer.step()
        net.filter_loss.assignment.reassign()
    return net.state_dict()


@pytest.mark.ddp
@pytest.mark.timeout(120)
def test_by_hand_two_processes_have_the_statistics_of_one():
    whole = train_by_hand(0, 1)
    for state in values(run_ranks(train_by_hand, 2, timeout=80)):
        torch.testing.assert_close(state, whole, rtol=1e-5, atol=1e-6)
