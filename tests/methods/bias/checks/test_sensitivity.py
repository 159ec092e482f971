import math

import pytest
import torch
from torch import nn

from lightning_interp.methods.bias.checks.sensitivity import Background
from tests.helpers.bias import MOUTH, SIZE, Additive, Heads, all_versions, ask, biased, look_at, make_diagnoser, values

CHECKS = ["noise", "background", "gradient"]


def test_noise_hurts_where_the_network_looks():
    # With weights of 8 and of colours of 0.5, noise of 0.25 averages out over the part; a hundred times the weight of
    # one pixel does not.
    mouth, lids = (values(ask(Pixel(at), biased(), checks=["noise"])) for at in ("mouth", "lids"))
    assert mouth["rfs/makeup"] > 0.1
    assert lids["rfs/makeup"] < -0.1


class Pixel(nn.Module):
    """Looks at a single pixel of a part."""

    def __init__(self, part):
        super().__init__()
        self.layer, self.at = nn.Identity(), (0, 16, 10, 125.0) if part == "mouth" else (2, 6, 10, 120.0)

    def forward(self, x):
        channel, row, column, middle = self.at
        return 10 * (self.layer(x)[:, channel, row, column] - (middle + 19.5) / 255)


def test_noise_of_an_image_does_not_depend_on_its_batch():
    small, large = (values(ask(Pixel("mouth"), biased(), checks=["noise"], batch_size=n)) for n in (3, 64))
    assert small == large


def test_image_without_the_region_does_not_count():
    result = ask(Additive(6, 4), biased(without_mouth=range(7)), checks=CHECKS)
    assert {name: result.scores[name].count for name in ("rfs/makeup", "rrr")} == {"rfs/makeup": 33, "rrr": 33}
    assert result.scores["background_gap"].count <= 33


def test_constant_network_has_no_sensitivity():
    found = values(ask(Additive(0, 0), biased(), checks=["noise"]))
    assert math.isnan(found["rfs/makeup"])


def test_background_comes_from_images_that_show_the_region():
    probe, model = biased(without_mouth=range(4, 40)), Additive(0, 8)
    # Two of each label are left, so that each has the other as donor.
    assert ask(model, probe, checks=["background"]).scores["background_gap"].count == 4
    diagnoser = make_diagnoser(probe, checks=["background"])
    view = look_at(diagnoser, model, range(40))
    for donors in Background(diagnoser.asked).donors:
        _, masks, known = view.fetch_donors(donors)
        assert known.tolist() == [True] * 4 + [False] * 36
        assert masks["mouth"][known].flatten(1).any(1).all()


def test_background_gap_is_that_of_the_context():
    # Everything but the mouth comes from the donor, so a network of the mouth alone does not mind...
    assert values(ask(Additive(8, 0), biased(), checks=["background"]))["background_gap"] == 0
    # ...and one of the lids answers as the donor: 0.9 right for one of the same label, half for any.
    result = ask(Additive(0, 8), biased(), checks=["background"])
    assert 0.2 < values(result)["background_gap"] < 0.6
    assert result.scores["background_gap"].count == 40


@pytest.mark.parametrize(
    ("region", "context", "share"),
    [
        (8.0, 0.0, 0.0),
        (0.0, 8.0, 1.0),
        (6.0, 6.0, (1 / 32) / (1 / 24 + 1 / 32)),
        (6.0, 3.0, (1 / 128) / (1 / 24 + 1 / 128)),
    ],
)
def test_share_of_the_squared_input_gradient_outside(region, context, share):
    """The gradient is w / area in each part, times one factor for both."""
    one = Additive(region, context)
    score = ask(one, all_versions(), checks=["gradient"]).scores["rrr"]
    assert score.value == pytest.approx(share, abs=1e-5)
    assert score.count == 48
    assert score.chance == pytest.approx(1 - int(MOUTH.sum()) / SIZE**2)
    two = Heads(Additive(0, 0, centred=False), one)
    assert values(ask(two, all_versions(), checks=["gradient"]))["rrr"] == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("target", "share"), [((8, 0), 0), ((0, 8), 1)])
def test_input_gradient_is_of_the_target_alone_whatever_the_other_outputs_look_at(target, share):
    two = Heads(Additive(5, 7), Additive(*target))
    found = values(ask(two, biased(), checks=["gradient"], outputs=["makeup", "lipstick"]))
    assert found["rrr"] == pytest.approx(share, abs=1e-6)


def test_gradients_leave_no_trace():
    model = Additive(6, 4)
    ask(model, biased(), checks=CHECKS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_off_unless_asked_for():
    assert not {"rfs/makeup", "background_gap", "rrr"} & set(values(ask(Additive(6, 4), biased())))
