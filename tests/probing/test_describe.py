import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.layers import LayerInfo, describe_layers
from lightning_interp.probing.session import probing
from tests.helpers.models import small_cnn

EXAMPLE = torch.zeros(1, 3, 24, 20)


def describe(net, names, example=EXAMPLE, forward=None):
    with probing(net):
        return describe_layers(net, names, example, forward)


def test_shapes():
    found = describe(small_cnn(), ["2", "0"])
    assert found == {"2": LayerInfo("2", 6, 6, 5), "0": LayerInfo("0", 8, 12, 10)}
    assert list(found) == ["2", "0"]


def test_auto_is_the_last_layer_with_maps():
    assert list(describe(small_cnn(), ["auto"])) == ["3"]
    assert list(describe(small_cnn(), ["0", "auto"])) == ["0", "3"]
    assert list(describe(nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), nn.Flatten()), ["auto"])) == ["0"]


class Reuses(nn.Module):
    """The last layer to finish is one activation that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 2, 1), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(self.relu(x)))


def test_auto_passes_over_layers_that_run_twice():
    assert list(describe(Reuses(), ["auto"])) == ["conv"]


def test_auto_without_any_map():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(LayerError, match="'auto' found no layer with maps larger than 1x1"):
        describe(net, ["auto"])


def test_a_single_string_is_refused():
    for name in ("auto", "layer4"):
        with pytest.raises(LayerError, match="must be a list of names"):
            describe(small_cnn(), name)
    with pytest.raises(LayerError, match="no layer given"):
        describe(small_cnn(), [])


class Folds(nn.Module):
    """Several maps an image in the batch dimension."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(torch.cat([x, x]))


def test_one_map_an_image():
    with pytest.raises(LayerError, match=r"'layer' gives shape \(2, 3, 24, 20\) for one image"):
        describe(Folds(), ["layer"])


def test_forward_is_used_and_no_hook_is_left():
    net, calls = small_cnn(), []

    def forward(images):
        calls.append(images.shape)
        return net[:2](images)

    assert list(describe(net, ["auto"], forward=forward)) == ["1"]
    assert len(calls) == 2  # one look for 'auto', one at the layers
    assert not any(part._forward_hooks for part in net.modules())


def test_forward_without_a_truth_value_is_used():
    class Compiled(Reuses):
        """A compiled network has the ``len`` of what it wraps, which may have none."""

        def __len__(self):
            raise TypeError("no len()")

    net = Compiled()
    assert list(describe(net, ["auto"], forward=net)) == ["conv"]
