from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from lightning_interp.data.group_sampler import GroupBalancedSampler

# (label, context): 40, 10, 5 and 45 images.
PAIRS = torch.tensor([[0, 0]] * 40 + [[0, 1]] * 10 + [[1, 0]] * 5 + [[1, 1]] * 45)


def drawn(sampler, groups=PAIRS):
    return Counter(tuple(groups[i].tolist()) for i in sampler)


def test_every_group_equally_often():
    sampler = GroupBalancedSampler(PAIRS)
    assert len(sampler) == 100
    assert drawn(sampler) == {(0, 0): 25, (0, 1): 25, (1, 0): 25, (1, 1): 25}
    assert sampler.groups.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_within_a_group_no_image_is_favoured():
    times = Counter(GroupBalancedSampler(PAIRS))
    assert {times[i] for i in range(50, 55)} == {5}
    assert sorted(times[i] for i in range(40, 50)) == [2] * 5 + [3] * 5
    assert max(times[i] for i in range(40)) == 1


def test_shares_by_hand():
    sampler = GroupBalancedSampler(PAIRS, weights=[1, 0, 3, 2], num_samples=60)
    assert drawn(sampler) == {(0, 0): 10, (1, 0): 30, (1, 1): 20}
    single = GroupBalancedSampler(torch.tensor([7, 7, 9]), num_samples=10)
    assert Counter(i == 2 for i in single) == {True: 5, False: 5}


def test_what_does_not_divide_goes_to_another_group_each_epoch():
    sampler = GroupBalancedSampler(torch.tensor([0, 1, 2]), num_samples=10)
    lucky = set()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        counts = Counter(sampler)
        assert sorted(counts.values()) == [3, 3, 4]
        lucky.add(counts.most_common(1)[0][0])
    assert lucky == {0, 1, 2}


def test_seed_and_epoch_decide():
    state = torch.get_rng_state()
    orders = {}
    for seed in (0, 1):
        sampler = GroupBalancedSampler(PAIRS, seed=seed)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert list(sampler) == orders[seed, epoch]
    # Not seed + epoch, as in torch, where (0, 1) and (1, 0) are the same.
    assert len({tuple(order) for order in orders.values()}) == 4
    assert torch.equal(torch.get_rng_state(), state)


@given(
    groups=st.lists(st.integers(-2, 3), min_size=1, max_size=40),
    num=st.integers(1, 90),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_processes_share_one_epoch(groups, num, world, epoch):
    groups = torch.tensor(groups)
    samplers = [GroupBalancedSampler(groups, num_samples=num, rank=rank, world=world) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    shards = [list(sampler) for sampler in samplers]
    assert {len(shard) for shard in shards} == {len(sampler) for sampler in samplers} == {-(-num // world)}
    # Together they are the draws of one process that draws as many.
    alone = GroupBalancedSampler(groups, num_samples=len(shards[0]) * world)
    alone.set_epoch(epoch)
    assert [i for row in zip(*shards, strict=True) for i in row] == list(alone)
    counts = Counter(groups[i].item() for i in alone)
    assert set(counts) <= set(groups.tolist())
    assert max(counts.values()) - min(counts.get(g, 0) for g in set(groups.tolist())) <= 1


def test_the_processes_are_asked_for_when_it_is_used(monkeypatch):
    sampler = GroupBalancedSampler(PAIRS)
    whole = list(sampler)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert len(sampler) == 50
    assert list(sampler) == whole[1::2]


def test_lightning_leaves_it_in_place():
    """Lightning wraps any other sampler, and then tells only the wrapper which epoch it is."""
    assert isinstance(GroupBalancedSampler(PAIRS), DistributedSampler)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": [1, 1]},
        {"weights": [1, 1, 1, -1]},
        {"weights": [0, 0, 0, 0]},
        {"weights": [1, 1, 1, float("nan")]},
        {"weights": "uniform"},
        {"num_samples": 0},
        {"rank": 0},
        {"rank": 2, "world": 2},
        {"rank": 0, "world": 0},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ValueError):  # noqa: PT011
        GroupBalancedSampler(PAIRS, **options)


def test_no_images():
    with pytest.raises(ValueError, match="0 images"):
        GroupBalancedSampler(torch.zeros(0, 2, dtype=torch.int64), num_samples=5)
