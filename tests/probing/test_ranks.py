"""One process alone; several are tested with real ones."""

from datetime import timedelta

import pytest
import torch

from lightning_interp.probing.ranks import Ranks


def test_one_process_needs_no_group():
    ranks = Ranks.connect(timedelta(seconds=5))
    assert (ranks.rank, ranks.world, ranks.group) == (0, 1, None)
    assert ranks.timeout == timedelta(seconds=5)
    ranks.close()


def test_one_process_raises_its_own_error_as_it_is():
    error = KeyError("which")
    with pytest.raises(KeyError) as caught:
        Ranks().agree(error)
    assert caught.value is error
    assert Ranks().agree(None, "note") == ["note"]


def test_reductions_of_one_process_are_its_own_values():
    values = torch.tensor([3, 2**62])
    assert Ranks().sum(values).tolist() == Ranks().min(values).tolist() == [3, 2**62]


def test_work_of_one_process_has_its_own_sums_and_raises_its_own_errors():
    ranks, values = Ranks(), torch.tensor([3, 2**62])
    assert ranks.together(lambda total: total(values).tolist()) == [[3, 2**62]]
    with pytest.raises(KeyError, match="which"):
        ranks.together(lambda total: {}["which"])
