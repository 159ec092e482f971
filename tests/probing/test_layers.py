import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.layers import canonical_name, named_layers, resolve_layers


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x):
        return self.layer2(self.layer1(self.stem(x)))


class Wrapper(nn.Module):
    """What compilation and sharding put around a module."""

    def __init__(self, inner, name):
        super().__init__()
        self.add_module(name, inner)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["stem"], ["stem"]),
        (["layer2.1", "stem"], ["layer2.1", "stem"]),
        (["layer*"], ["layer1", "layer2"]),
        (["layer?.0"], ["layer1.0", "layer2.0"]),
        (["layer[12]"], ["layer1", "layer2"]),
        (["*"], ["stem", "layer1", "layer2"]),
        (["layer2", "layer*"], ["layer2", "layer1"]),
        (["stem", "stem"], ["stem"]),
    ],
)
def test_names_and_globs(names, found):
    net = Net()
    layers = resolve_layers(net, names)
    assert list(layers) == found
    assert all(layers[name] is net.get_submodule(name) for name in found)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("stem", r"layers must be a list of names; write layers=\['stem'\]"),
        ([], "no layer given"),
        ([""], "stands for the whole network"),
        (["layr1"], "unknown layer 'layr1'; did you mean 'layer1'"),
        (["zzzzzzzzz"], "unknown layer 'zzzzzzzzz'; the layers are stem, layer1"),
        (["conv*"], r"no layer matches 'conv\*'; the layers are stem"),
        (["layer*.*.conv"], "no layer matches"),
        (["Stem*"], "no layer matches"),  # upper and lower case differ on every system
    ],
)
def test_names_that_do_not_resolve(names, message):
    with pytest.raises(LayerError, match=message):
        resolve_layers(Net(), names)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_are_no_part_of_a_name(wrapper):
    net = Net()
    net.layer1 = outer = Wrapper(net.layer1, wrapper)
    layers = named_layers(net)
    assert layers["layer1"] is outer
    assert layers["layer1.0"] is getattr(outer, wrapper)[0]
    assert canonical_name(f"layer1.{wrapper}.0") == "layer1.0"
    # A name copied from named_modules() is understood too.
    assert list(resolve_layers(net, [f"layer1.{wrapper}.0"])) == ["layer1.0"]


def test_a_wrapped_root():
    net = Wrapper(Net(), "_orig_mod")
    assert resolve_layers(net, ["stem"])["stem"] is net.get_submodule("_orig_mod.stem")


def test_messages_stay_short():
    deep = nn.Sequential(*(nn.ReLU() for _ in range(100)))
    with pytest.raises(LayerError, match=r"10, 11, \.\.\. \(100 in all\)"):
        resolve_layers(deep, ["nothing*"])


def test_compiled_submodule_is_found_under_its_own_name():
    net = Net()
    net.layer1 = torch.compile(net.layer1, backend="eager")
    assert resolve_layers(net, ["layer1.0"])["layer1.0"] is net.get_submodule("layer1._orig_mod.0")
