import math

import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.methods.filters.interpretable_mask import InterpretableMask, insert_mask
from lightning_interp.methods.filters.maths.filter_templates import filter_templates
from tests.methods.filters.maths.test_filter_losses import sparse_maps
from tests.methods.filters.reference.filter_gradient import matlab_mask


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), nn.Flatten(), nn.Linear(48, 2))


def test_a_row_by_hand():
    """The code's slope is 1 a cell in a row of 5: only the peak is left; in one of 9, half of its neighbours too."""
    x = torch.zeros(1, 1, 1, 9)
    x[0, 0, 0, 2:6] = torch.tensor([4.0, 6.0, 2.0, 1.0])
    assert InterpretableMask()(x).flatten().tolist() == [0, 0, 2, 6, 1, 0, 0, 0, 0]
    assert InterpretableMask()(x[..., 1:6]).flatten().tolist() == [0, 0, 6, 0, 0]


@pytest.mark.parametrize("size", [(4, 4), (5, 5), (3, 6), (6, 3)])
@pytest.mark.parametrize("centre", ["argmax", "centroid"])
def test_the_released_forward(size, centre):
    x = sparse_maps(2, 3, *size)
    found = InterpretableMask(centre=centre)(x)
    for b in range(2):
        for f in range(3):
            expected = (x[b, f].numpy() * matlab_mask(x[b, f].numpy(), centre)).clip(min=0)
            torch.testing.assert_close(found[b, f], torch.from_numpy(expected))


@pytest.mark.parametrize("template", ["paper", "code"])
def test_the_gradient_takes_the_template_for_a_constant(template):
    x = sparse_maps(2, 3, 5, 4).requires_grad_()
    InterpretableMask(template)(x).sum().backward()
    torch.testing.assert_close(x.grad, filter_templates(x.detach(), template).clamp(min=0))


def test_maps_of_zeros_and_nan():
    for centre in ("argmax", "centroid"):
        mask = InterpretableMask(centre=centre)
        assert (mask(torch.zeros(2, 2, 4, 4)) == 0).all()
        x = torch.ones(1, 1, 3, 3)
        x[0, 0, 1, 1] = math.nan
        assert mask(x).isnan().any()
    with pytest.raises(ValueError, match="1 x 1"):
        InterpretableMask()(torch.rand(2, 3, 1, 1))


def test_half_precision_keeps_its_type_and_has_the_centre_of_float32():
    x = sparse_maps(4, 8, 14, 14, dtype=torch.float32).bfloat16()
    found = InterpretableMask(centre="centroid")(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), InterpretableMask(centre="centroid")(x.float()), rtol=0.01, atol=0.0)


def test_into_a_network():
    plain, masked = network(), network()
    mask = insert_mask(masked, "0.1", "paper", "centroid")
    assert repr(mask) == "InterpretableMask(template='paper', centre='centroid')"
    x = torch.randn(4, 1, 6, 6)
    features = plain[0](x)
    torch.testing.assert_close(masked[0](x), mask(features))
    torch.testing.assert_close(masked(x), plain[1:](mask(features)))
    assert not torch.allclose(masked(x), plain(x))
    assert masked.state_dict().keys() == plain.state_dict().keys()


def test_after_a_layer_with_weights():
    masked = network().eval()
    mask = insert_mask(masked, "0")
    assert not mask.training
    assert "0.0.0.weight" in masked.state_dict()
    assert masked[0][1] is mask


def test_layers_that_cannot_be_masked():
    net = network()
    for name in ("9", "0.9", "9.0", "0.0.weight"):
        with pytest.raises(LayerError, match=f"no layer '{name}'"):
            insert_mask(net, name)
    with pytest.raises(LayerError, match="whole network"):
        insert_mask(net, "")
    insert_mask(net, "0")
    with pytest.raises(LayerError, match="has a mask already"):
        insert_mask(net, "0")
