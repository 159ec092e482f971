"""Options: what is out of range is named, and how many patterns a filter has."""

import json
import math

import numpy as np
import pytest
import torch

from lightning_interp.errors import LayerError
from lightning_interp.methods.graph.options import GraphOptions


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"patterns": 0}, "patterns must be a whole number of at least 1, got 0"),
        ({"patterns": [3, 0]}, "patterns must be a whole number of at least 1, got 0"),
        ({"filters": 0}, "filters must be a whole number of at least 1"),
        ({"iterations": 0}, "iterations must be"),
        ({"iterations": 2.5}, r"iterations must be a whole number of at least 1, got 2\.5"),
        ({"parents": 0}, "parents must be"),
        ({"parents": 20, "candidates": 10}, "candidates must be a whole number of at least 20, got 10"),
        ({"pose": -1}, "pose must be a whole number of at least 0, got -1"),
        ({"sigma": 0}, "sigma must be positive and finite, got 0"),
        ({"deformation": -0.1}, "deformation must be positive"),
        ({"window": math.inf}, "window must be positive"),
        ({"sigma": math.nan}, "sigma must be positive and finite, got nan"),
        ({"tau": -1}, "tau must be at least 0 and finite, got -1"),
        ({"background": math.nan}, "background must be at least 0 and finite, got nan"),
        ({"ridge": -1}, "ridge must be"),
        ({"spreads": (0.5, 0.1)}, "spreads must be two positive numbers, the smaller first"),
        ({"spreads": (0, 0.1)}, "spreads must be"),
        ({"spreads": (0.1, 0.2, 0.3)}, "spreads must be two positive numbers"),
        ({"spreads": (0.1, math.inf)}, "spreads must be two positive numbers"),
        ({"ridge": math.inf}, "ridge must be at least 0 and finite, got inf"),
        ({"sigma": None}, "sigma must be a number, got None"),
        ({"tau": "much"}, "tau must be a number, got 'much'"),
        ({"patterns": "4"}, "patterns must be a whole number of at least 1, got '4'"),
        ({"spreads": 5}, "spreads must be two positive numbers, the smaller first, got 5"),
        ({"spreads": None}, "spreads must be two positive numbers, the smaller first, got None"),
        ({"spreads": torch.tensor(0.5)}, "spreads must be two positive numbers"),
        ({"patterns": torch.tensor(0)}, "patterns must be a whole number of at least 1, got tensor"),
        ({"patterns": 2.5}, r"patterns must be a whole number of at least 1, got 2\.5"),
        ({"flips": "no"}, "flips must be true or false, got 'no'"),
        ({"learn_width": None}, "learn_width must be true or false, got None"),
        ({"sigma": torch.ones(2)}, "sigma must be a number, got tensor"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63, got 9223372036854775808"),
        ({"seed": "4"}, "seed must be a whole number of at least 0, got '4'"),
    ],
)
def test_values_out_of_range_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        GraphOptions(**option)


def test_patterns_by_default_are_those_of_the_paper():
    numbers = {32: 52, 28: 40, 16: 26, 14: 20, 8: 13, 7: 10}
    assert {side: GraphOptions().nodes(0, "conv", (side, side)) for side in numbers} == numbers


def test_patterns_by_layer():
    options = GraphOptions(patterns=[3, 5])
    assert [options.nodes(place, "conv", (4, 4)) for place in (0, 1)] == [3, 5]
    assert GraphOptions(patterns=4).nodes(7, "conv", (4, 4)) == 4
    with pytest.raises(LayerError, match="patterns has 2 numbers; layer 'conv' is number 3"):
        options.nodes(2, "conv", (4, 4))
    with pytest.raises(LayerError, match="layer 'conv': 5 patterns a filter, but its maps have 4 units"):
        options.nodes(1, "conv", (2, 2))


def test_options_survive_json():
    options = GraphOptions(patterns=[3, 5], window=0.2)
    again = GraphOptions(**json.loads(json.dumps(options.as_dict())))
    assert again == options
    assert again != GraphOptions(patterns=[3, 5], window=0.3)


def test_numbers_of_numpy_are_numbers():
    options = GraphOptions(
        patterns=np.array([3, 5]), filters=np.int64(4), pose=np.int32(1), sigma=np.float64(0.2), spreads=[0.1, 1]
    )
    assert options == GraphOptions(patterns=(3, 5), filters=4, pose=1, sigma=0.2, spreads=(0.1, 1.0))
    for three in (np.int64(3), np.array(3), torch.tensor(3)):
        assert GraphOptions(patterns=three) == GraphOptions(patterns=3)
    assert (
        GraphOptions(flips=np.True_, learn_width=torch.tensor(True)).as_dict()
        == GraphOptions(flips=True, learn_width=True).as_dict()
    )
    json.dumps(GraphOptions(flips=np.True_, seed=2**63 - 1, patterns=torch.tensor([3, 4])).as_dict())
    assert json.loads(json.dumps(options.as_dict()))["patterns"] == [3, 5]
