"""The engine against the dense reference, for every option, batch size, order, budget."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lightning_interp.dissect import dissect
from tests.helpers.models import small_cnn
from tests.helpers.probes import RandomProbe
from tests.reference.dissection import activations, dissect_dense


def assert_equal(layer, expected):
    assert np.array_equal(layer.thresholds, expected["thresholds"])
    for name, tallies in (("real", layer.tallies), ("chance", layer.chance)):
        for field in dataclasses.fields(tallies):
            assert np.array_equal(getattr(tallies, field.name), expected[name][field.name]), (name, field.name)


OPTIONS = list(
    itertools.product(["low", "upsampled"], ["cell", "zero_pad", "receptive_field"], ["category", "all"])
)


@pytest.mark.parametrize(("quantile_on", "upsample", "images"), OPTIONS)
@pytest.mark.parametrize("budget", [2**30, 0])
def test_equal_to_dense_reference(quantile_on, upsample, images, budget):
    probe, model = RandomProbe(), small_cnn()
    options = {"quantile": 0.03, "quantile_on": quantile_on, "upsample": upsample, "images": images}
    result = dissect(model, probe, ["1", "2"], batch_size=8, byte_budget=budget, **options)
    for name, layer in result.layers.items():
        acts = activations(model, model.get_submodule(name), probe)
        assert_equal(layer, dissect_dense(acts, probe, anchors=layer.anchors, **options))
