"""Which layer lies above which."""

import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.methods.graph.order import check_descends
from lightning_interp.probing.layers import resolve_layers


class Branches(nn.Module):
    """Two branches behind one stem, that meet again; one layer's output is used nowhere."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.lost, self.head = (nn.Conv2d(2, 2, 1) for _ in range(5))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        self.lost(x)
        return self.head(torch.relu(self.left(x)) + self.right(x))


def check(*names, module=None):
    module = module or Branches()
    check_descends(module, resolve_layers(module, names), torch.zeros(1, 2, 3, 3))


def test_layers_from_the_top_down_pass():
    check("head", "left", "stem")
    check("head", "right", "stem")
    check("stem")
    # Through a ReLU that works in place, and a normalisation.
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.MaxPool2d(1)).eval()
    check("3", "2", "1", "0", module=net)


def test_the_right_order_is_named():
    with pytest.raises(LayerError, match=r"'left' lies above 'stem'; give \['head', 'left', 'stem'\]"):
        check("head", "stem", "left")


def test_branches_side_by_side_are_refused():
    for names in (("left", "right"), ("right", "left"), ("head", "lost"), ("head", "left", "right", "stem")):
        with pytest.raises(LayerError, match=r"does not depend on .* each lies above the next"):
            check(*names)


def test_the_module_is_left_as_it_was():
    module = Branches()
    with pytest.raises(LayerError):
        check("left", "right", module=module)
    assert not any(child._forward_hooks for child in module.modules())
