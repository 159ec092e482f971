"""Receptive-field centres, measured, against geometry known by hand."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.methods.dissection.engine import _anchored, dissect
from lightning_interp.probing.receptive import ReceptiveField, _AxisProbe, receptive_axis, receptive_field
from lightning_interp.probing.session import probing
from tests.helpers.probes import RandomProbe


def axis_of(net, name, size=(32, 32), axis=0):
    net = net.eval()
    with probing(net):
        return receptive_axis(net, net.get_submodule(name), name, size, 3, axis)


def expected_axis(steps):
    """Fields of size s at lo + i * j for (kernel, stride, padding, dilation) steps; the centre is lo + s // 2."""
    low, size, jump = 0, 1, 1
    for kernel, stride, padding, dilation in steps:
        low -= padding * jump
        size += (kernel - 1) * dilation * jump
        jump *= stride
    return low + size // 2, float(jump)


# (kernel, stride, padding, dilation) of every layer.
STACKS = [
    [(1, 1, 0, 1)],
    [(3, 1, 1, 1)],
    [(3, 1, 0, 1)],
    [(2, 2, 0, 1)],  # even size: the centre is the upper of the two middle pixels
    [(4, 2, 1, 1)],
    [(3, 1, 2, 2)],
    [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1)],
    [(11, 4, 0, 1), (3, 2, 0, 1), (5, 1, 2, 1)],
    [(3, 1, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (2, 2, 0, 1)],
]


@pytest.mark.parametrize("steps", STACKS)
def test_convolutions_by_hand(steps):
    widths = [3] + [4] * len(steps)
    convolutions = [
        nn.Conv2d(widths[i], widths[i + 1], k, stride=s, padding=p, dilation=d) for i, (k, s, p, d) in enumerate(steps)
    ]
    net = nn.Sequential(*(layer for c in convolutions for layer in (c, nn.BatchNorm2d(4), nn.ReLU())))
    assert axis_of(net, str(len(net) - 1)) == expected_axis(steps)


def test_pools_and_saturating_activations():
    layers = (
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU6(),
        nn.MaxPool2d(3, 2),
        nn.Hardswish(),
        nn.AvgPool2d(2, 2),
        nn.GELU(),
    )
    expected = expected_axis([(3, 1, 1, 1), (3, 2, 0, 1), (2, 2, 0, 1)])
    assert axis_of(nn.Sequential(*layers), "5") == expected


def test_axes_are_measured_apart():
    net = nn.Sequential(nn.Conv2d(3, 2, (3, 7), stride=(1, 2), padding=(1, 0)))
    assert axis_of(net, "0", axis=0) == (0, 1.0)
    assert axis_of(net, "0", axis=1) == (3, 2.0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(3, 4, 1, stride=2)
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.wide(x) + self.narrow(x))


def test_branches_are_joined():
    assert axis_of(Residual(), "out") == expected_axis([(3, 2, 1, 1)])


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.out = nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        return self.out(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


def test_a_layer_that_sees_the_whole_image_has_no_centre():
    with pytest.raises(LayerError, match=r"layer 'out' sees the whole image .* use upsample='cell'"):
        axis_of(Squeeze(), "out")


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_layer_finer_than_whole_pixels_is_refused(mode, factor):
    """Values less than a pixel apart, or unevenly: no first centre and step describes them."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Upsample(scale_factor=factor, mode=mode))
    with pytest.raises(LayerError, match="use upsample='cell'"):
        axis_of(net, "1")


class Positional(nn.Module):
    """Runs on images of 32 x 32 pixels only."""

    def __init__(self):
        super().__init__()
        self.conv, self.place = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Parameter(torch.zeros(1, 4, 16, 16))
        self.out = nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        return self.out(x + self.place)


class Sparing(nn.Module):
    """Runs its last layer on images with something bright only."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, x):
        return self.out(self.conv(x)) if x.nan_to_num().amax() > 0 else self.conv(x)


def test_a_network_of_fixed_input_size_is_refused_with_the_way_out():
    message = r"layer 'out' .* image of 160 x 96 pixels .*RuntimeError: The size of tensor.*; use upsample='cell'"
    with pytest.raises(LayerError, match=message):
        axis_of(Positional(), "out")
    net = Positional()
    with pytest.raises(LayerError, match="image of 96 x 160 pixels"):
        axis_of(net, "out", axis=1)
    assert not net.out._forward_hooks


def test_a_layer_that_does_not_run_is_refused():
    with pytest.raises(LayerError, match=r"layer 'out' does not run on .* use upsample='cell'"):
        axis_of(Sparing(), "out")


def test_network_without_parameters_or_in_double_precision():
    assert axis_of(nn.Sequential(nn.AvgPool2d(2)), "0") == (1, 2.0)
    assert axis_of(nn.Sequential(nn.Conv2d(3, 2, 3)).double(), "0") == (1, 1.0)


def test_leaves_no_hook():
    net = Residual()
    axis_of(net, "out")
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize(
    ("mask", "anchors"), [((12, 12), (0.0, 2.0, 4.0)), ((24, 24), (1.0, 5.0, 9.0)), ((6, 6), (0.0, 1.0, 2.0))]
)
def test_anchors_on_the_mask_are_floored_as_netdissects(mask, anchors):
    """Fields [-1, 3), [3, 7)... are centred at 1, 5, 9... of 24 pixels; half of that is floored, the step is not."""
    net = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4, padding=1))
    layer = dissect(net, RandomProbe(3), ["0"], upsample="receptive_field", mask_size=mask, batch_size=3)["0"]
    assert layer.anchors[0][:3] == anchors


# Of 4 channels, with the geometry of the published networks: resnet18 up to layer4, VGG-16 up to features.29.
RESNET18 = [(7, 2, 3, 1), (3, 2, 1, 1), *[(3, 1, 1, 1)] * 4, *[(3, 2, 1, 1), *[(3, 1, 1, 1)] * 3] * 3]
VGG16 = [
    step for convolutions in (2, 2, 3, 3, 3) for step in ([(3, 1, 1, 1)] * convolutions + [(2, 2, 0, 1)])
][:-1]  # fmt: skip


def chain(steps):
    layers = [nn.Conv2d(3 if i == 0 else 2, 2, k, s, p) for i, (k, s, p, _) in enumerate(steps)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("steps", "length", "expected"),
    [(RESNET18, 7, [16 * i for i in range(7)]), (VGG16, 14, [4 + 8 * i for i in range(14)])],
    ids=["resnet18", "vgg16"],
)
def test_published_anchors(steps, length, expected):
    """NetDissect's own composition gives 0, 16, ..., 96 of 112 for ResNets and 4, 12, ..., 108 for VGG-16."""
    first, step = axis_of(chain(steps), str(len(steps) - 1), (224, 224))
    assert (first, step) == expected_axis(steps)
    assert [first // 2 + i * step / 2 for i in range(length)] == expected


def test_anchors_of_caffenet_are_netdissects():
    # conv5 at 227 px on masks of 113: first centre 16 or 17, step 16; NetDissect has 8, 16, ..., 104.
    assert _anchored(13, 227, 113, 17, 16.0).anchors == tuple(range(8, 105, 8))
    # No whole reduction: in proportion.
    assert _anchored(4, 64, 48, 8, 16.0).anchors == (6.0, 18.0, 30.0, 42.0)


def field_of(net, name, size=(224, 224), axis=0):
    net = net.eval()
    with probing(net):
        return receptive_field(net, net.get_submodule(name), name, size, 3, axis)


def expected_field(steps):
    low, size, jump = 0, 1, 1
    for kernel, stride, padding, dilation in steps:
        low -= padding * jump
        size += (kernel - 1) * dilation * jump
        jump *= stride
    return ReceptiveField(low, size, jump)


@pytest.mark.parametrize("steps", STACKS)
def test_sizes_by_hand(steps):
    net = chain(steps)
    for layer, (_, _, _, dilation) in zip(net, steps, strict=True):
        layer.dilation = (dilation, dilation)
    assert field_of(net, str(len(steps) - 1), (32, 32)) == expected_field(steps)


def test_centres_of_even_and_odd_fields():
    assert ReceptiveField(-1, 3, 1).centre == 0
    assert ReceptiveField(-90, 196, 16).centre == 7.5


def test_the_longest_branch_counts():
    assert field_of(Residual(), "out", (32, 32)) == ReceptiveField(-1, 3, 2)


# Expanded by: kernel 1, kernel 3 with the stride, kernel 1; repeats after the first have stride 1.
MOBILENET_V2 = [(3, 2, 1, 1)] + [
    (3, stride if first else 1, 1, 1)
    for repeats, stride in ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
    for first in [True, *[False] * (repeats - 1)]
]


def test_published_sizes():
    """VGG-16 conv5_3: 196 pixels every 16; ResNet-18's layer4: 435 every 32 (Araujo et al. 2019)."""
    assert expected_field(VGG16) == ReceptiveField(-90, 196, 16)
    assert (expected_field(RESNET18).size, expected_field(RESNET18).stride) == (435, 32)
    assert field_of(chain(VGG16), "16") == ReceptiveField(-90, 196, 16)


def test_a_real_network_with_inverted_residuals():
    net = torchvision.models.mobilenet_v2(weights=None, width_mult=0.1)
    found = field_of(net, "features.17.conv.3", (64, 64))
    assert found == expected_field(MOBILENET_V2)
    assert (found.size, found.stride) == (491, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layer", "steps"), [("resnet18", "layer4", RESNET18), ("vgg16", "features.28", VGG16)]
)
def test_fields_of_the_real_networks(network, layer, steps):
    assert field_of(getattr(torchvision.models, network)(weights=None), layer) == expected_field(steps)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(7), nn.AdaptiveMaxPool2d(5)])
def test_fields_that_grow_with_the_image_are_refused(pool):
    net = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), pool)
    with pytest.raises(LayerError, match=r"layer '1' grow with the image|do not follow one another"):
        field_of(net, "1", (64, 64))


def test_one_value_for_the_whole_image_has_no_field():
    with pytest.raises(LayerError, match="sees the whole image"):
        field_of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1)), "1", (32, 32))


def test_a_guess_changes_nothing_but_the_number_of_forward_passes(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 2, 5, 2, 2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 2, 3, dilation=2)).eval()
    passes = []
    output = _AxisProbe._output
    monkeypatch.setattr(_AxisProbe, "_output", lambda self, image: passes.append(0) or output(self, image))

    def measured(guess):
        passes.clear()
        return receptive_field(net, net[2], "2", (64, 64), 3, 0, guess=guess), len(passes)

    plain, searched = measured(None)
    again, confirmed = measured(plain)
    assert again == plain == ReceptiveField(start=-4, size=25, stride=4)
    assert confirmed <= searched - 10
    for wrong in (replace(plain, start=-999), replace(plain, size=26), replace(plain, stride=8)):
        assert measured(wrong)[0] == plain
