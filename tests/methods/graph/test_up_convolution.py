"""The decoder draws the mean image at first, learns what maps say, and comes back from its weights."""

import pytest
import torch
from torch import nn

from lightning_interp import DatasetError
from lightning_interp.methods.graph.up_convolution import UpConvolution


def dots(count, seed=0):
    """Images of 16 x 24 pixels with one bright dot, and 4 x 6 maps of two filters, one of which sees it."""
    generator = torch.Generator().manual_seed(seed)
    maps, images = torch.zeros(count, 2, 4, 6), torch.zeros(count, 3, 16, 24)
    for i in range(count):
        row, column = (int(torch.randint(side, (), generator=generator)) for side in (4, 6))
        maps[i, 0, row, column] = 50
        images[i, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    return maps, images


@pytest.mark.parametrize(
    ("map_size", "image_size", "doublings"),
    [
        ((4, 6), (16, 24), 2),
        ((7, 7), (224, 224), 5),
        ((10, 10), (75, 75), 3),
        ((5, 5), (5, 5), 0),
        ((3, 8), (12, 16), 2),
    ],
)
def test_sizes_are_reached(map_size, image_size, doublings):
    maps, images = torch.rand(2, 5, *map_size), torch.rand(2, 3, *image_size)
    decoder = UpConvolution.for_maps(maps, images, width=8)
    assert len(decoder.doublings) == doublings
    assert decoder(maps).shape == images.shape


def test_an_untrained_one_draws_the_mean_image():
    maps, images = dots(8)
    drawn = UpConvolution.for_maps(maps, images, width=4)(maps)
    assert torch.allclose(drawn, images.mean(0).expand_as(drawn))


def test_filters_are_scaled_by_their_root_mean_square_and_silent_ones_are_not():
    maps, images = dots(8)
    scale = UpConvolution.for_maps(maps, images, width=4).scale
    assert scale.tolist() == pytest.approx([(50**2 / 24) ** 0.5, 1])


def test_scaled_filters_draw_the_same():
    maps, images = dots(8)
    factor = torch.tensor([3.0, 7.0])[:, None, None]
    drawn = []
    for times in (1, factor):
        torch.manual_seed(0)
        decoder = UpConvolution.for_maps(maps * times, images, width=4)
        nn.init.normal_(decoder.output.weight)
        drawn.append(decoder(maps * times))
    assert torch.allclose(*drawn, atol=1e-5)


def test_it_learns_where_the_dot_is_and_nothing_where_maps_say_nothing():
    maps, images = dots(32)
    test_maps, test_images = dots(32, seed=1)
    errors = []
    for told in (maps, maps.roll(1, 0)):
        torch.manual_seed(0)
        decoder = UpConvolution.for_maps(maps, images, width=8)
        optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.mse_loss(decoder(told), images).backward()
            optimizer.step()
        errors.append(nn.functional.mse_loss(decoder(test_maps), test_images).item())
    blind = nn.functional.mse_loss(images.mean(0).expand_as(test_images), test_images).item()
    assert errors[0] < 0.1 * blind
    assert errors[1] > 0.9 * blind


def test_it_comes_back_from_its_weights():
    maps, images = torch.rand(2, 5, 4, 4), torch.rand(2, 3, 30, 30)
    decoder = UpConvolution.for_maps(maps, images, width=24)
    nn.init.normal_(decoder.output.weight)
    back = UpConvolution.from_state(decoder.state_dict())
    assert torch.equal(back(maps), decoder(maps))
    assert not back.training


@pytest.mark.parametrize("change", ["empty", "foreign", "cut", "more"])
def test_other_weights_are_refused(change):
    state = UpConvolution(torch.ones(2), torch.zeros(3, 8, 8), 2, width=4).state_dict()
    states = {
        "empty": {},
        "foreign": nn.Linear(2, 2).state_dict(),
        "cut": {name: value for name, value in state.items() if name != "doublings.1.bias"},
        "more": {**state, "head.weight": torch.ones(2)},
    }
    with pytest.raises(DatasetError, match="not the weights of an up-convolution"):
        UpConvolution.from_state(states[change])


def test_maps_of_another_layer_are_refused():
    with pytest.raises(DatasetError, match="this decoder is for 2 filters, not 3"):
        UpConvolution(torch.ones(2), torch.zeros(3, 8, 8), 2)(torch.ones(1, 3, 2, 2))


def test_maps_larger_than_images_are_refused():
    with pytest.raises(DatasetError, match="maps of 9 x 9 pixels are larger than their images of 8 x 8 pixels"):
        UpConvolution.for_maps(torch.ones(1, 2, 9, 9), torch.ones(1, 3, 8, 8))
