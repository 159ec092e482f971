"""What every result can do: the common saved form, the headline, one line when printed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_interp import DatasetError, load
from lightning_interp.results.base import LayeredResult, headline_of
from tests.helpers.absent import hide


@dataclass(frozen=True)
class Layer:
    share: Tensor
    counts: np.ndarray
    level: float
    names: tuple[str, ...]
    single: Tensor


@dataclass(frozen=True, repr=False)
class Found(LayeredResult[Layer]):
    FILE: ClassVar[str] = "found.json"
    LAYER: ClassVar[type] = Layer
    HEADLINE: ClassVar[tuple[str, ...]] = ("mean?", "units")

    layers: Mapping[str, Layer]
    num_images: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def layer_scalars(self, layer):
        return {"mean": float(layer.share.mean()), "units": float(len(layer.share)), "level": layer.level}

    def rows(self, layer):
        return [("unit", "share"), *enumerate(layer.share.tolist())]


LAYER = Layer(
    torch.tensor([0.25, math.nan, 1 / 3], dtype=torch.float64),
    np.array([[2**60, 1]]),
    math.nan,
    ("a", "b"),
    torch.tensor(7),
)
FOUND = Found({"layer4.0": LAYER, "a/b": replace(LAYER, level=0.5)}, 12, {"k": 3}, 1.5, {"epoch": None})


def test_the_common_form_comes_back_bit_for_bit(tmp_path):
    assert FOUND.save(tmp_path) == tmp_path / "found.json"
    for found in (Found.load(tmp_path), load(tmp_path)):
        assert type(found) is Found
        assert (found.num_images, found.settings, found.seconds, found.meta) == (12, {"k": 3}, 1.5, {"epoch": None})
        assert list(found.layers) == list(FOUND.layers)
        for name, layer in found.layers.items():
            own = FOUND[name]
            for one, other in zip((layer.share, layer.single), (own.share, own.single), strict=True):
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                assert torch.equal(one.nan_to_num(nan=-1), other.nan_to_num(nan=-1))
            assert (layer.counts.dtype, layer.counts.tolist()) == (own.counts.dtype, own.counts.tolist())
            assert layer.names == ("a", "b")
            assert layer.level == own.level or (math.isnan(layer.level) and math.isnan(own.level))
    assert (tmp_path / "units_layer4.0.csv").read_text().splitlines()[:2] == ["unit,share", "0,0.25"]
    assert not list(tmp_path.glob("*.tmp"))


def test_without_safetensors_it_is_said(tmp_path, monkeypatch):
    hide(monkeypatch, {"safetensors"})
    monkeypatch.setattr("lightning_interp.results.files.available", lambda name: False)
    with pytest.warns(UserWarning, match="safetensors is not installed"):
        FOUND.save(tmp_path)
    with pytest.raises(DatasetError, match="saved without its arrays"):
        Found.load(tmp_path)


def test_it_prints_as_one_line():
    assert repr(FOUND) == "Found(layer4.0, a/b; 12 images)"


def test_headline_says_what_is_not_known():
    known = {"layer4.0/mean": math.nan, "layer4.0/mean_known": 0.0, "layer4.0/units": 3.0}
    found = FOUND.headline()
    assert {k: v for k, v in found.items() if k.startswith("layer4.0")} == pytest.approx(known, nan_ok=True)
    assert set(FOUND.scalars()) == {f"{n}/{k}" for n in FOUND.layers for k in ("mean", "units", "level")} | {"seconds"}
    assert headline_of({"a": 1.0}, ("a?", "b")) == {"a": 1.0, "a_known": 1.0}


def test_a_folder_without_or_with_several_results_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no result: none of .*dissection\.json"):
        load(tmp_path)
    FOUND.save(tmp_path)
    (tmp_path / "bias.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"several results \(bias\.json, found\.json\); load one by its class"):
        load(tmp_path)


def test_two_kinds_of_one_file_are_refused():
    with pytest.raises(TypeError, match=r"found\.json is the file of Found already"):

        class Other(Found):
            FILE = "found.json"
