from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lightning_interp.errors import LayerError
from lightning_interp.probing.evidence.rules import check_lrp, relevance
from lightning_interp.probing.evidence.tail import Tail
from lightning_interp.probing.session import probing
from tests.probing.evidence.test_attribution import HEADS, make_net, make_tail, slopes, traces

pytest.importorskip("captum")


def relevance_of(net, images, name="2", names=None, **options):
    with probing(net):
        tail = make_tail(net, images, name, names)
        maps = tail.maps(images)
        return relevance(tail, maps.clone().requires_grad_(), net, **options), maps, tail


def by_hand():
    """One pixel, two channels; two units of weights (1, -1/4) and (2, 1); a score of 3 and -1 times those."""
    net = nn.Sequential(nn.Identity(), nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten())
    net.append(nn.Linear(2, 1, bias=False))
    net[1].weight.data = torch.tensor([[1, -0.25], [2, 1]])[..., None, None]
    net[4].weight.data = torch.tensor([[3.0, -1]])
    return net, torch.tensor([1.0, 2])[None, :, None, None]


def test_rules_by_hand():
    net, image = by_hand()
    # The units are 0.5 and 4, so their relevance is 1.5 and -4.
    plain = relevance_of(net, image, "0", gamma=0)[0]
    assert plain.flatten().tolist() == pytest.approx([1 / 0.5 * 1.5 - 2 / 4 * 4, -0.5 / 0.5 * 1.5 - 2 / 4 * 4])
    # A quarter more of positive weights: (1.25, -0.25) and (2.5, 1.25).
    gamma = relevance_of(net, image, "0")[0]
    assert gamma.flatten().tolist() == pytest.approx([1.25 / 0.75 * 1.5 - 2.5 / 5 * 4, -0.5 / 0.75 * 1.5 - 2.5 / 5 * 4])
    assert float(gamma.sum()) == pytest.approx(net(image).item()) == pytest.approx(-2.5)


@pytest.mark.parametrize("head", ["one", "named", "two classes"])
@pytest.mark.parametrize("name", ["0", "1", "2", "4", "6"])
def test_relevance_is_conserved_without_biases(head, name):
    classes, names = HEADS[head]
    net, images = make_net(classes, bias=False), torch.rand(4, 3, 16, 16)
    found, _, tail = relevance_of(net, images, name, names)
    score = tail.score(net(images)).detach()
    assert torch.allclose(found.double().sum((1, 2, 3)), score, atol=1e-5)
    assert float(score.abs().min()) > 1e-4


def test_biases_take_their_share():
    net, images = make_net(1), torch.rand(4, 3, 16, 16)
    found, _, tail = relevance_of(net, images)
    assert float((found.sum((1, 2, 3)) - tail.score(net(images)).detach()).abs().min()) > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_without_gamma_it_is_gradient_times_activation(head):
    classes, names = HEADS[head]
    net, images = make_net(classes), torch.rand(4, 3, 16, 16)
    found, maps, tail = relevance_of(net, images, names=names, gamma=0)
    assert torch.allclose(found, maps * slopes(tail, maps), atol=1e-6)
    preferring, _, _ = relevance_of(net, images, names=names)
    assert float((preferring - found).abs().sum()) > 0.05 * float(found.abs().sum())


def test_gamma_says_nothing_new_of_the_last_convolution():
    net, images = make_net(), torch.rand(4, 3, 16, 16)
    found, maps, tail = relevance_of(net, images, "6")
    assert torch.allclose(found, maps * slopes(tail, maps), atol=1e-6)


def check(net, name):
    with probing(net):
        check_lrp(make_tail(net, torch.rand(2, 3, 16, 16), name), net)


class Added(nn.Module):
    """As a residual block: a sum that is no layer."""

    def __init__(self):
        super().__init__()
        self.net, self.extra = make_net(), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.net[:3](x)
        return self.net[3:](x + self.extra(x))


class Averaged(nn.Module):
    """A mean that is no layer."""

    def __init__(self):
        super().__init__()
        self.net, self.act = make_net(), nn.SiLU()

    def forward(self, x):
        return self.net[9](self.net[:7](self.act(x)).mean((2, 3)))


@pytest.mark.parametrize(("net", "name"), [(Added, "net.2"), (Averaged, "net.2"), (Averaged, "net.6")])
def test_what_forward_does_without_a_layer_is_refused(net, name):
    with pytest.raises(LayerError, match=f"after layer '{name}' without a layer, such as a sum or a mean"):
        check(net(), name)


def test_what_comes_before_the_layer_or_never_runs_is_no_matter():
    check(Added(), "net.3")
    net = make_net()
    net[0] = nn.Sequential(net[0], nn.SiLU())
    net.unused = nn.ModuleList([nn.GELU(), nn.CrossEntropyLoss()])
    net.forward = lambda x: nn.Sequential(*list(net)[:10])(x)
    check(net, "2")


def with_layer(at, layer):
    net = make_net()
    net[at] = layer
    return net


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.same = make_net(), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.net[3:](self.same(self.same(self.net[:3](x))))


class Own(nn.Conv2d):
    """A subclass may do anything."""


BAD = {
    "unknown": (
        with_layer(4, nn.SiLU()),
        "2",
        r"no rule for '4' \(SiLU\) after layer '2', for Conv2d, .*'grad_cam' or",
    ),
    "subclass": (with_layer(5, Own(8, 6, 3)), "2", r"'5' \(Own\)"),
    "twice": (Twice(), "net.2", "more than once: 'same'; name a later layer"),
}


@pytest.mark.parametrize("name", BAD)
def test_layer_that_has_no_rule_is_named_and_no_trace_is_left(name):
    net, layer, text = BAD[name]
    before = traces(net)
    with pytest.raises(LayerError, match=text):
        check(net, layer)
    assert traces(net) == before


def test_layers_that_change_no_value_are_no_matter():
    """Captum's hooks do not bear a layer that hands on the very tensor that it got."""
    images = torch.rand(2, 3, 16, 16)
    expected = relevance_of(make_net(), images)[0]
    for idle in (nn.Identity(), nn.Dropout(), nn.Flatten(0, 0)):
        for at in (3, 4, 5, 6, 8):
            net = make_net()
            net[at] = nn.Sequential(net[at], idle)
            check(net, "2")
            assert torch.equal(relevance_of(net, images)[0], expected)


def test_batch_norm_and_other_pools_have_rules():
    net = make_net()
    net[3], net[7] = nn.Sequential(net[3], nn.BatchNorm2d(8)), nn.AdaptiveMaxPool2d(1)
    net[4] = nn.Sequential(net[4], nn.AvgPool2d(2), nn.MaxPool2d(3, 1, padding=1))
    net(torch.rand(8, 3, 16, 16))
    check(net, "2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_borne_or_named(dtype):
    net, images = make_net(), torch.rand(2, 3, 16, 16)

    def answer(images):
        with torch.autocast("cpu", dtype=dtype):
            return net(images).float()

    tail = Tail(net[2], "2", images, answer, lambda outputs: outputs[:, 1])
    borne, refused = nullcontext(), pytest.raises(LayerError, match="float16 is too coarse for it; take 'grad_cam'")
    with probing(net), borne if dtype == torch.bfloat16 else refused:
        check_lrp(tail, net)


def test_relu_may_run_twice():
    net = make_net()
    net[6] = net[4]
    check(net, "2")


def test_attribute_of_the_same_name_is_left_alone():
    net = make_net()
    net[3].rule, net[4].rule, net[3].activations = "mine", "mine too", [1]
    expected = relevance_of(make_net(), images := torch.rand(2, 3, 16, 16))[0]
    assert torch.equal(relevance_of(net, images)[0], expected)
    assert (net[3].rule, net[4].rule, net[3].activations) == ("mine", "mine too", [1])
    assert not hasattr(net[5], "rule")


def test_inside_of_a_block_and_block_say_the_same():
    plain, images = make_net(), torch.rand(2, 3, 16, 16)
    block = nn.Sequential(plain[:3], plain[3:])
    with probing(block):
        tail = Tail(block[0], "0", images, block, lambda outputs: outputs[:, 1])
        found = relevance(tail, tail.maps(images).requires_grad_(), block)
        tail = Tail(plain[2], "2", images, plain, lambda outputs: outputs[:, 1])
        assert torch.equal(found, relevance(tail, tail.maps(images).requires_grad_(), plain))
