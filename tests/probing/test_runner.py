import pytest
import torch
from torch import nn

from lightning_interp.data.loading import ProbeBatch
from lightning_interp.errors import DatasetError, LayerError
from lightning_interp.probing.runner import Stopped, module_device, module_dtype, prepare, run


def batch(count, size=4, skipped=()):
    images = torch.arange(float(size))[:, None, None, None].expand(size, 3, 2, 2)
    return ProbeBatch(images if count else torch.empty(0), list(range(count)), [None] * count, list(skipped))


class Seen:
    def __init__(self):
        self.maps = []

    def update(self, batch, maps):
        self.maps.append((batch.indices, {name: m.clone() for name, m in maps.items()}))


def test_every_pass_sees_the_rows_that_count():
    net, one, two = nn.Sequential(nn.Identity(), nn.ReLU()), Seen(), Seen()
    calls = []
    net.register_forward_pre_hook(lambda m, args: calls.append(args[0].shape[0]))
    run(net, [batch(4), batch(3)], [one, two], layers={"0": net[0]})
    assert calls == [4, 4]  # the padded rows run, too: every batch has one shape
    assert [indices for indices, _ in one.maps] == [[0, 1, 2, 3], [0, 1, 2]]
    assert one.maps[1][1]["0"][:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert len(two.maps) == 2


def test_batches_without_a_readable_image_are_passed_over():
    net, seen, done = nn.Sequential(nn.Identity()), Seen(), []
    run(net, [batch(0, skipped=[(7, "bad"), (8, "bad")]), batch(2)], [seen], layers={"0": net[0]}, progress=done.append)
    assert [indices for indices, _ in seen.maps] == [[0, 1]]
    assert done == [2, 2]


def test_stops_between_batches():
    net, seen, answers = nn.Sequential(nn.Identity()), Seen(), iter([False, True])
    with pytest.raises(Stopped):
        run(net, [batch(4), batch(4)], [seen], layers={"0": net[0]}, should_stop=lambda: next(answers))
    assert len(seen.maps) == 1
    assert not net[0]._forward_hooks


def test_a_layer_that_does_not_run():
    net = nn.Sequential(nn.Identity())
    with pytest.raises(LayerError, match="'other' ran 0 times"):
        run(net, [batch(4)], [Seen()], layers={"other": nn.ReLU()})


def test_forward_replaces_the_call():
    net, seen = nn.Sequential(nn.Identity()), Seen()
    run(net, [batch(1)], [seen], layers={"0": net[0]}, forward=lambda images: net[0](images * 2 + 1))
    assert seen.maps[0][1]["0"].unique().tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_as_the_network_takes_them(dtype):
    net = nn.Conv2d(3, 1, 1).to(dtype)
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None]
    prepared = prepare(images, net, ((0.5, 0.0, 1.0), (1.0, 2.0, 0.5)))
    assert prepared.dtype == dtype
    assert prepared.flatten().float().tolist() == pytest.approx([-0.5, 0.1, 0.0], rel=1e-2)
    assert prepare(images / 255, net, None).flatten().float().tolist() == pytest.approx([0.0, 0.2, 1.0], rel=1e-2)


def test_normalisation_for_another_number_of_channels():
    with pytest.raises(DatasetError, match="normalize is for 3 channels; the images have 1"):
        prepare(torch.zeros(2, 1, 4, 4), nn.ReLU(), ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)))


def test_networks_without_parameters():
    assert module_device(nn.ReLU()) == torch.device("cpu")
    assert module_dtype(nn.ReLU()) == torch.float32
    assert module_device(nn.BatchNorm2d(2, affine=False)) == torch.device("cpu")
