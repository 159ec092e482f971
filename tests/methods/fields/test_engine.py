"""Empirical receptive fields: exact on planted units, smaller than theory on random networks."""

import pytest
import torch
from torch import nn

from lightning_interp.data.probe import Labels, ProbeSet
from lightning_interp.errors import LayerError
from lightning_interp.methods.fields.engine import field_size, occlusion_fields


class Dots(ProbeSet):
    """Grey noise with one bright dot, elsewhere in each image."""

    concepts, mask_size, normalize = (), (4, 4), None
    places = ((8, 8), (12, 5), (5, 13))

    def __init__(self, size=(20, 22)):
        self.size = size

    def __len__(self):
        return len(self.places)

    def image(self, index):
        noise = torch.rand(3, *self.size, generator=torch.Generator().manual_seed(index))
        image = (noise * 40).to(torch.uint8)
        image[(slice(None), *self.places[index])] = 255
        return image

    def labels(self, index):
        return Labels()


def planted(kernel=3, dilation=1, stride=1):
    """A first convolution that sums a patch, then one that may look at 5 x 5 of these but takes the middle alone."""
    first = nn.Conv2d(3, 2, kernel, padding=dilation * (kernel // 2), dilation=dilation, stride=stride)
    second = nn.Conv2d(2, 2, 5, padding=2)
    with torch.no_grad():
        for layer in (first, second):
            layer.bias.zero_()
        first.weight.fill_(1.0)
        second.weight.zero_()
        second.weight[0, 0, 2, 2] = second.weight[1, 1, 2, 2] = 1.0
    return nn.Sequential(first, second)


def seen(field):
    """Rows and columns, from the centre, of pixels with a change."""
    height, width = field.shape
    return {(y - height // 2, x - width // 2) for y, x in (field.nan_to_num() > 1e-4).nonzero().tolist()}


def test_a_unit_that_looks_at_a_patch_has_exactly_this_field():
    fields = occlusion_fields(planted(), "1", Dots(), {1: [0, 1, 2]}, patch=1, stride=1)
    assert fields.theoretical == (7, 7)
    assert seen(fields.maps[0]) == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert fields.maps.shape == (1, 20, 22)
    assert (fields.units, fields.images, fields.layer) == ((1,), (3,), "1")


def test_the_unit_at_the_very_dot_has_a_field_of_one_pixel():
    fields = occlusion_fields(planted(kernel=1), "1", Dots(), {0: [0, 1, 2]}, patch=1, stride=1)
    assert seen(fields.maps[0]) == {(0, 0)}
    assert fields.sizes == (1.0,)
    # Three changes at one pixel, each by a random colour; shuffled, each at another: their sum over their maximum.
    assert 2 < fields.contrasts[0] <= 3


def test_holes_and_steps_are_seen():
    dilated = occlusion_fields(planted(dilation=2), "1", Dots(), {0: [0, 2]}, patch=1, stride=1)
    assert seen(dilated.maps[0]) == {(y, x) for y in (-2, 0, 2) for x in (-2, 0, 2)}
    stepped = occlusion_fields(planted(kernel=2, stride=2), "0", Dots(), {0: [0]}, patch=1, stride=1)
    # An even field has its centre at the upper of the two middle pixels, here the second.
    assert seen(stepped.maps[0]) == {(y, x) for y in (-1, 0) for x in (-1, 0)}


def test_a_patch_spreads_a_change_over_its_side():
    """A single pixel under patches of 3: those that cover it are centred within 1, and reach within 2."""
    fields = occlusion_fields(planted(kernel=1), "1", Dots(), {0: [0]}, patch=3, stride=1)
    assert seen(fields.maps[0]) == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    values = fields.maps[0][8:13, 9:14]
    assert values.argmax() == 12
    assert 2 <= fields.sizes[0] <= 3
    coarse = occlusion_fields(planted(kernel=1), "1", Dots(), {0: [0]}, patch=3, stride=2)
    assert seen(coarse.maps[0]) <= seen(fields.maps[0])


def reference(net, image, peak, patch, stride, seed):
    """The same by loops over single images, with the noise drawn in the same order."""
    generator, x = torch.Generator().manual_seed(seed), image.float() / 255
    starts = [sorted({*range(0, n - patch, stride), n - patch}) for n in x.shape[1:]]
    places = [(r, c) for r in starts[0] for c in starts[1]]
    total, cover = torch.zeros(x.shape[1:]), torch.zeros(x.shape[1:])
    noises = torch.rand(len(places), 3, patch, patch, generator=generator)
    low, high = x.amin((1, 2))[:, None, None], x.amax((1, 2))[:, None, None]
    with torch.no_grad():
        own = net(x[None])[0, 0, peak[0], peak[1]]
        for (r, c), noise in zip(places, noises, strict=True):
            hidden = x.clone()
            hidden[:, r : r + patch, c : c + patch] = low + (high - low) * noise
            change = (net(hidden[None])[0, 0, peak[0], peak[1]] - own).abs()
            total[r : r + patch, c : c + patch] += change
            cover[r : r + patch, c : c + patch] += 1
    return total / cover


def test_maps_are_those_of_a_slow_loop():
    torch.manual_seed(0)
    net, probe = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)), Dots()
    with torch.no_grad():
        peak = divmod(int(net(probe.image(1)[None].float() / 255)[0, 0].argmax()), 22)
    # All places in one batch, so that the noise is one draw.
    fields = occlusion_fields(net, "2", probe, {0: [1]}, patch=4, stride=3, batch_size=999, seed=5)
    expected = torch.full((20, 22), torch.nan)
    change = reference(net, probe.image(1), peak, 4, 3, 5)
    for y in range(20):
        for x in range(22):
            row, column = y - 10 + peak[0], x - 11 + peak[1]
            if 0 <= row < 20 and 0 <= column < 22:
                expected[y, x] = change[row, column]
    torch.testing.assert_close(fields.maps[0], expected, equal_nan=True)


def test_random_networks_look_at_less_than_their_theoretical_field():
    torch.manual_seed(1)
    layers = [layer for i in range(8) for layer in (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(*layers)
    fields = occlusion_fields(
        net, "15", Dots((24, 24)), {u: [0, 1] for u in range(8)}, patch=2, stride=2, batch_size=300
    )
    assert fields.theoretical == (17, 17)
    live = [size for size in fields.sizes if size]
    assert live
    assert all(size < 15 for size in live)
    assert sum(live) / len(live) < 12


class Positional(nn.Module):
    """Runs on images of 20 x 22 pixels only."""

    def __init__(self):
        super().__init__()
        self.conv, self.place = nn.Conv2d(3, 2, 2, stride=2), nn.Parameter(torch.zeros(1, 2, 10, 11))
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.conv(x) + self.place)


def test_a_network_of_fixed_input_size_is_taken_by_cells():
    fields = occlusion_fields(Positional(), "out", Dots(), {0: [0]}, patch=2, stride=2)
    assert fields.theoretical is None
    assert fields.maps.isfinite().any()


class Gate(nn.Module):
    """Every value depends on the whole image."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 2, 4, stride=4), nn.Identity()

    def forward(self, x):
        return self.out(0 * self.conv(x) + x.mean((1, 2, 3), keepdim=True))


def test_a_unit_that_looks_everywhere_is_as_wide_as_by_chance():
    """It has no theoretical field, and its first peak is in the first cell, whose centre is (1.5, 1.5)."""
    fields = occlusion_fields(Gate(), "out", Dots((20, 24)), {0: [0]}, patch=4, stride=4)
    assert fields.theoretical is None
    reached = torch.zeros(20, 24, dtype=torch.bool)
    reached[8:, 10:] = True
    assert torch.equal(fields.maps[0].isfinite(), reached)
    assert fields.contrasts[0] < 1.3
    assert fields.sizes[0] > 0.8 * (12 * 14) ** 0.5


def test_pixels_that_few_images_reach_are_unknown():
    """Dots in rows 8, 12 and 5 of 20: at most one image reaches further up than 8 or down than 11 from its peak."""
    fields = occlusion_fields(planted(kernel=1), "1", Dots(), {0: [0, 1, 2]}, patch=2, stride=2)
    known = fields.maps[0].isfinite()
    assert known.any(1).nonzero().flatten().tolist() == list(range(10 - 8, 10 + 10))
    assert known.any(0).nonzero().flatten().tolist() == list(range(11 - 8, 11 + 11))


def test_units_may_share_images_and_lists_may_have_gaps():
    net = planted()
    both = occlusion_fields(net, "1", Dots(), {0: [2, -1], 1: [0, 2]}, patch=1, stride=1)
    assert both.images == (1, 2)
    assert seen(both.maps[0]) == seen(both.maps[1])


def test_the_same_seed_gives_the_same_and_the_network_and_random_state_stay():
    net, state = planted().train(), torch.get_rng_state()
    one, two = (occlusion_fields(net, "1", Dots(), {0: [0]}, patch=2, stride=2, seed=3) for _ in range(2))
    assert torch.equal(one.maps.nan_to_num(), two.maps.nan_to_num())
    assert one.contrasts == two.contrasts
    other = occlusion_fields(net, "1", Dots(), {0: [0]}, patch=2, stride=2, seed=4)
    assert not torch.equal(one.maps.nan_to_num(), other.maps.nan_to_num())
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_hooks for part in net.modules())


def test_a_dead_unit_has_no_field():
    net = planted()
    nn.init.zeros_(net[1].weight)
    fields = occlusion_fields(net, "1", Dots(), {0: [0]}, patch=4, stride=4)
    assert fields.sizes == (0.0,)
    assert fields.contrasts[0] != fields.contrasts[0]


def test_size_of_a_field_by_hand():
    field = torch.tensor([[torch.nan, 1.0, 4.0], [2.0, 2.1, 3.0], [0.0, 0.0, 3.0]])
    assert field_size(field) == 2.0  # 4, 2.1, 3 and 3 are above 2
    assert field_size(torch.full((3, 3), torch.nan)) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": {}}, "at least one unit"),
        ({"top": {0: [-1]}}, "at least one image of each"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"patch": 2, "stride": 3}, "not stride=3 and patch=2"),
        ({"patch": 21}, "<= patch <= 20"),
        ({"stride": 0}, "not stride=0"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    request = {"top": {0: [0]}, "patch": 2, "stride": 2} | change
    with pytest.raises(ValueError, match=message):
        occlusion_fields(planted(), "1", Dots(), **request)


def test_unknown_layers_and_units_and_values_that_are_not_finite_are_refused():
    with pytest.raises(LayerError, match="unknown layer"):
        occlusion_fields(planted(), "9", Dots(), {0: [0]})
    with pytest.raises(LayerError, match="layer '1' has 2 units; there is no 2"):
        occlusion_fields(planted(), "1", Dots(), {0: [0], 2: [0]})
    net = planted()
    nn.init.constant_(net[0].bias, torch.inf)
    with pytest.raises(LayerError, match="unit 0 has values that are not finite"):
        occlusion_fields(net, "0", Dots(), {0: [0]}, patch=2, stride=2)
