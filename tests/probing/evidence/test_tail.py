import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.evidence.tail import Tail
from tests.helpers.harmless import count_hooks
from tests.helpers.models import small_cnn


def make_tail(net, name, images):
    return Tail(net.get_submodule(name), name, images, net, lambda outputs: outputs[:, 0])


@pytest.mark.parametrize("at", range(5))
def test_it_is_the_score_as_a_function_of_the_activations(at):
    net, images = small_cnn(), torch.rand(3, 3, 12, 12)
    tail = make_tail(net, str(at), images)
    maps = tail.maps(images)
    assert torch.equal(maps, net[: at + 1](images))
    other = torch.rand_like(maps)
    for given in (maps, other):
        before = given.clone()
        # A layer that follows may work in place, on its copy.
        assert torch.equal(tail(given), net[at + 1 :](before.clone())[:, 0])
        assert torch.equal(given, before)
    assert count_hooks(net) == 0


def test_nothing_of_the_network_is_among_its_children():
    net = small_cnn()
    tail = make_tail(net, "1", torch.rand(1, 3, 12, 12))
    assert not list(tail.parameters())
    assert not set(net.modules()) & set(tail.modules())


def test_hook_is_gone_after_an_error():
    net = small_cnn()
    tail = make_tail(net, "3", torch.rand(2, 3, 12, 12))
    with pytest.raises(RuntimeError):
        tail(torch.rand(2, 5, 3, 3))
    assert count_hooks(net) == 0


def test_layer_without_maps_is_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(LayerError, match="'0' gives shape"):
        make_tail(net, "0", torch.rand(1, 3, 2, 2)).maps(torch.rand(1, 3, 2, 2))
