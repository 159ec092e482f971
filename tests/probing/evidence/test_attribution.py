import pytest
import torch
from torch import nn

from lightning_interp.functional.heads import attribute_logit
from lightning_interp.probing.evidence.attribution import ATTRIBUTIONS, captum_heat
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.session import probing
from tests.helpers.harmless import module_state, random_state

pytest.importorskip("captum")

BY_CAPTUM = [method for method in ATTRIBUTIONS if method != "gradient_x_activation"]


def make_net(classes=2, *, bias=True, seed=0):
    """In-place ReLUs behind and before, pooling, two convolutions after the layer ``2``."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes, bias=bias),
    )


def scorer(labels, names=None, target="lipstick"):
    return lambda outputs: attribute_logit(outputs.double(), target, names, labels)


# One logit, one of several attributes, two classes, the true one of more: what is attributed is s itself.
HEADS = {"one": (1, None), "named": (3, ("makeup", "lipstick", "smile")), "two classes": (2, None), "five": (5, None)}


def make_tail(net, images, name="2", names=None):
    return Tail(net.get_submodule(name), name, images, net, scorer(torch.arange(len(images)) % 5, names))


def heat_of(method, net, images, name="2", names=None):
    with probing(net):
        return captum_heat(method, make_tail(net, images, name, names), net)


def slopes(tail, maps):
    """Gradient of s at activations, one image at a time by the tail's own sum."""
    maps = maps.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(tail(maps).sum(), maps)[0]


class Quadrants(nn.Module):
    """``z00 + 3 z03 - 2 z11`` of channels 0 and 1 of the image itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        z = self.layer(x)
        return z[:, 0, 0, 0] + 3 * z[:, 0, 1, 1] - 2 * z[:, 1, 0, 1]


def test_grad_cam_by_hand():
    image = torch.tensor([[[[1.0, 2], [3, 4]], [[2, 0], [4, 6]]]])
    # Mean gradients are 1 and -1/2.
    assert heat_of("grad_cam", Quadrants(), image, "layer").tolist() == [[[0, 2], [1, 1]]]


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(x).square().sum((1, 2, 3))


def test_integrated_gradients_by_hand():
    image = torch.tensor([[[[0.0, 0.5], [1, 0.5]]]])
    # z^2 less that of the mean colour, 1/2.
    expected = torch.tensor([[[-0.25, 0], [0.75, 0]]])
    assert torch.allclose(heat_of("integrated_gradients", Squares(), image, "layer"), expected, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_grad_cam_is_a_slow_reference(head):
    classes, names = HEADS[head]
    net, images = make_net(classes), torch.rand(5, 3, 16, 16)
    found = heat_of("grad_cam", net, images, names=names)
    tail = make_tail(net, images, names=names)
    maps = tail.maps(images)
    slope = slopes(tail, maps)
    for b in range(5):
        expected = sum(slope[b, c].mean() * maps[b, c] for c in range(maps.shape[1]))
        assert torch.allclose(found[b], expected, atol=1e-6)
    assert float(found.min()) < 0 < float(found.max())


@pytest.mark.parametrize("head", HEADS)
def test_integrated_gradients_is_a_slow_reference_and_complete(head):
    classes, names = HEADS[head]
    net, images = make_net(classes), torch.rand(5, 3, 16, 16)
    found = heat_of("integrated_gradients", net, images, names=names)
    with torch.no_grad():
        tail = make_tail(net, images, names=names)
        uniform = images.mean((2, 3), keepdim=True).expand_as(images)
        start, end = tail.maps(uniform), tail.maps(images)
        change = tail(end) - tail(start)
    mean = sum(slopes(tail, start + (end - start) * (i + 0.5) / 400) for i in range(400)) / 400
    expected = ((end - start) * mean).sum(1)
    scale = float(expected.abs().sum((1, 2)).mean())
    assert float((found - expected).abs().sum((1, 2)).max()) < 0.05 * scale
    assert float((found.sum((1, 2)) - change).abs().max()) < 0.02 * scale
    assert float(change.abs().max()) > 1e-3


@pytest.mark.parametrize("method", BY_CAPTUM)
@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4", "6"])
def test_batch_is_its_images_at_any_layer(method, name):
    net, images = make_net(2), torch.rand(6, 3, 16, 16)
    whole = heat_of(method, net, images, name)
    alone = torch.cat([heat_of(method, net, image[None], name) for image in images])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert float(whole.abs().sum()) > 0
    assert whole.shape[1:] == net[: int(name) + 1](images).shape[2:]


@pytest.mark.parametrize("method", BY_CAPTUM)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_no_trace_is_left_whatever_the_mode(method, mode, frozen):
    net, images = make_net(), torch.rand(2, 3, 16, 16)
    net(images).sum().backward()
    net.requires_grad_(not frozen)
    before = traces(net), random_state()
    with mode():
        found = heat_of(method, net, images)
    assert (traces(net), random_state()) == before
    assert not found.requires_grad
    assert torch.equal(found, heat_of(method, make_net(), images))
    assert float(found.abs().sum()) > 0


def traces(net):
    """Everything of a network, and where its weights lie."""
    attributes = {name: {k: str(v) for k, v in vars(part).items()} for name, part in net.named_modules()}
    return module_state(net) | {"storage": [p.data_ptr() for p in net.parameters()], "all attributes": attributes}


class Fails(nn.Module):
    """Goes wrong in the given forward pass."""

    def __init__(self, when):
        super().__init__()
        self.net, self.left = make_net(), when

    def forward(self, x):
        x = self.net[:8](x)
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("gone wrong")
        return self.net[8:](x)


# By its forward passes: to the maps, to the gradients; to the baseline, to a step; to the layers, to the weights.
@pytest.mark.parametrize(
    ("method", "when"),
    [
        *[("grad_cam", when) for when in (1, 2)],
        *[("integrated_gradients", when) for when in (2, 9)],
        *[("lrp", when) for when in (2, 3, 4)],
    ],
)
def test_no_trace_is_left_after_an_error(method, when):
    net = Fails(when)
    before = traces(net.net)
    with pytest.raises(RuntimeError, match="gone wrong"):
        heat_of(method, net, torch.rand(2, 3, 16, 16), "net.2")
    assert traces(net.net) == before
