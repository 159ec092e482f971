"""A probe leaves no trace: flags, buffers, gradients, random state, modes."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_interp.probing.session import probing


def randoms():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_flags_come_back_one_by_one():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.BatchNorm2d(3))
    net[0].eval()  # frozen in part
    before = [m.training for m in net.modules()]
    with probing(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == before == [True, False, True, True]


@pytest.mark.parametrize("fails", [False, True])
def test_random_state_comes_back(fails):
    def consume():
        with probing(nn.ReLU()):
            randoms()
            if fails:
                raise ZeroDivisionError

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = randoms()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    if fails:
        with pytest.raises(ZeroDivisionError):
            consume()
    else:
        consume()
    assert randoms() == expected


class Adapts(nn.Module):
    """Counts its calls and averages its inputs, in eval mode too; replaces one of its buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.full((2,), float("nan")))
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.calls += 1
        self.mean.copy_(x)
        self.last = x.clone()
        return x


def test_buffers_come_back_as_they_were():
    net = Adapts()
    kept = net.last
    with probing(net):
        net(torch.ones(2))
        assert net.calls == 1
    assert net.calls == 0
    assert net.mean.isnan().all()
    assert net.last is kept
    assert not kept.any()
    assert list(dict(net.named_buffers())) == ["calls", "mean", "last"]


def test_no_gradients_inside_and_the_old_mode_after():
    net = nn.Conv2d(3, 2, 1)
    with probing(net):
        assert not net(torch.zeros(1, 3, 2, 2)).requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad():
        with probing(net):
            pass
        assert not torch.is_grad_enabled()
    assert net.weight.grad is None


def test_tensors_made_inside_are_usable_outside_of_inference_mode():
    net = nn.Conv2d(3, 2, 1)
    with torch.inference_mode():
        with probing(net):
            output = net(torch.zeros(1, 3, 2, 2))
        assert torch.is_inference_mode_enabled()
    assert not output.is_inference()
    output.requires_grad_()


def test_everything_comes_back_after_an_error():
    net = nn.Sequential(Adapts(), nn.Dropout())

    def fail():
        with probing(net):
            net(torch.ones(2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert net.training
    assert net[1].training
    assert net[0].calls == 0
    assert torch.is_grad_enabled()


def test_blocks_may_be_nested():
    net = nn.Sequential(nn.Dropout())
    with probing(net):
        with probing(net):
            pass
        assert not net.training
        assert not torch.is_grad_enabled()
    assert net.training
