"""Which layer a decoder fits, and what is drawn of which images: with a decoder that shows the maps as they are."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_interp.errors import DatasetError
from lightning_interp.methods.graph.engine import GraphLearner
from lightning_interp.methods.graph.options import GraphOptions
from lightning_interp.methods.graph.synthesis import check_decoder, draw_images
from tests.helpers.harmless import count_hooks, global_flags, random_state
from tests.helpers.parts import SpotProbe, spot_model

IMAGES = 9
# Of nine images, evenly spaced.
SHOWN = [0, 1, 3, 4, 6, 7]


def shade(probe):
    """Normalised, as most networks want it."""
    probe.normalize = (0.25, 0.5, 0.0), (0.5, 0.5, 1.0)
    return probe


class Showing(nn.Module):
    """Draws the first three filters as red, green and blue."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, maps):
        return maps[:, :3]


@pytest.fixture(scope="module")
def learnt():
    """Of the filters of ``spot_model``, which are the images' red and green, of the same size as the image."""
    learner = GraphLearner(shade(SpotProbe(IMAGES)), ["0"], GraphOptions(patterns=4, iterations=3), batch_size=4)
    return learner, learner(spot_model())


def test_all_of_a_map_and_what_is_left_of_it(learnt):
    learner, graph = learnt
    drawn = draw_images(Showing(), graph, learner, spot_model())
    assert drawn.layer == "0"
    images = torch.stack([learner.probe.image(index) for index in SHOWN])
    assert torch.equal(drawn.images, images)
    normalised = (images[:, :2] - torch.tensor([0.25, 0.5])[:, None, None]) / 0.5
    assert torch.allclose(drawn.made.full[:, :2], normalised)
    kept = drawn.made.kept
    assert torch.equal(kept, drawn.made.full.where(kept != 0, 0.0))
    assert (kept != 0).any()
    assert (kept == 0).any()
    assert ((drawn.made.chance != 0).flatten(1).sum(1) > 0).all()
    assert (drawn.made.blank == 0).all()
    assert ((drawn.made.share > 0) & (drawn.made.share < 1)).all()


def test_pruned_patterns_keep_nothing(learnt):
    learner, graph = learnt
    kept = draw_images(Showing(), graph, learner, spot_model()).made.kept
    shown = int((kept != 0).sum((0, 2, 3)).argmax())
    gone = [name for name in graph.layers[0].names() if name.startswith(f"0/{shown}/")]
    assert len(gone) == 4
    kept = draw_images(Showing(), graph.prune(gone), learner, spot_model()).made.kept
    assert (kept[:, shown] == 0).all()
    assert (kept != 0).any()


def test_mirror_images_are_drawn_where_the_graph_is_of_those(learnt):
    learner, graph = learnt
    mirrored = torch.arange(IMAGES) % 2 == 1
    graph = replace(graph, learnt_from=replace(graph.learnt_from, mirrored=mirrored))
    drawn = draw_images(Showing(), graph, learner, spot_model())
    for row, index in enumerate(SHOWN):
        image = learner.probe.image(index)
        assert torch.equal(drawn.images[row], image.flip(2) if index % 2 else image), index
    # The network has seen them so.
    normalised = (drawn.images[:, 0] - 0.25) / 0.5
    assert torch.allclose(drawn.made.full[:, 0], normalised)


def test_few_images_are_all_drawn():
    learner = GraphLearner(SpotProbe(4), ["0"], GraphOptions(patterns=2, iterations=2), batch_size=4)
    drawn = draw_images(Showing(), learner(spot_model()), learner, spot_model())
    assert len(drawn.images) == len(drawn.made.full) == 4


def test_it_is_called_as_it_is_told(learnt):
    learner, graph = learnt
    model = spot_model()
    drawn = draw_images(Showing(), graph, learner, model, lambda images: model(images / 2))
    straight = draw_images(Showing(), graph, learner, model)
    assert torch.allclose(drawn.made.full[:, :2] * 2, straight.made.full[:, :2])


class Noisy(nn.Module):
    """Random in train mode, counts in any."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, maps):
        self.calls += 1
        return self.drop(self.norm(maps))[:, :3]


def test_network_and_decoder_are_left_as_they_were(learnt):
    learner, graph = learnt
    model, decoder = spot_model(), Noisy()
    model[1].eval()
    modes = [part.training for part in (*model.modules(), *decoder.modules())]
    before = random_state(), global_flags()
    check_decoder(decoder, learner)
    one, two = (draw_images(decoder, graph, learner, model).made.full for _ in range(2))
    assert torch.equal(one, two)
    assert (random_state(), global_flags()) == before
    assert [part.training for part in (*model.modules(), *decoder.modules())] == modes
    assert (decoder.calls, decoder.norm.num_batches_tracked) == (0, 0)
    assert count_hooks(model) == 0


@pytest.fixture(scope="module")
def two_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU())
    learner = GraphLearner(SpotProbe(4), ["3", "1"], GraphOptions(patterns=2, iterations=2), batch_size=4)
    learner.describe(net)
    return learner


def drawer(filters, size=16):
    return nn.Sequential(nn.Conv2d(filters, 3, 1), nn.Upsample(size=(size, size)))


def test_the_layer_whose_maps_it_takes(two_layers):
    assert check_decoder(drawer(5), two_layers) == "3"
    assert check_decoder(drawer(4), two_layers) == "1"
    # Of any number of filters: the first.
    assert check_decoder(nn.Sequential(Showing(), nn.Upsample(scale_factor=2)), two_layers) == "3"


@pytest.mark.parametrize(
    ("decoder", "text"),
    [
        (drawer(7), r"3: Given groups=1, weight of size \[3, 7, 1, 1\]"),
        (drawer(4, size=20), r"1: draws \(1, 3, 20, 20\), not \(1, 3, 16, 16\)"),
        (nn.Flatten(), r"3: draws \(1, 320\), .*1: draws \(1, 256\)"),
    ],
    ids=["filters", "size", "no images"],
)
def test_a_decoder_of_something_else_says_why(two_layers, decoder, text):
    with pytest.raises(
        DatasetError, match=rf"fits none of the layers \(.*{text}.*\); recipes/graph_decoder trains one"
    ):
        check_decoder(decoder, two_layers)


def test_what_draws_nothing_is_no_decoder(two_layers):
    class Nothing(nn.Module):
        def forward(self, maps):
            return None

    with pytest.raises(DatasetError, match="fits none of the layers"):
        check_decoder(Nothing(), two_layers)
