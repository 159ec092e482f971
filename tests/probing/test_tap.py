import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.session import probing
from lightning_interp.probing.tap import tap


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.shared(self.shared(x))


class Gives(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.layer = nn.Identity()
        self.layer.forward = lambda x: output

    def forward(self, x):
        return self.layer(x)


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def test_takes_a_copy_that_a_later_in_place_layer_cannot_change():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 5, 5)
    with tap({"0": net[0]}) as taps:
        net(x)
        maps = taps.collect()["0"]
    assert torch.equal(maps, net[0](x).detach())
    assert (maps < 0).any()
    assert not maps.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_are_float32_and_contiguous(dtype):
    output = torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last)
    net = Gives(output)
    with tap({"layer": net.layer}) as taps:
        net(torch.zeros(1))
        maps = taps.collect()["layer"]
    assert maps.dtype == torch.float32
    assert maps.is_contiguous()
    assert torch.equal(maps, output.float())


def test_collect_starts_anew():
    net = nn.Conv2d(3, 4, 1)
    with tap({"conv": net}) as taps:
        assert taps.fired("conv") == 0
        net(torch.zeros(1, 3, 2, 2))
        assert taps.fired("conv") == 1
        taps.collect()
        assert taps.fired("conv") == 0
        with pytest.raises(LayerError, match="ran 0 times"):
            taps.collect()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("shared", "'shared' ran 2 times in a forward pass, expected 1; tap a submodule that runs once"),
        ("unused", "'unused' ran 0 times in a forward pass, expected 1; the forward pass does not use it"),
    ],
)
def test_a_layer_must_run_once(layer, message):
    net = Twice()
    with tap({layer: net.get_submodule(layer)}) as taps:
        net(torch.zeros(1, 3, 2, 2))
        with pytest.raises(LayerError, match=message):
            taps.collect()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((torch.zeros(1, 2, 3, 3),), "gives a tuple; expected one tensor"),
        (torch.zeros(1, 2), r"gives shape \(1, 2\) \(torch.float32\); expected float maps"),
        (torch.zeros(1, 2, 3), r"gives shape \(1, 2, 3\)"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.complex64), "torch.complex64"),
    ],
)
def test_a_layer_must_give_maps(output, message):
    net = Gives(output)
    with tap({"layer": net.layer}) as taps:
        net(torch.zeros(1))
        with pytest.raises(LayerError, match=message):
            taps.collect()


def test_hooks_end_with_the_block_and_with_an_error():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with tap({"0": net[0], "1": net[1]}):
        assert hooks(net) == 2
    assert hooks(net) == 0
    with pytest.raises(ZeroDivisionError), tap({"0": net[0]}):
        raise ZeroDivisionError
    assert hooks(net) == 0


def test_no_hook_is_left_when_one_cannot_be_set():
    net = nn.Sequential(nn.ReLU())
    with pytest.raises(AttributeError), tap({"0": net[0], "1": None}):
        pass
    assert hooks(net) == 0


def test_fires_on_a_compiled_part_that_has_warmed_up():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    net[0] = torch.compile(net[0], backend="eager")
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        net(x)
    with probing(net), tap({"0": net[0]}) as taps:
        net(x)
        assert taps.fired("0") == 1
    torch._dynamo.reset()
