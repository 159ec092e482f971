import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.methods.bias.maths.relations import contributions
from lightning_interp.probing.evidence.gradients import layer_gradients
from lightning_interp.probing.session import probing
from tests.helpers.harmless import module_state
from tests.helpers.models import small_cnn


def slopes_by_hand(net, images, at):
    """Gradients of every logit at the output of the layer ``at``, one image and one logit at a time."""
    rows = []
    for image in images:
        maps = net[:at](image[None]).detach().requires_grad_()
        # A copy, for the layer that follows may work in place.
        logits = net[at:](maps.clone())[0]
        rows.append(torch.stack([torch.autograd.grad(logit, maps, retain_graph=True)[0][0] for logit in logits]))
    return torch.stack(rows)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_slopes_are_the_gradients_of_each_logit_at_the_layers_output(at):
    net, images = small_cnn(), torch.rand(3, 3, 12, 12)
    found = layer_gradients(net[at - 1], str(at - 1), images, net)
    assert torch.equal(found.maps, net[:at](images).detach())
    expected = slopes_by_hand(net, images, at)
    assert found.slopes.shape == (3, 2, *found.maps.shape[1:])
    assert torch.allclose(found.slopes, expected, atol=1e-7)
    assert float(expected.abs().max()) > 0


def test_contributions_of_a_head_without_bias_sum_to_the_logit():
    net, images = small_cnn(), torch.rand(5, 3, 12, 12)
    net[-1].bias = net[2].bias = None
    found = layer_gradients(net[1], "1", images, net)
    totals = contributions(found.slopes, found.maps).sum((2, 3, 4))
    assert torch.allclose(totals, net(images), atol=1e-6)


def test_with_a_bias_they_do_not():
    net, images = small_cnn(), torch.rand(5, 3, 12, 12)
    found = layer_gradients(net[3], "3", images, net)
    totals = contributions(found.slopes, found.maps).sum((2, 3, 4))
    assert torch.allclose(totals + net[-1].bias, net(images), atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_trace_is_left_on_the_network_whatever_the_mode(mode):
    net, images = small_cnn(), torch.rand(2, 3, 12, 12)
    net(images).sum().backward()
    before = module_state(net)
    with mode(), probing(net):
        found = layer_gradients(net[1], "1", images, net)
    assert module_state(net) == before
    assert not found.maps.requires_grad
    assert not found.slopes.requires_grad
    assert torch.equal(found.slopes, layer_gradients(net[1], "1", images, net).slopes)


def test_frozen_network_has_slopes_too():
    net = small_cnn().requires_grad_(False)
    assert float(layer_gradients(net[1], "1", torch.rand(2, 3, 12, 12), net).slopes.abs().sum()) > 0


class Odd(nn.Module):
    """Runs one layer twice, one never, one without using what it gives."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.pair = Pair()

    def forward(self, x):
        self.unused(x)
        return self.twice(self.twice(self.pair(x)[0])).mean((2, 3))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("twice", "ran 2 times"),
        ("never", "ran 0 times"),
        ("pair", "expected one tensor"),
        ("unused", "output 0 does not depend on layer 'unused'"),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_layer_that_does_not_fit_is_refused_and_no_hook_stays(name, text, frozen):
    net = Odd().requires_grad_(not frozen)
    layer = getattr(net, name)
    with pytest.raises(LayerError, match=text):
        layer_gradients(layer, name, torch.rand(2, 3, 4, 4), net)
    assert not layer._forward_hooks


def test_hook_is_gone_after_an_error_of_the_network():
    net = small_cnn()
    with pytest.raises(RuntimeError):
        layer_gradients(net[0], "0", torch.rand(2, 1, 12, 12), net)
    assert not net[0]._forward_hooks
