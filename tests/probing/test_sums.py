"""Named tensors that processes add up: alone, on real processes of uneven shares, and as any metric travels."""

import copy
import math
import pickle
from datetime import timedelta

import pytest
import torch

from lightning_interp.probing.ranks import Ranks
from lightning_interp.probing.sums import Sums
from tests.helpers.ranks import run_ranks, values

# Layers are called as users call them; a metric's own attributes are names like any other.
NAMES = ("features.4: value", "a b/c-ü 日", "update", "_defaults", "0", "", "state_0")


def literal():
    sums = Sums()
    sums.add("count", torch.zeros(2, 2, dtype=torch.int64))
    sums.add("high", torch.full((3,), -math.inf), by="max")
    sums.add("low", torch.full((3,), math.inf), by="min")
    sums.add("scores", torch.empty(0, 2), by="rows")
    return sums


def test_by_hand():
    sums = literal()
    sums["count"] += torch.tensor([[1, 2], [3, 4]])
    sums["count"][1, 0] += 10
    sums["high"] = torch.maximum(sums["high"], torch.tensor([1.0, -2.0, 0.0]))
    sums["low"][1] = 7.0
    sums.append("scores", torch.tensor([[1.0, 2.0]]))
    sums.append("scores", torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    assert sums["scores"].tolist() == [[1, 2], [3, 4], [5, 6]]
    found = sums.reduced()
    assert list(found) == ["count", "high", "low", "scores"]
    assert found["count"].tolist() == [[1, 2], [13, 4]]
    assert found["high"].tolist() == [1, -2, 0]
    assert found["low"].tolist() == [math.inf, 7, math.inf]
    assert found["scores"].tolist() == [[1, 2], [3, 4], [5, 6]]
    # A second look is the same look.
    assert all(torch.equal(one, other) for one, other in zip(found.values(), sums.reduced().values(), strict=True))


def test_used_as_any_metric():
    """``update`` adds by name, ``compute`` is the reduction, ``reset`` starts anew."""
    sums = literal()
    sums.update(count=torch.ones(2, 2, dtype=torch.int64), scores=torch.tensor([[0.5, 0.25]]))
    sums.update(count=torch.ones(2, 2, dtype=torch.int64))
    assert sums.compute()["count"].tolist() == [[2, 2], [2, 2]]
    assert sums.compute()["scores"].tolist() == [[0.5, 0.25]]
    sums.reset()
    assert not sums["count"].any()
    assert (sums["high"] == -math.inf).all()


def test_what_starts_is_not_changed():
    start = torch.zeros(2)
    sums = Sums()
    sums.add("one", start)
    sums["one"] += 3
    sums.reset()
    assert sums["one"].tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1), (0,), (0, 3)])
@pytest.mark.parametrize("by", ["sum", "max", "min"])
def test_tensors_keep_their_shape(shape, by):
    sums = Sums()
    sums.add("one", torch.zeros(shape, dtype=torch.int64), by=by)
    found = sums.reduced()["one"]
    assert (found.shape, found.dtype) == (shape, torch.int64)


@pytest.mark.parametrize("rows", [(0, 4), (1, 1), (1,), (0,)])
def test_rows_keep_their_shape(rows):
    sums = Sums()
    sums.add("one", torch.empty(0, *rows[1:], dtype=torch.int32), by="rows")
    if rows[0]:
        # What comes in another type is kept in that of the first.
        sums.append("one", torch.full(rows, 3.0))
    found = sums.reduced()["one"]
    assert (tuple(found.shape), found.dtype) == (rows, torch.int32)
    assert (found == 3).all()


def test_integers_past_what_floats_hold():
    sums = Sums()
    sums.add("one", torch.zeros(1, dtype=torch.int64))
    for _ in range(2):
        sums["one"] += 2**53 + 1
    assert sums.reduced()["one"].tolist() == [2**54 + 2]


def test_names_are_any():
    sums = Sums()
    for number, name in enumerate(NAMES):
        sums.add(name, torch.tensor([number]))
    assert all(name in sums for name in NAMES)
    assert "another" not in sums
    assert {name: int(value) for name, value in sums.reduced().items()} == dict(zip(NAMES, range(7), strict=True))


def test_what_cannot_be():
    sums = literal()
    with pytest.raises(ValueError, match="there is a sum 'count' already"):
        sums.add("count", torch.zeros(1))
    with pytest.raises(ValueError, match="'more' starts with 2 rows; start with none"):
        sums.add("more", torch.zeros(2, 1), by="rows")
    with pytest.raises(KeyError, match="nothing"):
        sums["nothing"]
    with pytest.raises(KeyError, match="nothing"):
        sums["nothing"] = torch.zeros(1)
    with pytest.raises(ValueError, match="dist_reduce_fx"):
        sums.add("mid", torch.zeros(1), by="median")
    assert "more" not in sums


@pytest.mark.parametrize("travel", [copy.deepcopy, Sums.clone, lambda sums: pickle.loads(pickle.dumps(sums))])
def test_a_copy_goes_on_alone(travel):
    sums = literal()
    sums["count"] += 1
    sums.append("scores", torch.tensor([[1.0, 2.0]]))
    other = travel(sums)
    other["count"] += 1
    other.append("scores", torch.tensor([[3.0, 4.0]]))
    assert sums.reduced()["count"].tolist() == [[1, 1], [1, 1]]
    assert sums.reduced()["scores"].tolist() == [[1, 2]]
    assert other.reduced()["count"].tolist() == [[2, 2], [2, 2]]
    assert other.reduced()["scores"].tolist() == [[1, 2], [3, 4]]


# --- On real processes -----------------------------------------------------------------------------------------------

# Rows of each process, by rank: uneven, the first without, the last without, none at all.
SHARES = ((3, 1, 2), (0, 2, 1), (2, 3, 0), (0, 0, 0))


def rows_of(rank, count):
    return torch.arange(count * 2).view(count, 2) + 100 * rank


def shares(rank, world):
    """What a process finds of every kind of sum, shares of rows of every kind among them."""
    sums = Sums(Ranks.connect(timedelta(seconds=30)))
    sums.add("large", torch.zeros(1, dtype=torch.int64))
    sums["large"] += 2**53 + rank
    sums.add("bytes", torch.full((2, 2), -1, dtype=torch.int8), by="max")
    sums["bytes"][rank % 2] = rank
    sums.add("low", torch.full((2,), math.inf), by="min")
    sums["low"][0] = -1.5 * rank
    sums.add("number", torch.zeros(()))
    sums["number"] += 0.25
    for name in NAMES:
        sums.add(name, torch.tensor([1]))
    for number, counts in enumerate(SHARES):
        sums.add(f"rows {number}", torch.empty(0, 2, dtype=torch.int64), by="rows")
        # Several batches on one process, one or none on another.
        for row in rows_of(rank, counts[rank]).split(1):
            sums.append(f"rows {number}", row)
    found = {name: value.clone() for name, value in sums.reduced().items()}
    # What a process has of its own is as it was.
    assert sums["large"].tolist() == [2**53 + rank]
    assert len(sums["rows 0"]) == SHARES[0][rank]
    return found


@pytest.mark.ddp
@pytest.mark.timeout(90)
@pytest.mark.parametrize("world", [2, 3])
def test_every_process_has_what_all_have(world):
    found = values(run_ranks(shares, world, timeout=60))
    for own in found:
        assert own["large"].tolist() == [world * 2**53 + sum(range(world))]
        assert own["bytes"].dtype == torch.int8
        assert own["bytes"].tolist() == [[world - 1 if world == 3 else 0] * 2, [1, 1]]
        assert own["low"].tolist() == [-1.5 * (world - 1), math.inf]
        assert (own["number"].shape, own["number"].item()) == ((), 0.25 * world)
        assert {int(own[name]) for name in NAMES} == {world}
        for number, counts in enumerate(SHARES):
            expected = torch.cat([rows_of(rank, counts[rank]) for rank in range(world)])
            assert torch.equal(own[f"rows {number}"], expected)
            assert own[f"rows {number}"].dtype == torch.int64


def test_a_sum_keeps_its_shape_and_type_and_its_name():
    sums = Sums()
    sums.add("count", torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"sum 'count' is \(2,\) of torch\.int64, not \(3,\) of torch\.float32"):
        sums["count"] = torch.zeros(3)
    with pytest.raises(KeyError, match="no sum 'counts'; there are count"):
        sums["counts"]
