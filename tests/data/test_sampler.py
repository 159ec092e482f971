import pytest

from lightning_interp.data.loading import ShardSampler


@pytest.mark.parametrize("world", [1, 2, 3, 4, 50])
@pytest.mark.parametrize("images", [0, 1, 3, 37])
def test_every_image_once_on_one_process(images, world):
    shards = [list(ShardSampler(range(images), rank, world)) for rank in range(world)]
    assert sorted(i for shard in shards for i in shard) == list(range(images))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert [len(ShardSampler(range(images), rank, world)) for rank in range(world)] == list(map(len, shards))


def test_keeps_the_order_and_the_numbers_given():
    assert list(ShardSampler([9, 4, 7, 1], 1, 2)) == [4, 1]


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_rank_out_of_range(rank, world):
    with pytest.raises(ValueError, match=f"rank {rank} is not in"):
        ShardSampler(range(3), rank, world)
