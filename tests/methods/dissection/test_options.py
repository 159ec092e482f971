import dataclasses
import json
import math

import pytest

from lightning_interp.methods.dissection.options import PRESETS, DissectionOptions, make_options


def test_presets_are_the_published_definitions():
    assert make_options("cvpr2017") == DissectionOptions(0.005, "low", "cell", "category", 0.04, None)
    assert make_options("pnas2020") == DissectionOptions(0.01, "upsampled", "zero_pad", "all", 0.04, None)


def test_overrides_replace_and_none_keeps():
    options = make_options("pnas2020", quantile=0.02, images=None, mask_size=[56, 28])
    assert options == dataclasses.replace(PRESETS["pnas2020"], quantile=0.02, mask_size=(56, 28))
    assert make_options("cvpr2017", iou_threshold=0.0).iou_threshold == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"quantile": 0.0}, r"quantile must be in \(0, 1\), got 0.0"),
        ({"quantile": 1}, "quantile must be"),
        ({"quantile": math.nan}, "quantile must be"),
        ({"iou_threshold": 1.0}, r"iou_threshold must be in \[0, 1\), got 1.0"),
        ({"iou_threshold": -0.1}, "iou_threshold must be"),
        ({"quantile_on": "high"}, "quantile_on must be one of low, upsampled; got 'high'"),
        ({"upsample": "nearest"}, "upsample must be one of cell, receptive_field, zero_pad; got 'nearest'"),
        ({"images": "some"}, "images must be one of category, all; got 'some'"),
        ({"mask_size": (5,)}, "mask_size must be two whole numbers"),
        ({"mask_size": 8}, "mask_size must be two whole numbers of at least 1, got 8"),
        ({"mask_size": (8.5, 8)}, "mask_size must be two whole numbers"),
        ({"mask_size": (0, 5)}, "mask_size must be two whole numbers"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        make_options("cvpr2017", **override)


def test_unknown_preset_and_option():
    with pytest.raises(ValueError, match="unknown preset 'x'; the presets are cvpr2017, pnas2020"):
        make_options("x")
    with pytest.raises(TypeError, match="quantil"):
        make_options("cvpr2017", quantil=0.1)


def test_json_and_frozen():
    options = make_options("cvpr2017", mask_size=(3, 4))
    assert json.loads(json.dumps(options.as_dict()))["mask_size"] == [3, 4]
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.quantile = 0.5
    with pytest.raises(TypeError):
        PRESETS["mine"] = options
